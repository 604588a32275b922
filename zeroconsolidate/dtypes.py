"""Element types, under safetensors' names."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class DType(Enum):
    """An element type: `code` is the safetensors spelling, `torch_name` the attribute of `torch`.

    The members stand in the order in which safetensors lays tensors out in a file (the descending order of
    its Rust enum `safetensors::tensor::Dtype`), which :attr:`file_order` exposes.

    >>> DType.BF16.itemsize, DType.BF16.torch_name, DType.of("bfloat16") is DType.BF16
    (2, 'bfloat16', True)
    """

    U64 = ("U64", 8, "uint64", "integer")
    I64 = ("I64", 8, "int64", "integer")
    F64 = ("F64", 8, "float64", "float")
    C64 = ("C64", 8, "complex64", "complex")
    F32 = ("F32", 4, "float32", "float")
    U32 = ("U32", 4, "uint32", "integer")
    I32 = ("I32", 4, "int32", "integer")
    BF16 = ("BF16", 2, "bfloat16", "float")
    F16 = ("F16", 2, "float16", "float")
    U16 = ("U16", 2, "uint16", "integer")
    I16 = ("I16", 2, "int16", "integer")
    F8_E5M2FNUZ = ("F8_E5M2FNUZ", 1, "float8_e5m2fnuz", "float8")
    F8_E4M3FNUZ = ("F8_E4M3FNUZ", 1, "float8_e4m3fnuz", "float8")
    F8_E4M3 = ("F8_E4M3", 1, "float8_e4m3fn", "float8")
    F8_E5M2 = ("F8_E5M2", 1, "float8_e5m2", "float8")
    I8 = ("I8", 1, "int8", "integer")
    U8 = ("U8", 1, "uint8", "integer")
    BOOL = ("BOOL", 1, "bool", "bool")

    def __init__(self, code: str, itemsize: int, torch_name: str, kind: str) -> None:
        self.code = code
        self.itemsize = itemsize
        self.torch_name = torch_name
        self.kind = kind

    @property
    def is_floating(self) -> bool:
        """Whether a model's dtype applies to it: only floating-point parameters are ever cast."""
        return self.kind == "float"

    @property
    def file_order(self) -> int:
        """Position among the dtypes of a safetensors file; the lowest comes first."""
        return _FILE_ORDER[self]

    @classmethod
    def of(cls, torch_name: str) -> DType:
        """The member torch calls `torch_name`. Raises KeyError."""
        return _BY_TORCH_NAME[torch_name]

    @classmethod
    def holding(cls, dtypes: Iterable[DType]) -> DType:
        """The narrowest that holds the numbers of each of these: of dtypes that differ, floating-point ones only.

        >>> DType.holding([DType.BF16, DType.F32]), DType.holding([DType.BF16, DType.F16])
        (DType.F32, DType.F32)
        """
        different = set(dtypes)
        widest = max(different, key=lambda dtype: dtype.itemsize)
        # Of two 16-bit dtypes, one has the larger numbers and the other the finer ones.
        return cls.F32 if sum(dtype.itemsize == widest.itemsize for dtype in different) > 1 else widest

    def __repr__(self) -> str:
        return f"DType.{self.name}"


_FILE_ORDER = {dtype: position for position, dtype in enumerate(DType)}
_BY_TORCH_NAME = {dtype.torch_name: dtype for dtype in DType}
