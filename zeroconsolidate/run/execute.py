"""The plan of an output file -> its bytes. The one loop that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import PlanBroken, at
from .reader import reader
from .storage import copy_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..plan.layout import FilePlan, TensorPlan
    from .inputs import Inputs
    from .storage import Writable

BLOCK_BYTES = 1 << 20
"""The executor's reusable buffer: small enough for the processor's cache, large enough to make calls cheap."""


def execute(
    plan: FilePlan,
    inputs: Inputs,
    output: Writable,
    *,
    start: int,
    overflows: dict[str, int],
    reached: Callable[[int], None],
) -> None:
    """Write one output file from byte `start` on; the bytes below are there already.

    `reached(n)` is called again and again: every byte of the file below n is written. Finite elements that become
    infinite in a cast are counted in `overflows`, by tensor; whenever `reached` is called the counts are right. Raises
    DamagedFile if an input ends early, OutputFailed if the output cannot be written.
    """
    block = memoryview(bytearray(BLOCK_BYTES))
    if start < len(plan.header):
        output.write(plan.header, 0)
        reached(len(plan.header))
    for tensor, first_byte in zip(plan.tensors, plan.starts, strict=True):
        # An element that a stop has cut in two is made again.
        first = max(start - first_byte, 0) // tensor.dtype.itemsize
        if first >= tensor.numel:
            continue
        with at(tensor.name):
            if tensor.is_copy:
                _copy(tensor, first, first_byte, inputs, output, block, reached)
            else:
                _blocks(tensor, first, first_byte, inputs, output, overflows, reached)


def _copy(
    tensor: TensorPlan,
    first: int,
    first_byte: int,
    inputs: Inputs,
    output: Writable,
    block: memoryview,
    reached: Callable[[int], None],
) -> None:
    """The output's bytes are input bytes: extents go straight to their place."""
    itemsize, position = tensor.dtype.itemsize, first
    for copy in tensor.recipe.copies(first, tensor.numel):
        if copy.start != position or copy.count != 1:
            raise PlanBroken("the copies leave a gap or overlap", expected=f"element {position} next", found=copy.start)
        copy_range(
            inputs.files,
            copy.file,
            copy.file_start,
            copy.nbytes,
            output,
            first_byte + copy.start * itemsize,
            block=block,
            reached=reached,
        )
        position += copy.numel
    if position != tensor.numel:
        raise PlanBroken("the copies end early", expected=f"{tensor.numel} elements", found=position)


def _blocks(
    tensor: TensorPlan,
    first: int,
    first_byte: int,
    inputs: Inputs,
    output: Writable,
    overflows: dict[str, int],
    reached: Callable[[int], None],
) -> None:
    """Elements are gathered, cast and written block by block."""
    # numpy is imported by those who cast; a plain copy never pays for it.
    import numpy as np

    from .cast import STORAGE, cast

    recipe = tensor.recipe
    elements = reader(recipe, inputs)
    wide = max(recipe.dtype.itemsize, tensor.dtype.itemsize)
    block_numel = min(tensor.numel, elements.block_numel or BLOCK_BYTES // wide)
    source = np.empty(block_numel if recipe.dtype is not tensor.dtype else 0, STORAGE[recipe.dtype])
    target = np.empty(block_numel, STORAGE[tensor.dtype])
    for begin in range(first, tensor.numel, block_numel):
        end = min(begin + block_numel, tensor.numel)
        here, there = source[: end - begin], target[: end - begin]
        infinite = 0
        if recipe.dtype is tensor.dtype:
            elements.fill(begin, end, there)
        else:
            elements.fill(begin, end, here)
            infinite = cast(here, recipe.dtype, tensor.dtype, there)
        output.write(there.view(np.uint8).data, first_byte + begin * tensor.dtype.itemsize)
        if infinite:
            overflows[tensor.name] = overflows.get(tensor.name, 0) + infinite
        reached(first_byte + end * tensor.dtype.itemsize)
