"""Elements in numpy (`STORAGE`) -> torch tensors on the same memory, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .cast import STORAGE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..dtypes import DType


def to_torch(elements: NDArray[np.generic], dtype: DType) -> torch.Tensor:
    """The same memory as a flat tensor. Empty tensors have no memory to share."""
    kind: torch.dtype = getattr(torch, dtype.torch_name)
    return torch.from_numpy(elements.view("u1")).view(kind) if elements.size else torch.empty(0, dtype=kind)


def to_numpy(tensor: torch.Tensor, dtype: DType) -> NDArray[np.generic]:
    """The elements in row-major order, flat, of STORAGE[dtype]."""
    flat = tensor.detach().contiguous().reshape(-1)
    elements: NDArray[np.generic] = flat.view(torch.uint8).numpy().view(STORAGE[dtype])
    return elements
