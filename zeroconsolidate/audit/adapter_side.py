"""An adapter as PEFT saves it -> the catalog of a checkpoint that holds nothing else.

So an adapter is merged by the same code as that of a run. The file lacks what `in_a_file` in `adapters/export.py`
removes, the adapter's own name, which is put back here:

    base_model.model.layers.0.q_proj.lora_A.weight          base_model.model.layers.0.q_proj.lora_A.default.weight
    base_model.model.embed.lora_embedding_A                 base_model.model.embed.lora_embedding_A.default
    base_model.model.head.weight                            base_model.model.head.modules_to_save.default.weight
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..adapters.peft_config import TUNER_PREFIXES, read_peft_config
from ..adapters.wrapping import PEFT_MODEL
from ..archive.json_file import read_json
from ..archive.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..archive.places import is_file, looks
from ..archive.safetensors import read_file
from ..archive.weights import read_pickled
from ..catalog.facts import Catalog, Degrees, Origin, Part
from ..dtypes import DType
from ..errors import at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..adapters.peft_config import PeftConfig
    from ..archive.located import LocatedTensor

ADAPTER_PICKLE = "adapter_model.bin"
_ADAPTER = "default"


def has_adapter(directory: str) -> bool:
    """Whether PEFT would load an adapter from this directory."""
    there = {name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_PICKLE) if _is_file(directory, name)}
    return ADAPTER_CONFIG in there and len(there) > 1


def _is_file(directory: str, name: str) -> bool:
    return is_file(os.path.join(directory, name))


def adapter_catalog(directory: str) -> Catalog:
    """The adapter's tensors, by the names that a run has for them.

    Raises DamagedFile or UnsafePickle for files that cannot be read.
    """
    with at(os.path.join(directory, ADAPTER_CONFIG)):
        config = read_peft_config(read_json(os.path.join(directory, ADAPTER_CONFIG)))
    if _is_file(directory, ADAPTER_WEIGHTS):
        path, held = os.path.join(directory, ADAPTER_WEIGHTS), dict[str, "LocatedTensor"]()
        with at(directory):
            held.update(read_file(path).tensors)
    else:
        path, held = os.path.join(directory, ADAPTER_PICKLE), read_pickled(directory, ADAPTER_PICKLE)
    tensors = {_in_a_run(name, config): tensor for name, tensor in held.items()}
    return _catalog(directory, path, tensors)


def _in_a_run(name: str, config: PeftConfig) -> str:
    """The name that the tensor has in the module of a run."""
    prefixes = TUNER_PREFIXES.get(config.peft_type, ("lora_",))
    parts = name.split(".")
    place = next((n for n, part in enumerate(parts) if part.startswith((*prefixes, "trainable_tokens_"))), None)
    if place is not None:
        return ".".join([*parts[: place + 1], _ADAPTER, *parts[place + 1 :]])
    is_own = ".base_layer." in name or (parts[-1] == "bias" and config.bias != "none")
    if not name.startswith(PEFT_MODEL) or is_own:
        return name
    return ".".join([*parts[:-1], "modules_to_save", _ADAPTER, parts[-1]])


def _catalog(directory: str, path: str, tensors: Mapping[str, LocatedTensor]) -> Catalog:
    dtypes = [tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating]
    part = Part(
        index=0, groups=(), masters=(tensors,), master_states=({},), frozen={}, buffers={}, module={},
    )  # fmt: skip
    origin = Origin(
        root=directory, tag="", tags=(), latest=None, stage=0, world_size=1, degrees=Degrees(), step=None,
        ds_version=None, training_dtype=dtypes[0] if dtypes else DType.F32, optimizer=None, optimizer_state=(),
        param_groups=(), wrapper="none", writer="PEFT",
    )  # fmt: skip
    return Catalog(
        origin=origin, files=(path,), looks=looks([path]), parts=(part,), joins={}, stacked={}, unnamed=(), doubts=(),
        maybe_ties=(), ties={}, order=tuple(tensors), unplaced=(), missing=(), notes=(), unsaved_ties={}, unsaved={},
        training=None, listed={}, noted={},
    )  # fmt: skip
