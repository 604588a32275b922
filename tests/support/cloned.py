"""What tests of cloned outputs share: checkpoints whose tensors fall on blocks, outputs tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import synthetic
import torch

import zeroconsolidate
from zeroconsolidate.archive.safetensors import read_file

if TYPE_CHECKING:
    from pathlib import Path


def consolidate(checkpoint: Path, out: Path, **options: Any) -> zeroconsolidate.Report:
    return zeroconsolidate.consolidate(checkpoint, out, names="stored", **options)


def tensors(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a model, bit for bit."""
    found = {}
    for path in directory.glob("*.safetensors"):
        data = path.read_bytes()
        for name, tensor in read_file(str(path)).tensors.items():
            stop = tensor.start + tensor.numel * tensor.dtype.itemsize
            found[name] = (tensor.dtype.code, tensor.shape, data[tensor.start : stop])
    return found


def checkpoint_in(place: Path, *, stage: int, ranks: int = 4, megabytes: float = 24) -> Path:
    """A checkpoint of 24 MB whose tensors mostly fall on blocks."""
    shapes = synthetic.shapes_of(megabytes)
    whole = {name: torch.Size([shape[0] // 64 * 64 or 64, *(n // 64 * 64 for n in shape[1:])])
             for name, shape in shapes.items()}  # fmt: skip
    root = place / f"z{stage}" / "checkpoint-5"
    synthetic.write(root, synthetic.values_of(type(shapes)(whole)), stage=stage, ranks=ranks)
    return root
