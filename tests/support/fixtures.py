"""Where the fixtures are and what lies in one. `tools/make_fixtures.py` makes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@dataclass(frozen=True)
class Fixture:
    """One folder of FIXTURES: a checkpoint and what the engine that saved it held."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """What a user would point at: the directory with `latest`."""
        return self.folder / "checkpoint"

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return json.loads((self.folder / "provenance.json").read_text())

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        """Masters (fp32), frozen parameters and buffers (both in their own dtype), by canonical name."""
        from safetensors.torch import load_file

        return load_file(self.folder / "expected.safetensors")


def fixture_cases(*, kind: str = "") -> list[str]:
    """Names of all committed fixtures that start with `kind`."""
    return sorted(path.parent.name for path in FIXTURES.glob(f"{kind}*/provenance.json"))


def load_fixture(name: str) -> Fixture:
    return Fixture(FIXTURES / name)
