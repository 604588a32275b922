"""The one loop: carries out the plan of an output file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import PlanBroken, at

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..plan.layout import FilePlan, TensorPlan
    from .inputs import Inputs
    from .outputs import OutputFile

BLOCK_BYTES = 1 << 20
"""The executor's reusable buffer: small enough for the processor's cache, large enough to make calls cheap."""


@dataclass(slots=True)
class Tally:
    """What happened to the values on their way."""

    overflows: dict[str, int]
    """By tensor: finite elements that became infinite in a cast."""


def execute(
    plan: FilePlan,
    inputs: Inputs,
    output: OutputFile,
    *,
    progress: Callable[[int], None],
) -> Tally:
    """Write one output file. `progress(n)` is called after every n bytes written.

    Raises DamagedFile if an input ends early, OutputFailed if the output cannot be written.
    """
    tally = Tally(overflows={})
    block = memoryview(bytearray(BLOCK_BYTES))
    output.write(plan.header, 0)
    progress(len(plan.header))
    for tensor, start in zip(plan.tensors, plan.starts, strict=True):
        with at(tensor.name):
            if tensor.is_copy:
                _copy(tensor, start, inputs, output, block, progress)
            elif tensor.numel:
                overflows = _blocks(tensor, start, inputs, output, progress)
                if overflows:
                    tally.overflows[tensor.name] = overflows
    return tally


def _copy(
    tensor: TensorPlan,
    start: int,
    inputs: Inputs,
    output: OutputFile,
    block: memoryview,
    progress: Callable[[int], None],
) -> None:
    """The output's bytes are input bytes: extents go straight to their place."""
    itemsize, position = tensor.dtype.itemsize, 0
    for copy in tensor.recipe.copies():
        if copy.start != position or copy.count != 1:
            raise PlanBroken(f"the copies leave a gap or overlap; expected element {position} next, got {copy.start}")
        output.copy(inputs, copy.file, copy.file_start, copy.nbytes, start + copy.start * itemsize, block)
        position += copy.numel
        progress(copy.nbytes)
        output.start_writeback(start + position * itemsize)
    if position != tensor.numel:
        raise PlanBroken(f"the copies end early; expected {tensor.numel} elements, got {position}")


def _blocks(tensor: TensorPlan, start: int, inputs: Inputs, output: OutputFile, progress: Callable[[int], None]) -> int:
    """Elements are gathered, cast and written block by block. Returns the number of overflows."""
    # numpy is imported by those who cast; a plain copy never pays for it.
    import numpy as np

    from .cast import STORAGE, cast
    from .fill import reader

    recipe = tensor.recipe
    elements = reader(inputs, recipe)
    wide = max(recipe.dtype.itemsize, tensor.dtype.itemsize)
    block_numel = min(tensor.numel, elements.block_numel or BLOCK_BYTES // wide)
    source = np.empty(block_numel, STORAGE[recipe.dtype])
    target = np.empty(block_numel, STORAGE[tensor.dtype])
    overflows = 0
    for first in range(0, tensor.numel, block_numel):
        last = min(first + block_numel, tensor.numel)
        here, there = source[: last - first], target[: last - first]
        elements.fill(first, last, here)
        overflows += cast(here, recipe.dtype, tensor.dtype, there)
        written = there.view(np.uint8).data
        output.write(written, start + first * tensor.dtype.itemsize)
        progress(len(written))
        output.start_writeback(start + last * tensor.dtype.itemsize)
    return overflows
