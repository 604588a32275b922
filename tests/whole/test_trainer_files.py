"""Every weights file that a Trainer wrote beside its checkpoint is the cast of ours, under every name, bit for bit.

Files of tensors without elements, which ZeRO-3 leaves behind, have nothing to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from converted import ask_in_this_process
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate
from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("transformers", minversion="5")

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
PATTERNS = ("model*.safetensors", "pytorch_model*.bin", "adapter_model.*", "*_linear.pt")


def tensors_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """By their full names, whichever kind of file they are in."""
    if name.endswith(".safetensors"):
        return load_file(folder / name)
    tensors = torch.load(folder / name, weights_only=True)
    head = f"{name.removesuffix('.pt')}." if name.endswith("_linear.pt") else ""
    return {head + key: tensor for key, tensor in tensors.items()}


def written_by_trainers() -> Iterator[tuple[Path, str]]:
    for checkpoint in sorted(FIXTURES.glob("**/checkpoint")):
        for pattern in PATTERNS:
            for path in sorted(checkpoint.glob(pattern)):
                if any(tensor.numel() for tensor in tensors_of(checkpoint, path.name).values()):
                    yield checkpoint, path.name


FILES = [
    pytest.param(checkpoint, name, id=f"{checkpoint.parent.name}-{name}") for checkpoint, name in written_by_trainers()
]


def test_these_are_all_kinds() -> None:
    assert {file.values[1] for file in FILES} == {
        "model.safetensors",
        "adapter_model.safetensors",
        "colbert_linear.pt",
        "sparse_linear.pt",
    }
    assert len(FILES) >= 25


@pytest.mark.parametrize(("checkpoint", "name"), FILES)
def test_it_is_ours_cast(checkpoint: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", ask_in_this_process)
    written = tensors_of(checkpoint, name)
    for dtype in {tensor.dtype for tensor in written.values()}:
        ours = {}
        for ties in ("drop", "copy"):
            out = tmp_path / f"{ties}-{DTYPES[dtype]}"
            consolidate(checkpoint, out, dtype=DTYPES[dtype], ties=ties)
            ours[ties] = tensors_of(out, name)
        # A tied parameter may be there under one of its names, or under both, as transformers pleases.
        assert ours["drop"].keys() <= written.keys() <= ours["copy"].keys()
        for key, tensor in written.items():
            if tensor.dtype == dtype:
                found = ours["copy"][key]
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), key
                assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8)), key
