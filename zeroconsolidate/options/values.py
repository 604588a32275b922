"""What the values of options mean: directories, sizes, dtypes."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeAlias

from ..dtypes import DType
from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Path: TypeAlias = "str | os.PathLike[str]"
Roots: TypeAlias = "Path | Sequence[Path]"
"""A checkpoint, or the directories on several nodes' disks that hold one together."""

Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with (bytes done so far, bytes in all)."""


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
    from decimal import Decimal

    match = _SIZE.fullmatch(str(text))
    size = int(Decimal(match[1]) * _UNITS[(match[2] or "B").upper()]) if match else 0
    if size < 1:
        raise BadOption(f"a size is a number with B, KB, MB, GB or TB (powers of 1000); got {text!r}")
    return size


_DTYPES = {"fp32": DType.F32, "bf16": DType.BF16, "fp16": DType.F16}
_SPELLINGS = {
    "fp32": "fp32", "float32": "fp32", "float": "fp32",
    "bf16": "bf16", "bfloat16": "bf16",
    "fp16": "fp16", "float16": "fp16", "half": "fp16",
    "auto": "auto",
}  # fmt: skip


def dtype_name(given: object) -> str:
    """`fp32`, `bf16`, `fp16` or `auto`, whichever of torch's spellings is given; a `torch.dtype` too, by its text, so
    that torch need not be imported. Raises BadOption.

    >>> dtype_name("bfloat16"), dtype_name("torch.float16"), dtype_name("auto")
    ('bf16', 'fp16', 'auto')
    """
    try:
        return _SPELLINGS[str(given).lower().removeprefix("torch.")]
    except KeyError:
        raise BadOption(f"the dtype is not one of fp32, bf16, fp16, auto; got {given!r}") from None


def parse_dtype(given: object, training: DType) -> DType:
    """The dtype that is meant, where `auto` is that of training. Raises BadOption.

    >>> parse_dtype("bf16", DType.F32), parse_dtype("auto", DType.F16)
    (DType.BF16, DType.F16)
    """
    return _DTYPES.get(dtype_name(given), training)


def as_plain(value: object, path: Callable[[str], str] | None) -> object:
    """`value` as JSON can hold it, texts as `path` makes them. A callable is named."""
    if callable(value):
        module = getattr(value, "__module__", None) or "builtins"  # which is not said of `str.lower`
        return f"{module}.{getattr(value, '__qualname__', 'callable')}"
    if isinstance(value, (tuple, list)):
        return [as_plain(each, path) for each in value]
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value) if path is None else path(os.fspath(value))
    return value
