"""A weight and the factors of adapters -> the merged weight, bit for bit as PEFT's `merge_and_unload()` on a CPU.

Each expression here has the operands, the order and the dtypes of the one it mirrors (`merge` and
`get_delta_weight` of `peft/tuners/lora/layer.py`, `merge_unsafe` of `variants.py`, `get_weight_norm` of `dora.py`),
because a product rounded once more or added in another order is a different weight. What differs is that only some
rows are computed at a time (`readers.py`).

torch does the arithmetic, since its products must come out as PEFT's do. It is imported here and nowhere earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import PlanBroken
from ..run.elements import read_all
from ..run.tensors import to_torch
from .recipes import Factor, Lie, LowRank, Merged

if TYPE_CHECKING:
    from ..run.inputs import Inputs

_HALVES = (torch.float16, torch.bfloat16)


class Part:
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


def merge(
    weight: torch.Tensor,
    deltas: list[torch.Tensor],
    parts: list[Part],
    taken: slice,
    *,
    known: list[torch.Tensor] | None = None,
    found: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Add the adapters in order. Overwrites `weight`.

    `taken`: which outputs of the module `weight` holds. `known`: the lengths DoRA divides by, in the order in which
    they are needed, where these rows alone do not give them. `found`: a list to which computed lengths are appended.
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


def _load(inputs: Inputs, factor: Factor) -> torch.Tensor:
    recipe = factor.recipe
    return to_torch(read_all(recipe, inputs), recipe.dtype).reshape(factor.shape)
