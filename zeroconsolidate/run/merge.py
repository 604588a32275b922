"""The arithmetic of merging adapters, bit for bit that of PEFT's `merge_and_unload()` on a CPU.

Each expression here has the operands, the order and the dtypes of the one it mirrors (`merge` and
`get_delta_weight` of `peft/tuners/lora/layer.py`, `merge_unsafe` of `variants.py`, `get_weight_norm` of `dora.py`),
because a product rounded once more or added in another order is a different weight. What differs is that only some
rows are computed at a time. Element by element and row by row that changes nothing; matrix products of many rows
sum in the same order as the whole.

torch does the arithmetic, since its products must come out as PEFT's do. It is imported here and nowhere earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import PlanBroken
from ..plan.merging import FEWEST_ROWS, ROW_BLOCK_BYTES, Factor, Lie, LowRank, Merged, RowsReplaced, Shifted
from .cast import STORAGE, cast
from .fill import read_all, reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..dtypes import DType
    from .inputs import Inputs

_HALVES = (torch.float16, torch.bfloat16)


class MergedReader:
    """Reads a merged weight, block of rows by block of rows. It holds the factors of the adapters."""

    def __init__(self, inputs: Inputs, recipe: Merged) -> None:
        self.recipe = recipe
        self._base = reader(inputs, recipe.base)
        self._parts = [_Part(inputs, part) for part in recipe.parts]
        self._starts = recipe.blocks()
        self._held: tuple[int, NDArray[np.generic]] | None = None
        # A DoRA row of a transposed weight is a column: its length is known only when all rows have been seen.
        self._lengths: list[torch.Tensor] | None = None
        if any(part.magnitude is not None and part.is_transposed for part in self._parts):
            self._lengths = self._column_lengths()

    @property
    def block_numel(self) -> int:
        """Elements of the largest block."""
        pairs = zip(self._starts, self._starts[1:], strict=False)
        return max(stop - start for start, stop in pairs) * self.recipe.row_numel

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`. Always computed on the same blocks, so that asking differently changes no bit."""
        row_numel = self.recipe.row_numel
        here = int(np.searchsorted(self._starts, start // row_numel, side="right")) - 1
        while start < stop:
            first, last = self._starts[here] * row_numel, self._starts[here + 1] * row_numel
            elements = self._block(here)
            part = elements[start - first : min(stop, last) - first]
            block[: len(part)] = part
            block, start, here = block[len(part) :], start + len(part), here + 1

    def _block(self, index: int) -> NDArray[np.generic]:
        if self._held is None or self._held[0] != index:
            self._held = None
            first, last = self._starts[index], self._starts[index + 1]
            weight = self._rows(first, last)
            deltas = [part.delta(self.recipe, first, last) for part in self._parts]
            merged = _merge(weight, deltas, self._parts, slice(first, last), known=self._lengths)
            self._held = (index, to_numpy(merged, self.recipe.dtype))
        return self._held[1]

    def _rows(self, first: int, last: int) -> torch.Tensor:
        """Rows of the base as a matrix (for a convolution, in its own shape), in the dtype of the merge."""
        row_numel, dtype = self.recipe.row_numel, self.recipe.dtype
        stored = np.empty((last - first) * row_numel, STORAGE[self.recipe.base.dtype])
        self._base.fill(first * row_numel, last * row_numel, stored)
        elements = as_dtype(stored, self.recipe.base.dtype, dtype)
        if any(part.lie is Lie.CONVOLUTION for part in self.recipe.parts):
            return to_torch(elements, dtype).reshape(self.recipe.shape)
        return to_torch(elements, dtype).reshape(last - first, row_numel)

    def _column_lengths(self) -> list[torch.Tensor]:
        """The lengths DoRA divides by, each over all rows, computed on blocks of columns."""
        rows, columns = self.recipe.rows, self.recipe.row_numel
        fitting = max(ROW_BLOCK_BYTES // (4 * rows), FEWEST_ROWS)
        count = max(columns // fitting, 1)
        found: list[list[torch.Tensor]] = []
        for i in range(count):
            taken = slice(columns * i // count, columns * (i + 1) // count)
            weight = self._columns(taken)
            deltas = [part.column_delta(taken) for part in self._parts]
            lengths: list[torch.Tensor] = []
            _merge(weight, deltas, self._parts, taken, found=lengths)
            found.append(lengths)
        return [torch.cat(pieces) for pieces in zip(*found, strict=True)]

    def _columns(self, taken: slice) -> torch.Tensor:
        base, row_numel = self.recipe.base, self.recipe.row_numel
        stored = np.empty((self.recipe.rows, taken.stop - taken.start), STORAGE[base.dtype])
        for row in range(self.recipe.rows):
            self._base.fill(row * row_numel + taken.start, row * row_numel + taken.stop, stored[row])
        elements = as_dtype(stored.reshape(-1), base.dtype, self.recipe.dtype)
        return to_torch(elements, self.recipe.dtype).reshape(stored.shape)


class _Part:
    """One adapter of a weight, its factors in memory."""

    def __init__(self, inputs: Inputs, part: LowRank) -> None:
        self.lie = part.lie
        self.scale = part.scale
        self.rounds_first = part.rounds_first
        self.a, self.b = _load(inputs, part.a), _load(inputs, part.b)
        self.magnitude = None if part.magnitude is None else _load(inputs, part.magnitude)
        self._halves = None
        decisive = self.a if part.lie in (Lie.EMBEDDING, Lie.CONVOLUTION) else self.b
        if decisive.dtype in _HALVES and part.lie not in (Lie.EXPERTS, Lie.EXPERTS_TRANSPOSED):
            # PEFT multiplies in float32 what is stored in 16 bits, and rounds the product back.
            self._halves, self.a, self.b = decisive.dtype, self.a.float(), self.b.float()

    @property
    def is_transposed(self) -> bool:
        """Whether an output of the module is a column of the weight."""
        return self.lie in (Lie.COLUMNS, Lie.EMBEDDING)

    def delta(self, recipe: Merged, first: int, last: int) -> torch.Tensor:
        """scale * B A for rows `[first, last)` of the weight."""
        if self.lie is Lie.CONVOLUTION:
            return self._rounded(_convolution_delta(self.a, self.b, recipe.shape) * self.scale)
        if self.lie is Lie.ROWS:
            return self._rounded((self.b[first:last] @ self.a) * self.scale)
        if self.is_transposed:
            return self._rounded((self.b @ self.a[:, first:last]).T * self.scale)
        experts, height = recipe.shape[:2]
        expert, row = divmod(first, height)
        rows = slice(row, row + last - first)
        a = self.a.reshape(experts, -1, self.a.shape[-1])[expert : expert + 1]
        b = self.b.reshape(self.b.shape[0], -1, experts)[:, :, expert : expert + 1]
        if self.lie is Lie.EXPERTS:
            return torch.einsum("o r e, e r i -> e o i", b[rows], a)[0] * self.scale
        return torch.einsum("o r e, e r i -> e i o", b, a[:, :, rows])[0] * self.scale

    def column_delta(self, taken: slice) -> torch.Tensor:
        """scale * B A for all rows and some columns of the weight."""
        if self.is_transposed:
            return self._rounded((self.b[taken] @ self.a).T * self.scale)
        return self._rounded((self.b @ self.a[:, taken]) * self.scale)

    def length(self, weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """The length of each output's row of the unmerged weight plus the delta."""
        if self.lie is Lie.CONVOLUTION:
            total = weight + delta
            norm: torch.Tensor = total.norm(p=2, dim=tuple(range(1, total.dim())), keepdim=True)
            return norm.transpose(1, 0)
        if self.is_transposed:
            weight, delta = weight.T, delta.T
        total = weight + delta
        norm = torch.linalg.norm(total, dim=1)
        return norm.to(total.dtype)

    def factor(self, length: torch.Tensor, taken: slice) -> torch.Tensor:
        """Magnitude over length, in a shape that multiplies the weight."""
        if self.magnitude is None:
            raise PlanBroken("an adapter without magnitudes has no factor")
        if self.lie is Lie.CONVOLUTION:
            factor = self.magnitude / length
            return factor.view(-1, *(1,) * (factor.dim() - 1))
        factor = self.magnitude[taken] / length
        return factor.view(1, -1) if self.is_transposed else factor.view(-1, 1)

    def _rounded(self, product: torch.Tensor) -> torch.Tensor:
        return product if self._halves is None else product.to(self._halves)


def _merge(
    weight: torch.Tensor,
    deltas: list[torch.Tensor],
    parts: list[_Part],
    taken: slice,
    *,
    known: list[torch.Tensor] | None = None,
    found: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Add the adapters in order. Overwrites `weight`.

    `taken`: which outputs of the module `weight` holds. `known`: the lengths DoRA divides by, in the order in which
    they are asked for, where these rows do not tell them. `found`: a list to put those into that were computed.
    """
    told = None if known is None else iter(known)

    def length_of(index: int, unmerged: torch.Tensor) -> torch.Tensor:
        length = parts[index].length(unmerged, deltas[index]) if told is None else next(told)
        if found is not None:
            found.append(length)
        return length

    def factor_of(index: int, length: torch.Tensor) -> torch.Tensor:
        # A row of a transposed weight has a column for each output.
        return parts[index].factor(length, slice(None) if told is not None else taken)

    def add(weight: torch.Tensor, index: int, length: torch.Tensor | None) -> torch.Tensor:
        if length is not None:
            return (factor_of(index, length) * (weight + deltas[index])).to(weight.dtype)
        weight += deltas[index].to(weight.dtype) if parts[index].rounds_first else deltas[index]
        return weight

    def take_out(weight: torch.Tensor, index: int, length: torch.Tensor | None) -> torch.Tensor:
        if length is not None:
            return (weight / factor_of(index, length) - deltas[index]).to(weight.dtype)
        weight -= deltas[index].to(weight.dtype)
        return weight

    merged: list[tuple[int, torch.Tensor | None]] = []
    for index, part in enumerate(parts):
        length = None
        if part.magnitude is not None:
            # DoRA's lengths are those of the unmerged weight. PEFT gets it by taking out what it has merged, and
            # merges that again, rounding each time (`LoraLayer._unmerged_base_weight`).
            for other, its_length in reversed(merged):
                weight = take_out(weight, other, its_length)
            unmerged = weight.clone() if merged else weight
            length = length_of(index, unmerged)
            again: list[tuple[int, torch.Tensor | None]] = []
            for other, its_length in merged:
                again.append((other, None if its_length is None else length_of(other, unmerged)))
                weight = add(weight, *again[-1])
            merged = again
        weight = add(weight, index, length)
        merged.append((index, length))
    return weight


def _convolution_delta(a: torch.Tensor, b: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if shape[2:4] == (1, 1):
        return (b.squeeze(3).squeeze(2) @ a.squeeze(3).squeeze(2)).unsqueeze(2).unsqueeze(3)
    convolve = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[len(shape)]
    product: torch.Tensor = convolve(a.transpose(0, 1), b)
    return product.transpose(0, 1)


class RowsReplacedReader:
    """Reads a matrix some of whose rows come from elsewhere. Nothing is computed but casts."""

    def __init__(self, inputs: Inputs, recipe: RowsReplaced) -> None:
        self.recipe = recipe
        self._base = reader(inputs, recipe.base)
        rows: dict[int, NDArray[np.generic]] = {}
        for indices, replacement in recipe.replacements:
            values = as_dtype(read_all(inputs, replacement), replacement.dtype, recipe.dtype)
            rows |= zip(indices, values.reshape(len(indices), recipe.shape[-1]), strict=True)
        self._rows = dict(sorted(rows.items()))

    @property
    def block_numel(self) -> int | None:
        return None

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        base, row_numel = self.recipe.base, self.recipe.shape[-1]
        stored = np.empty(stop - start, STORAGE[base.dtype])
        self._base.fill(start, stop, stored)
        block[: len(stored)] = as_dtype(stored, base.dtype, self.recipe.dtype)
        for index, row in self._rows.items():
            first, last = max(index * row_numel, start), min((index + 1) * row_numel, stop)
            if first < last:
                block[first - start : last - start] = row[first - index * row_numel : last - index * row_numel]


class ShiftedReader:
    """Reads a bias to which adapters add."""

    def __init__(self, inputs: Inputs, recipe: Shifted) -> None:
        bias = to_torch(as_dtype(read_all(inputs, recipe.base), recipe.base.dtype, recipe.dtype), recipe.dtype)
        for shift, scale in recipe.shifts:
            bias += to_torch(read_all(inputs, shift), shift.dtype) * scale
        self._values = to_numpy(bias, recipe.dtype)

    @property
    def block_numel(self) -> int | None:
        return None

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        block[: stop - start] = self._values[start:stop]


def as_dtype(elements: NDArray[np.generic], source: DType, target: DType) -> NDArray[np.generic]:
    """`elements` (1-D, of STORAGE[source]) as `target`; the same array if nothing changes."""
    if source is target:
        return elements
    made = np.empty(len(elements), STORAGE[target])
    cast(elements, source, target, made)
    return made


def to_torch(elements: NDArray[np.generic], dtype: DType) -> torch.Tensor:
    """The same memory as a flat tensor. Empty tensors have no memory to share."""
    kind: torch.dtype = getattr(torch, dtype.torch_name)
    return torch.from_numpy(elements.view("u1")).view(kind) if elements.size else torch.empty(0, dtype=kind)


def to_numpy(tensor: torch.Tensor, dtype: DType) -> NDArray[np.generic]:
    """The elements in row-major order, flat, of STORAGE[dtype]."""
    flat = tensor.detach().contiguous().reshape(-1)
    elements: NDArray[np.generic] = flat.view(torch.uint8).numpy().view(STORAGE[dtype])
    return elements


def _load(inputs: Inputs, factor: Factor) -> torch.Tensor:
    recipe = factor.recipe
    return to_torch(read_all(inputs, recipe), recipe.dtype).reshape(factor.shape)
