"""What tests of cloned outputs share: checkpoints whose tensors fall on blocks, outputs tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import synthetic
import torch

import zeroconsolidate
from zeroconsolidate.archive.safetensors import read_file
from zeroconsolidate.opening.opened import open_to_convert
from zeroconsolidate.options import Options

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


def bend(checkpoint: Path, name: str, element: int) -> None:
    """Turn one bit of a tensor's copy in the module: the lowest of an element of 16 bits."""
    copy = open_to_convert(str(checkpoint), Options()).catalog.module[name]
    with open(copy.file, "r+b") as file:
        file.seek(copy.start + 2 * element)
        low = file.read(1)[0]
        file.seek(copy.start + 2 * element)
        file.write(bytes([low ^ 1]))
