"""Elements as numpy holds them (`STORAGE`) and as torch computes with them: the same memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .cast import STORAGE, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..dtypes import DType


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
