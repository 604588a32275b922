"""The runs under tests/fixtures/models, to iterate over. tools/make_model_fixtures.py says what a folder holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fixtures import FIXTURES

if TYPE_CHECKING:
    from pathlib import Path

    import torch

ROOT = FIXTURES / "models"


@dataclass(frozen=True)
class ModelCase:
    """One fine-tune: its checkpoint, the base it started from, and what the live engine said."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """The Trainer's `checkpoint-N`."""
        return self.folder / "checkpoint"

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return json.loads((self.folder / "provenance.json").read_text())

    @property
    def recipe(self) -> str:
        """`causal`, or the FlagEmbedding runner: `m3`, `embedder`, `llm_embedder`, `reranker`, `llm_reranker`."""
        return self.provenance["case"]["recipe"]

    @property
    def stage(self) -> int:
        return self.provenance["case"]["stage"]

    @property
    def base(self) -> Path:
        """The original model's directory."""
        return ROOT / "_bases" / self.provenance["case"]["base"]

    @property
    def has_adapter(self) -> bool:
        return (self.checkpoint / "adapter_config.json").exists()

    @property
    def expected(self) -> dict[str, torch.Tensor]:
        """Live name -> float32 master, or frozen value in its own dtype."""
        from safetensors.torch import load_file

        return load_file(self.folder / "expected.safetensors")

    @property
    def outputs(self) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, and `live.*`, `float32.*`, `merged.*`, `flag.*`."""
        from safetensors.torch import load_file

        return load_file(self.folder / "outputs.safetensors")


def model_cases(*recipes: str, adapter: bool | None = None) -> list[ModelCase]:
    """All cases, or those of the recipes; `adapter` keeps those with, or without, a peft adapter."""
    cases = [ModelCase(folder) for folder in sorted(ROOT.iterdir()) if not folder.name.startswith("_")]
    return [
        case
        for case in cases
        if (not recipes or case.recipe in recipes) and (adapter is None or case.has_adapter == adapter)
    ]
