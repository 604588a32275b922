"""The cases under tests/fixtures/reported, and what is right for them.

What an adapter run merges to is told by PEFT itself: a model of the base's class with the live engine's values in it.
tools/keep_reported.py says what a folder holds.
"""

from __future__ import annotations

import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent / "fixtures" / "reported"
INNER_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


class Case:
    """One report: a checkpoint, its base where there is one, and the engine's values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = ROOT / name
        self.checkpoint = self.folder / "ckpt"
        self.base = self.folder / "base"

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return json.loads((self.folder / "provenance.json").read_text())

    @cached_property
    def truth(self) -> dict[str, torch.Tensor]:
        """The parameters by their names without wrappers inside; buffers left out."""
        values = load_file(self.folder / "truth.safetensors")
        return {plain(name): value for name, value in values.items() if not name.startswith("buffer:")}

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """Those that were trained: frozen ones are in 16 bits."""
        return {name: value for name, value in self.truth.items() if value.dtype == torch.float32}

    def peft_model(self, base: torch.nn.Module) -> Any:
        """`base` under the run's adapter, with every trained value in it."""
        import peft

        model = peft.get_peft_model(base, peft.PeftConfig.from_pretrained(self.checkpoint))
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self.trained.items():
                own[name].copy_(value)
        return model

    def merged(self, base: torch.nn.Module) -> dict[str, torch.Tensor]:
        """What PEFT makes of it."""
        return self.peft_model(base).merge_and_unload().state_dict()


def plain(name: str) -> str:
    for wrapper in INNER_WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def load(cls: Any, folder: Path) -> torch.nn.Module:
    """The model in `folder`, in float32; asserts that transformers found every parameter and nothing else."""
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return model


def load_adapter(base: torch.nn.Module, folder: Path) -> Any:
    """The adapter in `folder` on `base`; asserts that PEFT found every parameter of it."""
    import peft

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(base, folder)


def differing(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """Names of which one of the two has no tensor, or another."""
    return [
        name
        for name in sorted(found.keys() | expected.keys())
        if name not in found or name not in expected or not torch.equal(found[name], expected[name])
    ]
