"""Files of torch with many tensors: what torch and Python's zipfile find in them."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
import torch

from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import UnsupportedLayout
from zeroconsolidate.plan.layout import TensorPlan
from zeroconsolidate.plan.patched import Zeros
from zeroconsolidate.plan.torch_file import TorchFilePlan, stored, torch_file

if TYPE_CHECKING:
    from pathlib import Path


def planned(name: str, *shape: int, dtype: DType = DType.F32) -> TensorPlan:
    numel = torch.Size(shape).numel()
    return TensorPlan(name=name, dtype=dtype, shape=shape, recipe=Zeros(numel, dtype), is_parameter=True)


def written(plan: TorchFilePlan, values: list[torch.Tensor], path: Path) -> Path:
    data, checksums = plan.header, []
    for index, value in enumerate(values):
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        assert len(data) == plan.starts[index]
        checksums.append(zlib.crc32(raw))
        data += raw + plan.behind(index, checksums[-1])
    assert len(data) == plan.tail_start
    path.write_bytes(data + plan.tail(checksums))
    assert path.stat().st_size == plan.size_bytes
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    return path


def test_tensors_ties_and_plain_values(tmp_path: Path) -> None:
    tensors = [
        planned("a", 2, 3),
        planned("empty", 0, 4),
        planned("b", dtype=DType.I64),
        planned("c", 5, dtype=DType.BF16),
    ]
    values = [torch.randn(2, 3), torch.empty(0, 4), torch.tensor(2**24 + 1), torch.randn(5).bfloat16()]
    held = [stored(key, tensor) for key, tensor in enumerate(tensors)]
    content = {
        "state_dict": {"a": held[0], "tied": held[0], "empty": held[1], "b": held[2], "c": held[3]},
        "again": [held[3], (held[0], None)],
        "epoch": 3,
    }
    path = written(torch_file("out/model.ckpt", content, tensors), values, tmp_path / "model.ckpt")
    for how in ({}, {"weights_only": False}, {"mmap": True}):
        found = torch.load(path, **how)
        assert found["epoch"] == 3
        for name, value in zip(("a", "empty", "b", "c"), values, strict=True):
            assert torch.equal(found["state_dict"][name], value)
            assert found["state_dict"][name].dtype == value.dtype
        assert found["state_dict"]["tied"] is found["state_dict"]["a"] is found["again"][1][0]
        assert found["again"][0] is found["state_dict"]["c"]


def test_no_tensors(tmp_path: Path) -> None:
    path = written(torch_file("a.bin", {"epoch": 3}, []), [], tmp_path / "a.bin")
    assert torch.load(path) == {"epoch": 3}


def test_what_cannot_be_written_is_refused() -> None:
    tensor = planned("a", 2, dtype=DType.U16)
    with pytest.raises(UnsupportedLayout, match="a tensor of uint16 cannot be written"):
        torch_file("a.bin", {"a": stored(0, tensor)}, [tensor])
