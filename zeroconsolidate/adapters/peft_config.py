"""`adapter_config.json` -> typed settings that weights depend on (mirrors PEFT's `PeftConfig` and `LoraConfig`)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.printable import described
from ..catalog import fields
from ..catalog.tensor_parallel import is_tame
from ..errors import DamagedFile, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

TUNER_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "LORA": ("lora_",), "ADALORA": ("lora_", "ranknum"), "IA3": ("ia3_",), "LOHA": ("hada_",), "LOKR": ("lokr_",),
    "OFT": ("oft_",), "BOFT": ("boft_",), "VERA": ("vera_",), "VBLORA": ("vblora_",), "FOURIERFT": ("fourierft_",),
    "HRA": ("hra_",), "MISS": ("miss_",), "RANDLORA": ("randlora_",), "C3A": ("c3a_",), "ROAD": ("road_",),
    "WAVEFT": ("waveft_",), "DELORA": ("delora_",), "GRALORA": ("gralora_",), "LN_TUNING": ("ln_tuning_",),
    "TRAINABLE_TOKENS": ("trainable_tokens_",), "HIRA": ("hira_",), "PVERA": ("pvera_",), "TINYLORA": ("tinylora_",),
    "GLORA": ("glora_",), "PEANUT": ("peanut_",), "DEFT": ("deft_",), "LILY": ("lily_",), "BEFT": ("beft_",),
    "PSOFT": ("psoft_",), "OSF": ("osf_",), "POLY": ("poly_",),
}  # fmt: skip
"""peft_type -> prefix of the attributes in which a wrapped module keeps its adapters (`BaseTuner.prefix` in PEFT)."""

ALTERS_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""`init_lora_weights` that subtract something from the base weights when training begins (`LoraLayer.update_layer`)."""

UNMERGEABLE = (
    "arrow_config", "use_bdlora", "alora_invocation_tokens", "velora_config", "monteclora_config", "kasa_config",
    "use_qalora",
)  # fmt: skip
"""LoRA variants, by the setting that asks for them, that cannot be merged, or are not known to be merged correctly
here."""

INDIFFERENT = (
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "modules_to_save", "peft_version", "revision", "target_modules", "target_parameters",
    "task_type",
)  # fmt: skip
"""Settings that say which modules an adapter has, which names and shapes tell, or nothing about its tensors. So do
those with `dropout` in their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """An adapter's configuration. The LoRA fields have PEFT's defaults where another kind of adapter has none."""

    peft_type: str
    base: str | None
    """`base_model_name_or_path`."""
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool
    """Scale by alpha / sqrt(rank) instead of alpha / rank."""
    fan_in_fan_out: bool
    bias: str
    """`none`, `all` or `lora_only`."""
    initialization: str
    """`init_lora_weights`; a bool as text."""
    target_modules: tuple[str, ...] | str
    target_parameters: tuple[str, ...]
    token_indices: Mapping[str, tuple[int, ...]] | tuple[int, ...] | None
    """`trainable_token_indices`: by module, or one list for the input embedding."""
    variants: tuple[str, ...]
    """Those of UNMERGEABLE that are set, and `layer_replication`."""
    content: Mapping[str, Any]
    """The whole file."""

    @property
    def alters_base(self) -> bool:
        """Whether the adapter belongs to weights that are not the original model's."""
        return self.initialization.startswith(ALTERS_BASE)

    def rank_of(self, module: str) -> int:
        """The rank of the adapter in `module`."""
        return self.rank_pattern.get(_matching(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What B A is multiplied by in `module` (`scaling` in PEFT's layers)."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(_matching(self.alpha_pattern, module), self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank

    def tokens_of(self, module: str) -> tuple[int, ...] | None:
        """The rows of `module` that are trained individually; the module may be named by the end of its path."""
        if not isinstance(self.token_indices, dict):
            return self.token_indices if isinstance(self.token_indices, tuple) else None
        for name, indices in self.token_indices.items():
            if module == name or module.endswith(f".{name}"):
                return tuple(indices)
        return None


def read_peft_config(content: Mapping[str, Any]) -> PeftConfig:
    """Check and type an adapter's configuration. Raises DamagedFile."""
    targets = content.get("target_modules")
    kind = fields.field(content, "peft_type", str).upper()
    # Other kinds use the same keys for other things: OFT's `r` may be 0, its blocks then have a size.
    lora = content if kind == "LORA" else {}
    rank = fields.field(lora, "r", int, 8)
    if rank < 1:
        raise DamagedFile("'r' is not a rank", expected="at least 1", found=rank)
    return PeftConfig(
        peft_type=kind,
        base=fields.optional(content, "base_model_name_or_path", str),
        rank=rank,
        alpha=_number(lora.get("lora_alpha"), "lora_alpha", 8),
        rank_pattern={name: int(_number(r, "rank_pattern", 0)) for name, r in _pattern(lora, "rank_pattern")},
        alpha_pattern={name: _number(a, "alpha_pattern", 0) for name, a in _pattern(lora, "alpha_pattern")},
        rank_stabilized=bool(lora.get("use_rslora")),
        fan_in_fan_out=bool(content.get("fan_in_fan_out")),
        bias=fields.field(content, "bias", str, "none"),
        initialization=str(content.get("init_lora_weights", True)).lower(),
        target_modules=targets if isinstance(targets, str) else _names(targets, "target_modules"),
        target_parameters=_names(content.get("target_parameters"), "target_parameters"),
        token_indices=_tokens(content.get("token_indices") or content.get("trainable_token_indices")),
        variants=tuple(name for name in (*UNMERGEABLE, "layer_replication") if content.get(name)),
        content=content,
    )


def differences(one: PeftConfig, other: PeftConfig) -> list[str]:
    """The settings by which the tensors of two adapters mean different things. One that a release of PEFT did not have
    yet is like one that is not set.

    >>> lora = {"peft_type": "LORA", "r": 4, "target_modules": ["q", "v"]}
    >>> one = read_peft_config(lora)
    >>> differences(one, read_peft_config(lora | {"target_modules": ["v", "q"], "use_dora": False}))
    []
    >>> differences(one, read_peft_config(lora | {"lora_alpha": 16, "lora_dropout": 0.1}))
    ['lora_alpha']
    """
    names = dict.fromkeys([*one.content, *other.content])
    return [
        name
        for name in names
        if name not in INDIFFERENT
        and "dropout" not in name
        and (one.content.get(name) or None) != (other.content.get(name) or None)
    ]


def _matching(pattern: Mapping[str, object], module: str) -> str:
    """The key of `pattern` for a module (mirrors `get_pattern_key` in `peft/utils/other.py`)."""
    for key in pattern:
        if not is_tame(key):
            raise UnsupportedLayout("a pattern of the adapter has an unknown type", found=described(key))
        if re.match(rf"(.*\.)?({key})$", module):
            return key
    return module


def _pattern(content: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in fields.field(content, key, dict, {}).items()]


def _number(value: object, key: str, default: float) -> float:
    if value is None and default:
        return default
    # An integer stays one: PEFT divides the numbers as they are written.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 << 53:
        raise DamagedFile(f"{key!r} is not a positive number", found=described(value))
    return value


def _names(value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise DamagedFile(f"{key!r} is not a list of names", found=described(value))
    return tuple(value)


def _tokens(value: object) -> Mapping[str, tuple[int, ...]] | tuple[int, ...] | None:
    if isinstance(value, dict):
        return {str(module): _indices(indices) for module, indices in value.items()}
    return None if value is None else _indices(value)


def _indices(value: object) -> tuple[int, ...]:
    if not fields.are_counts(value):
        raise DamagedFile("the token indices are not a list of row numbers", found=described(value))
    return tuple(value)
