"""Conversions of the model cases, shared by the tests of one environment."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zeroconsolidate
from zeroconsolidate.integrations import architecture
from zeroconsolidate.naming.answers import of_answer

if TYPE_CHECKING:
    from model_cases import ModelCase

    from zeroconsolidate.naming.hub_layout import Architecture


def ask_in_this_process(config: bytes) -> tuple[Architecture | None, str]:
    """In place of `asking.ask`, where transformers is loaded anyway: saves starting a process for each config."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(config)
        try:
            answer = architecture.expectation(folder)
        except Exception as error:  # noqa: BLE001  (as the process does)
            return None, f"transformers could not build the model: {error}"
    return of_answer(json.loads(json.dumps(answer))), ""


def convert(case: ModelCase, where: Path, dtype: str, **options: Any) -> Path:
    """Convert `case`, once for each place and each set of options.

    With CONVERTED_MODELS in the environment the directories are there: another environment made them with
    tools/convert_models.py.
    """
    made_elsewhere = os.environ.get("CONVERTED_MODELS")
    if made_elsewhere and not options:
        return Path(made_elsewhere) / dtype / case.name
    out = where / "-".join([case.name, dtype, *map(str, options.values())]).replace("/", "_")
    if not out.exists():
        report = zeroconsolidate.consolidate(case.checkpoint, out, dtype=dtype, **options)
        assert report.warnings == ()
        assert report.missing == ()
    return out
