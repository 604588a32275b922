"""The heads of BGE-M3 -> `colbert_linear.pt` and `sparse_linear.pt`, as FlagEmbedding loads them.

Each is what `torch.save(linear.state_dict())` writes, with the keys `weight` and `bias`
(FlagEmbedding `inference/embedder/encoder_only/m3.py` reads both or neither; without them it takes random heads).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plan.fragment import plain_file
from ..plan.pickled import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..dtypes import DType


def files(heads: Mapping[str, tuple[tuple[int, ...], NDArray[Any], DType]]) -> dict[str, bytes]:
    """Output name -> content. `heads`: tensor name such as `colbert_linear.weight` -> (shape, elements, dtype).

    Heads are small: a file is made in memory.
    """
    states: dict[str, dict[str, Stored]] = {}
    data: dict[str, dict[str, bytes]] = {}
    for name, (shape, elements, dtype) in heads.items():
        head, _, key = name.partition(".")
        state = states.setdefault(head, {})
        number = str(len(state))
        state[key] = Stored(number, dtype, shape, elements.size)
        data.setdefault(head, {})[number] = elements.tobytes()
    return {f"{head}.pt": plain_file(f"{head}.pt", state, data[head]) for head, state in states.items()}
