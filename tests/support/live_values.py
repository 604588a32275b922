"""What the live engine of a fixture held, and whether a conversion says the same: bit for bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

import zeroconsolidate

if TYPE_CHECKING:
    from pathlib import Path

TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def provenance(case: Path) -> dict:
    return json.loads((case / "provenance.json").read_text())


def expected(case: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The live engine's values; parameters, frozen ones too, as `dtype`, buffers as they are."""
    buffers = set(provenance(case)["buffers"])
    values = load_file(case / "expected.safetensors")
    return {name: tensor if name in buffers else tensor.to(dtype) for name, tensor in values.items()}


def consolidate(case: Path, out: Path, **options: Any) -> zeroconsolidate.Report:
    """Convert without changing names: which names a target wants is another question, with tests of its own."""
    return zeroconsolidate.consolidate(case, out, names="stored", **options)


def assert_same(written: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    assert sorted(written) == sorted(truth)
    for name, tensor in written.items():
        assert (tensor.dtype, tensor.shape) == (truth[name].dtype, truth[name].shape), name
        assert bits(tensor) == bits(truth[name]), name


def bits(tensor: torch.Tensor) -> bytes:
    """The bits, with every NaN the same: torch does not promise a NaN's payload across casts, only that it is one."""
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        tensor = torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor)
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
