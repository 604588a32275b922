"""How far answers may lie from recorded ones and still be the same model's: the only place that says it.

Matrix kernels are chosen by processor, number of threads and alignment, and each adds in an order of its own. So the
same weights give answers that differ in their last digits on another machine than the one where they were recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def terms(weights: Iterable[torch.Tensor]) -> int:
    """How many products are added up on the way through a model: the widths of the inputs of all its matrices."""
    return sum(weight.shape[-1] for weight in weights if weight.ndim > 1)


def rounding(dtype: torch.dtype, terms: int) -> float:
    """The largest `distance` between two computations with weights in `dtype` that only add in different orders.

    The error of a sum of n terms grows like the square root of n, in units of half an eps, and each of two sums has
    its own. Kernels add in float32 whatever the weights' dtype; of 16 bits, a result that lies on the edge is then
    rounded to one neighbour or the other, an eps apart.
    """
    distance = torch.finfo(torch.float32).eps * terms**0.5
    return distance if dtype == torch.float32 else distance + torch.finfo(dtype).eps


def distance(found: torch.Tensor, recorded: torch.Tensor) -> float:
    """How far `found` lies from what was `recorded`: the root of the mean square, relative to that of the record."""
    found, recorded = found.double().reshape(recorded.shape), recorded.double()
    return float((found - recorded).norm() / recorded.norm())


def largest_difference(found: torch.Tensor, recorded: torch.Tensor) -> float:
    """That of the element that differs most."""
    return float((found.double().reshape(recorded.shape) - recorded.double()).abs().max())
