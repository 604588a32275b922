"""The heads of BGE-M3 -> `colbert_linear.pt` and `sparse_linear.pt`, as FlagEmbedding loads them.

Each is what `torch.save(linear.state_dict())` writes, with the keys `weight` and `bias`
(FlagEmbedding `inference/embedder/encoder_only/m3.py` reads both or neither; without them it takes random heads).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..dtypes import DType


def files(heads: Mapping[str, tuple[tuple[int, ...], NDArray[Any], DType]]) -> dict[str, bytes]:
    """Output name -> content. `heads`: tensor name such as `colbert_linear.weight` -> (shape, elements, dtype).

    Imports torch, because the files have torch's format; heads are small.
    """
    import torch

    from ..run.tensors import to_torch

    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, (shape, elements, dtype) in heads.items():
        head, _, key = name.partition(".")
        states.setdefault(head, {})[key] = to_torch(elements, dtype).reshape(shape)
    found = {}
    for head, state in states.items():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        found[f"{head}.pt"] = buffer.getvalue()
    return found
