"""A kind of output is added from here without touching the package: what lies beside its weights, what comes last."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from fixtures import FIXTURES

from zeroconsolidate.opening.opened import open_to_convert
from zeroconsolidate.options import Options
from zeroconsolidate.outputs.make import make
from zeroconsolidate.outputs.model import plan_output
from zeroconsolidate.outputs.output import Output, SideFiles
from zeroconsolidate.outputs.report import report_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from zeroconsolidate.run.inputs import Inputs

CASE = FIXTURES / "z3_bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized(Output):
    """Weights with a list of their sizes, which becomes visible before them."""

    def side_files(self, inputs: Inputs) -> SideFiles:
        sizes = {tensor.name: tensor.nbytes for tensor in self.plan.tensors()}
        made = {"sizes/list.json": json.dumps(sizes).encode()}
        return SideFiles(copies={}, made=made, notes=("the sizes are listed",), warnings=())

    def load_line(self, directory: str, side_files: SideFiles) -> str:
        return f"sized.load({directory!r})"

    @property
    def published_last(self) -> Sequence[str]:
        return ("model.safetensors",)


def test_a_new_kind_of_output_is_written_like_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, directory = Options(), str(tmp_path / "out")
    opened = open_to_convert(str(CASE / "checkpoint"), options)
    planned = plan_output(opened, options)
    output = Sized(**{field.name: getattr(planned, field.name) for field in fields(Output)})
    renamed = watch_renames(monkeypatch)
    made = make(output, opened, options, directory)
    report = report_of(output, opened, made, directory=directory, seconds=1.0, check=options.check)
    assert report.load_line == f"sized.load({directory!r})"
    assert renamed == ["list.json", "model.safetensors", "zeroconsolidate.json"]
    assert list(report.files) == ["sizes/list.json", "model.safetensors", "zeroconsolidate.json"]
    assert report.notes == ("the sizes are listed",)
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    truth = safetensors.torch.load_file(CASE / "expected.safetensors")
    assert written.keys() == truth.keys()
    assert all(torch.equal(written[name], truth[name]) for name in truth)
    sizes = json.loads((tmp_path / "out" / "sizes" / "list.json").read_text())
    assert sizes == {name: tensor.nbytes for name, tensor in truth.items()}


def watch_renames(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Final names, as they are given."""
    import os

    renamed: list[str] = []
    true = os.replace

    def replace(source: str, target: str) -> None:
        renamed.append(os.path.basename(target))
        true(source, target)

    monkeypatch.setattr(os, "replace", replace)
    return renamed
