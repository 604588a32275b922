"""Checkpoints of stage 3 of any size, written without torch: for environments that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hostile import Zip, call, dict_of, integer, ints, list_of, name, pickled, records, storage, tensor, text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NONE = b"N"
_VERSION = text("0.19.8")


def values_of(megabytes: float, layers: int = 4) -> dict[str, NDArray[np.float32]]:
    """Random values that take about so many megabytes, the same every time."""
    width = max(int((megabytes * 1e6 / 4 / layers / 3) ** 0.5), 2)
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        shapes[f"layers.{layer}.up.weight"] = (2 * width + 1, width)
        shapes[f"layers.{layer}.down.weight"] = (width, width)
        shapes[f"layers.{layer}.norm.weight"] = (width,)
    return {key: random.standard_normal(shape, dtype=np.float32) for key, shape in shapes.items()}


def write(root: Path, values: dict[str, NDArray[np.float32]], *, ranks: int) -> None:
    """Save `values` as the checkpoint `root` of a bf16 run at stage 3."""
    folder = root / "global_step5"
    folder.mkdir(parents=True)
    (root / "latest").write_text(folder.name)
    empty = tensor(ints(0), ints(1), where=storage(numel=integer(0), kind=name("torch", "BFloat16Storage")))
    model = dict_of(
        module=_ordered(dict.fromkeys(values, empty)),
        buffer_names=b"]",
        param_shapes=list_of(
            _ordered({key: call(name("torch", "Size"), ints(*each.shape)) for key, each in values.items()})
        ),
        frozen_param_shapes=_NONE,
        frozen_param_fragments=_NONE,
        shared_params=b"}",
        global_steps=integer(5),
        dp_world_size=integer(ranks),
        mp_world_size=integer(1),
        ds_config=b"}",
        ds_version=_VERSION,
    )
    for rank in range(ranks):
        flat = np.concatenate([_partition(each, rank, ranks) for each in values.values()])
        masters = tensor(ints(flat.size), where=storage(numel=integer(flat.size)))
        state = dict_of(
            zero_stage=integer(3),
            partition_count=integer(ranks),
            ds_version=_VERSION,
            fp32_flat_groups=list_of(masters),
            optimizer_state_dict=dict_of(state=b"}", param_groups=b"]"),
        )
        optimizer = dict_of(optimizer_state_dict=state, ds_config=b"}", ds_version=_VERSION)
        for file, content, data in (
            (f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", model, b""),
            (f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", optimizer, flat.tobytes()),
        ):
            (folder / file).write_bytes(Zip(records(pickled(content), _0=data)).build())


def _ordered(items: dict[str, bytes]) -> bytes:
    return call(name("collections", "OrderedDict")) + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def _partition(value: NDArray[np.float32], rank: int, ranks: int) -> NDArray[np.float32]:
    """What the rank holds of a parameter: an equal number of elements each, padded at the end."""
    numel = -(-value.size // ranks)
    return np.pad(value.ravel(), (0, ranks * numel - value.size))[rank * numel : (rank + 1) * numel]
