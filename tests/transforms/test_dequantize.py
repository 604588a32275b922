"""Weights that numbers and scales stand for: each is torch's float32 number times its scale, bit for bit.

`tests/models/test_quantized.py` compares them with compressed-tensors and transformers, where both are installed.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from zeroconsolidate.archive.safetensors import read_file
from zeroconsolidate.dtypes import DType
from zeroconsolidate.plan.pieces import View
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.reader import reader
from zeroconsolidate.transforms import dequantized as recipes
from zeroconsolidate.transforms.dequantized import Dequantized

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FP8 = torch.float8_e4m3fn


def packed(numbers: torch.Tensor) -> torch.Tensor:
    """int8 [rows, columns] -> int32 [rows, words], by shifts: the first number of four in the lowest bits."""
    padded = torch.nn.functional.pad(numbers.to(torch.int64) + 128, (0, -numbers.shape[1] % 4))
    words = padded.reshape(len(numbers), -1, 4) << torch.tensor([0, 8, 16, 24])
    return words.sum(-1).to(torch.uint32).view(torch.int32)


def stored(
    folder: Path, numbers: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int], block: tuple[int, int]
) -> Dequantized:
    save_file({"numbers": numbers.contiguous(), "scales": scales.contiguous()}, folder / "made.safetensors")
    tensors = read_file(str(folder / "made.safetensors")).tensors
    return Dequantized(
        base=View(tensors["numbers"]), scales=View(tensors["scales"]), rows=shape[0], columns=shape[1], block=block
    )


def read(recipe: Dequantized, cuts: Sequence[int] = ()) -> torch.Tensor:
    out = np.full(recipe.numel, 7, np.float32)
    ends = sorted({0, recipe.numel, *(cut % max(recipe.numel, 1) for cut in cuts)})
    with Inputs() as inputs:
        made = reader(recipe, inputs)
        for start, stop in itertools.pairwise(ends):
            made.fill(start, stop, out[start:stop])
    return torch.from_numpy(out).reshape(recipe.rows, recipe.columns)


def same(ours: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.equal(ours.isnan(), wanted.isnan()) and torch.equal(ours.nan_to_num(7), wanted.nan_to_num(7))


def spread(scales: torch.Tensor, shape: tuple[int, int], block: tuple[int, int]) -> torch.Tensor:
    """The scale of each element, one element at a time."""
    rows = [[scales[row // block[0], column // block[1]] for column in range(shape[1])] for row in range(shape[0])]
    return torch.tensor(rows, dtype=torch.float32).reshape(shape)


@given(data=st.data())
def test_number_times_scale_however_they_are_asked_for(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    block = data.draw(st.tuples(st.integers(1, 10), st.integers(1, 10)))
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    kind = data.draw(st.sampled_from(["fp8", "int8", "packed"]))
    bits = data.draw(st.binary(min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    numbers = torch.frombuffer(bytearray(bits), dtype=torch.uint8).view(torch.int8).reshape(shape)
    values = numbers.view(FP8).float() if kind == "fp8" else numbers.float()
    held = {"fp8": numbers.view(FP8), "int8": numbers, "packed": packed(numbers)}[kind]
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    several = st.lists(st.floats(-4, 4, width=16), min_size=grid[0] * grid[1], max_size=grid[0] * grid[1])
    scales = torch.tensor(data.draw(several), dtype=dtype).reshape(grid)
    recipe = stored(tmp_path_factory.mktemp("of"), held, scales, shape, block)
    wanted = values * spread(scales, shape, block)
    assert same(read(recipe, data.draw(st.lists(st.integers(0, 80), max_size=3))), wanted)


@pytest.mark.parametrize("block", [(128, 128), (1, 513), (300, 513)])
def test_matrices_of_several_blocks(block: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipes, "ROW_BLOCK_NUMEL", 5000)
    shape = (300, 513)
    torch.manual_seed(0)
    numbers = torch.randn(shape).to(FP8)
    scales = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    recipe = stored(tmp_path, numbers, scales, shape, block)
    wanted = scales.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]
    assert torch.equal(read(recipe, [7, 100_001]), numbers.float() * wanted)
    ends = list(recipe.block_ends)
    assert ends[-1] == recipe.numel
    assert all(end % shape[1] == 0 for end in ends)
    assert max(b - a for a, b in itertools.pairwise([0, *ends])) <= 5000
    assert recipe.memory_bytes < 5000 * 32
    assert recipe.input_bytes == numbers.numel() + 4 * scales.numel()
    assert (recipe.dtype, recipe.stored_dtype) == (DType.F32, DType.F8_E4M3)


def test_infinite_scales_are_the_models_own(tmp_path: Path):
    recipe = stored(tmp_path, torch.tensor([[1.0, 0.0]]).to(FP8), torch.tensor([[torch.inf]]), (1, 2), (1, 2))
    with np.errstate(all="raise"):
        found = read(recipe)
    assert found[0, 0] == torch.inf
    assert found[0, 1].isnan()


def test_a_matrix_without_elements(tmp_path: Path):
    recipe = stored(tmp_path, torch.zeros((3, 0), dtype=torch.int8), torch.ones((3, 1)), (3, 0), (1, 1))
    assert read(recipe).shape == (3, 0)
    assert list(recipe.block_ends) == [0]
