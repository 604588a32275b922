"""The values of options -> directories, sizes, dtypes."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..dtypes import DType
from ..errors import BadOption
from .steps import Transform
from .urls import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Path: TypeAlias = "str | os.PathLike[str]"
Roots: TypeAlias = "Path | Sequence[Path]"
"""A checkpoint, or the directories on several nodes' disks that hold one together."""

Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with (bytes done so far, bytes in all)."""


def roots_of(src: Roots) -> list[str]:
    """The directories, as text: paths and URLs."""
    roots = [src] if isinstance(src, (str, os.PathLike)) else src
    return [plain(os.fspath(root)) for root in roots]


_SIZE = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([A-Z]*)\s*", re.IGNORECASE)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}  # fmt: skip


def parse_size(given: str | int) -> int:
    """The number of bytes that a text with a unit, or an int, stands for. Raises BadOption.

    >>> parse_size("5GB"), parse_size("1.5 MB"), parse_size("4KiB"), parse_size(4096)
    (5000000000, 1500000, 4096, 4096)
    """
    size = given if isinstance(given, int) else _parsed(str(given))
    if size < 1:
        raise BadOption(
            "a size is a number with B, KB, MB, GB or TB (powers of 1000), or KiB, MiB, GiB or TiB (powers of 1024)",
            found=repr(given),
        )
    return size


def _parsed(text: str) -> int:
    """0 if it is not a size."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return 0
    number, fraction, unit = match[1], match[2] or "", match[3]
    if not unit:
        raise BadOption("a size needs a unit", expected=f"{number}GB or {number}GiB, for example", found=repr(text))
    # In integers: decimal takes longer to import than the whole command line to parse.
    return int(int(number + fraction) * _UNITS.get(unit.upper(), 0) // 10 ** len(fraction))


def size_text(size_bytes: int) -> str:
    """A size with three digits, in decimal units, as Hugging Face and disks count.

    >>> size_text(127), size_text(56_130), size_text(999_999), size_text(1_270_000_000)
    ('127 B', '56.1 KB', '1.00 MB', '1.27 GB')
    """
    for unit, one in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size_bytes >= 0.9995 * one:
            size = size_bytes / one
            return f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f} {unit}"
    return f"{size_bytes} B"


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
        raise BadOption("the dtype is not one of fp32, bf16, fp16, auto", found=repr(given)) from None


def parse_dtype(given: object, training: DType) -> DType:
    """The dtype that is meant, where `auto` is that of training. Raises BadOption.

    >>> parse_dtype("bf16", DType.F32), parse_dtype("auto", DType.F16)
    (DType.BF16, DType.F16)
    """
    return _DTYPES.get(dtype_name(given), training)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much two elements may differ."""

    most: float
    is_relative: bool
    """Whether `most` is a share of the larger of both absolute values."""


def parse_tolerance(given: object) -> Tolerance:
    """A number, or one with a percent sign. Raises BadOption.

    >>> parse_tolerance("1e-6"), parse_tolerance("0.5%")
    (Tolerance(most=1e-06, is_relative=False), Tolerance(most=0.005, is_relative=True))
    """
    text = str(given).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf or isinstance(given, bool):
        raise BadOption("the tolerance is not a number", expected="1e-6 or 0.5%, for example", found=repr(given)[:60])
    is_relative = text.endswith("%")
    return Tolerance(number / 100 if is_relative else number, is_relative)


MAX_WORKERS = 64
"""More threads than this are refused: one file does not feed them."""


def worker_count(given: object) -> int | Literal["auto"]:
    """A number of threads, as a number or a text, or `auto`. Raises BadOption.

    >>> worker_count("4"), worker_count(1), worker_count("auto")
    (4, 1, 'auto')
    """
    if given == "auto":
        return "auto"
    text = str(given)
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= count <= MAX_WORKERS or isinstance(given, bool):
        raise BadOption(f"--workers takes a number from 1 to {MAX_WORKERS}, or auto", found=repr(given))
    return count


def element_type(given: object) -> DType:
    """An element type by any of its names: `bf16`, `bfloat16`, a `torch.dtype`, a numpy one. Raises BadOption.

    >>> element_type("bf16"), element_type("torch.float64"), element_type("int8")
    (DType.BF16, DType.F64, DType.I8)
    """
    name = str(getattr(given, "__name__", given)).lower().removeprefix("torch.")
    try:
        return _DTYPES[_SPELLINGS[name]] if name in _SPELLINGS else DType.of(name)
    except KeyError:
        raise BadOption(
            "there is no such dtype", expected="fp32, bf16, fp16 or a torch.dtype", found=repr(given)
        ) from None


def as_plain(value: object, path: Callable[[str], str] | None) -> object:
    """`value` as JSON can hold it, texts as `path` makes them. A callable is named."""
    if isinstance(value, Transform):
        return dict(value.record)
    if callable(value):
        module = getattr(value, "__module__", None) or "builtins"  # which is not said of `str.lower`
        return f"{module}.{getattr(value, '__qualname__', 'callable')}"
    if isinstance(value, (tuple, list)):
        return [as_plain(each, path) for each in value]
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value) if path is None else path(os.fspath(value))
    return value
