"""The wishes a conversion can be given, in one place, checked once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from .dtypes import DType
from .errors import BadOption
from .integrations.hub import resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Path: TypeAlias = "str | os.PathLike[str]"
Roots: TypeAlias = "Path | Sequence[Path]"
"""A checkpoint, or the directories on several nodes' disks that hold one together."""

Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with (bytes written so far, bytes in all)."""

Rename: TypeAlias = "Sequence[str] | Callable[[str], str] | None"


class OptionKeywords(TypedDict, total=False):
    """The same wishes as keyword arguments, for signatures."""

    dtype: str
    max_shard_size: str | int | None
    base: str | os.PathLike[str] | None
    lora: str | None
    adapters: Sequence[str]
    exclude_frozen: bool
    ties: str
    include: Sequence[str]
    exclude: Sequence[str]
    names: str
    rename: Rename
    allow_missing: bool
    sentence_transformers: str | None
    rescue: bool | Literal["zeros"]
    fill: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides the bytes of an output. `zeroconsolidate.consolidate` describes each. Raises BadOption."""

    dtype: str = "fp32"
    max_shard_size: str | int | None = None
    base: str | os.PathLike[str] | None = None
    lora: str | None = None
    adapters: Sequence[str] = ()
    exclude_frozen: bool = False
    ties: str = "drop"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    names: str = "hub"
    rename: Rename = None
    allow_missing: bool = False
    sentence_transformers: str | None = None
    rescue: bool | Literal["zeros"] = False
    fill: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ()

    def __post_init__(self) -> None:
        _one_of("ties are", self.ties, "drop", "copy")
        _one_of("names are", self.names, "hub", "in-memory", "stored")
        if self.lora is not None:
            _one_of("adapters become", self.lora, "adapter", "merge", "keep")
        if self.sentence_transformers is not None:
            _one_of("the pooling of sentence-transformers is", self.sentence_transformers, "cls", "mean", "last")
        if self.rescue not in (False, True, "zeros"):
            raise BadOption(f"a rescue is True or 'zeros'; got {self.rescue!r}")
        if not self.rescue and roots_of(self.fill):
            raise BadOption("a model to fill with is only used in a rescue; expected --rescue as well")
        if self.base is not None:
            # Once and for all: a hub id becomes the directory of its snapshot.
            object.__setattr__(self, "base", resolved(os.fspath(self.base)))

    @property
    def base_directory(self) -> str | None:
        """`base` as a path."""
        return None if self.base is None else os.fspath(self.base)

    @property
    def max_shard_bytes(self) -> int | None:
        """`max_shard_size` as a number."""
        return None if self.max_shard_size is None else parse_size(self.max_shard_size)

    @property
    def partial(self) -> bool:
        """Whether tensors are left out on purpose."""
        return bool(self.exclude_frozen or self.include or self.exclude)

    def plain(self) -> dict[str, Any]:
        """Values that JSON can hold, for fingerprint and manifest. A callable is told by its name."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen["base"] = None if self.base_directory is None else os.path.realpath(self.base_directory)
        chosen["fill"] = list(map(os.path.realpath, roots_of(self.fill)))
        for key in ("adapters", "include", "exclude"):
            chosen[key] = list(chosen[key])
        if callable(self.rename):
            chosen["rename"] = f"{self.rename.__module__}.{getattr(self.rename, '__qualname__', 'callable')}"
        elif self.rename is not None:
            chosen["rename"] = list(self.rename)
        return chosen

    def told(self) -> dict[str, Any]:
        """`plain`, for a manifest that goes out into the world: directories by their last name only."""
        chosen = self.plain()
        chosen["base"] = None if chosen["base"] is None else os.path.basename(chosen["base"])
        chosen["fill"] = list(map(os.path.basename, chosen["fill"]))
        return chosen

    @classmethod
    def recorded(cls, chosen: dict[str, Any], *, base: str | os.PathLike[str] | None) -> Options:
        """The options of a manifest, as far as they decide which tensors there are and how they are called."""
        known = {"lora", "adapters", "exclude_frozen", "include", "exclude", "names", "allow_missing"}
        if chosen.get("lora") == "merge":
            known |= {"dtype"}  # merged weights depend on it, and on `base`, of which a manifest keeps the name only
        rename = chosen.get("rename")
        kept = {key: value for key, value in chosen.items() if key in known}
        return cls(ties="copy", base=base, rename=rename if isinstance(rename, list) else None, **kept)


def _one_of(what: str, value: object, *allowed: str) -> None:
    if value not in allowed:
        raise BadOption(f"{what} one of {', '.join(map(repr, allowed))}; got {value!r}")


def roots_of(src: Roots) -> list[str]:
    """The directories, as text."""
    return [os.fspath(src)] if isinstance(src, (str, os.PathLike)) else [os.fspath(root) for root in src]


_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|TB)?\s*", re.IGNORECASE)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(text: str | int) -> int:
    """`"5GB"` -> 5000000000: decimal units, as Hugging Face counts. Raises BadOption.

    >>> parse_size("5GB"), parse_size("1.5 MB"), parse_size(4096)
    (5000000000, 1500000, 4096)
    """
    match = _SIZE.fullmatch(str(text))
    size = int(Decimal(match[1]) * _UNITS[(match[2] or "B").upper()]) if match else 0
    if size < 1:
        raise BadOption(f"a size is a number with B, KB, MB, GB or TB (powers of 1000); got {text!r}")
    return size


def parse_dtype(text: str, training: DType) -> DType:
    """`fp32`, `bf16`, `fp16` or `auto` (the training dtype), torch's spellings included. Raises BadOption.

    >>> parse_dtype("bf16", DType.F32), parse_dtype("auto", DType.F16)
    (DType.BF16, DType.F16)
    """
    known = {
        "fp32": DType.F32, "float32": DType.F32, "float": DType.F32,
        "bf16": DType.BF16, "bfloat16": DType.BF16,
        "fp16": DType.F16, "float16": DType.F16, "half": DType.F16,
        "auto": training,
    }  # fmt: skip
    try:
        return known[text.lower().removeprefix("torch.")]
    except KeyError:
        raise BadOption(f"the dtype is not one of fp32, bf16, fp16, auto; got {text!r}") from None
