"""The adapters of a checkpoint -> the files that PEFT would save: which tensors, under which names.

Mirrors `get_peft_model_state_dict` in `peft/utils/save_and_load.py`, from names alone: the adapter's own name goes,
PEFT's wrapping stays, and what the trainer wrapped around the model goes too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.model_files import ADAPTER_WEIGHTS
from ..errors import BadOption, UnsupportedLayout
from ..plan.build import ModelPlan, tensor_plans
from ..plan.layout import lay_out
from . import prompts
from .beside import put
from .wrapping import PEFT_MODEL, Kind, Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..dtypes import DType
    from ..plan.build import Source
    from ..plan.layout import FilePlan
    from .peft_config import PeftConfig


EMBEDDINGS = ("embed_tokens", "lm_head")
"""`EMBEDDING_LAYER_NAMES` in `peft/utils/constants.py`."""

SAVED_BY_NAME = frozenset(
    """LORA ADALORA IA3 LOHA LOKR OFT BOFT LN_TUNING FOURIERFT HRA MISS RANDLORA C3A ROAD WAVEFT DELORA GRALORA
    TRAINABLE_TOKENS HIRA GLORA DEFT PEANUT VERA PVERA VBLORA TINYLORA LILY BEFT PSOFT OSF POLY""".split()
)
"""The kinds of adapters whose file holds their parameters as they are. Others write something computed."""

SHARED_ONCE: Mapping[str, tuple[str, ...]] = {
    "VERA": ("vera_A", "vera_B"),
    "PVERA": ("pvera_A", "pvera_B"),
    "VBLORA": ("vblora_vector_bank",),
    "TINYLORA": ("tinylora_v",),
}
"""What all modules of an adapter share and each has in its state: the file has it once."""

PROJECTIONS = ("vera_A", "vera_B", "pvera_A", "pvera_B", "tinylora_P")
"""Random numbers that the file has unless `save_projection` says otherwise; PEFT then draws them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """One adapter, as it will be written."""

    adapter: str
    folder: str
    """Inside of the output: empty for the adapter PEFT calls `default`, or for the only one."""
    tensors: Mapping[str, Source]
    """By their names in the file."""


def adapter_files(
    named: Mapping[str, Source],
    parts: Mapping[str, Part],
    ties: Mapping[str, str],
    configs: Mapping[str, PeftConfig],
) -> tuple[tuple[AdapterFile, ...], tuple[str, ...]]:
    """The adapters in `configs` as PEFT would save them, and the trained tensors that go into none of them.

    Raises UnsupportedLayout for kinds of adapters whose file is more than their parameters.
    """
    files: list[AdapterFile] = []
    used: set[str] = set()
    for adapter, config in configs.items():
        own = [part for part in parts.values() if part.adapter == adapter]
        if _is_computed(config, own):
            raise UnsupportedLayout(
                f"the adapter {adapter!r} is of kind {config.peft_type}, whose file holds what PEFT computes from its "
                "parameters",
                remedy="--lora keep writes its tensors under their names in the checkpoint",
            )
        tensors: dict[str, Source] = {}
        for name, part in parts.items():
            key = _key(part, adapter, config, ties)
            if key is not None and name in named:
                put(tensors, key, named[name])
                used.add(name)
        if not tensors:
            raise BadOption(f"the checkpoint holds no parameter of the adapter {adapter!r}")
        _refuse_without_shared(config, tensors)
        folder = "" if adapter == "default" or len(configs) == 1 else adapter
        files.append(AdapterFile(adapter=adapter, folder=folder, tensors=tensors))
    owners = {ties.get(name, name) for name in used}
    outside: dict[str, str] = {}
    for name, part in parts.items():
        owner = ties.get(name, name)
        if (
            name in named
            and owner not in owners
            and named[name].role == "trainable"
            and (part.adapter is None or part.adapter in configs)
            and part.attribute != "ranknum"
            and (owner not in outside or parts[outside[owner]].kind is Kind.BESIDE)
        ):
            outside[owner] = name  # of several names rather one of the model
    return tuple(files), tuple(outside.values())


def _is_computed(config: PeftConfig, own: Sequence[Part]) -> bool:
    """Whether the adapter's file holds something else than its parameters."""
    if config.peft_type in prompts.PROMPTS:
        return prompts.is_computed(config, own)
    # AdaLoRA writes the ranks that its pattern leaves; VB-LoRA can write the largest weights only.
    computed = {"ADALORA": "rank_pattern", "VBLORA": "save_only_topk_weights"}.get(config.peft_type)
    return config.peft_type not in SAVED_BY_NAME or bool(computed and config.content.get(computed))


def _refuse_without_shared(config: PeftConfig, tensors: Mapping[str, Source]) -> None:
    """PEFT refuses a file without what all modules share, or draws other numbers. Raises UnsupportedLayout."""
    needed = [name for name in SHARED_ONCE.get(config.peft_type, ()) if name not in PROJECTIONS or _projects(config)]
    lacking = [name for name in needed if not any(key.startswith(f"base_model.{name}") for key in tensors)]
    if lacking:
        raise UnsupportedLayout(
            f"the checkpoint does not have what all modules of a {config.peft_type} adapter share: {lacking[0]}"
        )


def _projects(config: PeftConfig) -> bool:
    return config.content.get("save_projection") is not False


def in_a_file(part: Part, adapter: str) -> str:
    """The name in the adapter's file for a parameter of `adapter` (`_remove_adapter_name_from_state_dict_key`)."""
    if part.kind is Kind.SHARED:
        return f"base_model.{part.attribute}{'.' if part.rest else ''}{part.rest}"
    inner = part.inner.replace(f".modules_to_save.{adapter}.", ".", 1) if part.kind is Kind.SAVED else part.inner
    if part.attribute == "lora_magnitude_vector":
        # DoRA's magnitudes were a parameter once and became a module: the file did not follow.
        inner = inner.removesuffix(".weight")
    if inner.endswith(f".{adapter}"):
        return PEFT_MODEL + inner.removesuffix(f".{adapter}")
    head, _, last = inner.rpartition(".")
    return f"{PEFT_MODEL}{head.removesuffix(f'.{adapter}')}.{last}"


def _key(part: Part, adapter: str, config: PeftConfig, ties: Mapping[str, str]) -> str | None:
    """The name in the file of `adapter`; None for what does not belong there."""
    if part.kind is Kind.BESIDE or part.attribute == "ranknum":
        return None
    if config.peft_type in prompts.PROMPTS:
        return prompts.in_a_file(part, adapter, config)
    if part.adapter == adapter:
        if part.attribute in PROJECTIONS and not _projects(config):
            return None
        if part.kind is Kind.TUNER and part.attribute in SHARED_ONCE.get(config.peft_type, ()):
            return None
        # The head of a tied model has the embedding's own rows: they are saved once.
        tied_tokens = part.attribute == "trainable_tokens_delta" and part.name in ties
        return None if tied_tokens else in_a_file(part, adapter)
    if part.kind is not Kind.OWN:
        return None
    if part.inner.endswith(".bias"):
        if config.bias == "all":
            return PEFT_MODEL + part.inner
        if config.bias.endswith("_only") and part.inner.endswith(".base_layer.bias"):
            return PEFT_MODEL + part.inner
    if ".base_layer." in part.inner and config.token_indices is None and _targets_embedding(part, config):
        return PEFT_MODEL + part.inner
    return None


def _targets_embedding(part: Part, config: PeftConfig) -> bool:
    """Whether the tensor is of an embedding that has an adapter: PEFT then saves the embedding beside it."""
    module = part.module.rpartition(".")[0]
    if module.rpartition(".")[2] not in EMBEDDINGS:
        return False
    targets: Sequence[str] | str = config.target_modules
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(name in targets for name in EMBEDDINGS)


def build_adapters(
    adapters: Sequence[AdapterFile],
    *,
    beside: Sequence[FilePlan] = (),
    left_out: tuple[str, ...],
    dtype: DType | None,
    padding_bytes: int,
) -> ModelPlan:
    """Plan the weights of adapters, each in the one file that PEFT expects. `beside`: files of other weights."""
    files = [
        lay_out(f"{a.folder}/{ADAPTER_WEIGHTS}" if a.folder else ADAPTER_WEIGHTS, tensor_plans(a.tensors, dtype))
        for a in adapters
    ]
    return ModelPlan(files=(*files, *beside), index=None, left_out=left_out, padding_bytes=padding_bytes)
