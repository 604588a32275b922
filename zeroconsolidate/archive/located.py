"""What stands for a tensor after reading: in which bytes of which file it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DamagedFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType

MAX_DIMENSIONS = 64
"""Tensors of more dimensions are refused, as numpy does."""
MAX_NUMEL = 1 << 56
"""Larger shapes, strides and offsets are refused, so that every byte position and size fits into 64 bits."""
MAX_REPEATED_NUMEL = 1 << 24
"""A view may repeat the elements of its storage (`expand`) up to this size: small buffers are saved that way,
but four bytes that expand to terabytes are an attack."""

LOST = "<lost>"
"""The `file` of a storage whose file is missing. That it was saved is known from the files of other ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedStorage:
    """The bytes behind one or several tensors, inside a `.pt` container."""

    file: str
    """Path of the container, "" for an empty storage: that has no place."""
    key: str
    """Name of the storage inside it."""
    start: int
    """Byte of the file at which element 0 begins."""
    numel: int
    """Number of elements."""
    dtype: DType
    big_endian: bool
    """Whether elements are stored with the most significant byte first."""


@dataclass(frozen=True, slots=True)
class LocatedTensor:
    """A strided view of a storage: torch's `(storage, offset, size, stride)`, proven to stay inside it.

    `shape`, `stride` and `offset` count elements. `item` is the value of a 0-d tensor (they are read at once,
    because the facts they state, such as the optimizer's step, are needed to compare files), else None.
    """

    storage: LocatedStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    item: float | int | None = None

    def __post_init__(self) -> None:
        shape, stride, offset = self.shape, self.stride, self.offset
        numel, last, possible = 1, offset, len(shape) == len(stride) <= MAX_DIMENSIONS and 0 <= offset <= MAX_NUMEL
        if possible:  # else not even multiplied: a million large sizes make a number of megabytes
            for n, step in zip(shape, stride, strict=True):
                possible = possible and 0 <= n <= MAX_NUMEL and 0 <= step <= MAX_NUMEL
                numel *= n
                last += (n - 1) * step
        if not possible:
            raise DamagedFile("a tensor's shape, strides or offset are impossible", found=self._geometry())
        if numel and last >= self.storage.numel:
            raise DamagedFile(
                f"a tensor reaches past its storage {self.storage.key[:80]!r}",
                expected=f"at most {self.storage.numel} elements",
                found=f"a view that needs {last + 1}",
            )
        if numel > self.storage.numel and numel > MAX_REPEATED_NUMEL:
            raise DamagedFile(
                "a tensor repeats the elements of its storage too often",
                expected=f"at most {MAX_REPEATED_NUMEL} elements out of {self.storage.numel}",
                found=self._geometry(),
            )

    def _geometry(self) -> str:
        shape, stride = (
            str(values[:8])[:-1] + (", …)" if len(values) > 8 else ")") for values in (self.shape, self.stride)
        )
        return f"shape {shape}, stride {stride}, offset {self.offset}"[:300]

    @property
    def dtype(self) -> DType:
        return self.storage.dtype

    @property
    def file(self) -> str:
        return self.storage.file

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def start(self) -> int:
        """Byte of the file at which the first element begins."""
        return self.storage.start + self.offset * self.storage.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements stand one after another in row-major order (dimensions of size 1 do not count)."""
        expected = 1
        for n, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and step != expected:
                return self.numel == 0
            expected *= n
        return True

    @property
    def identity(self) -> str:
        """Equal for two tensors exactly when they are the same view of the same storage.

        It is text because it is used as a key: a file can make the hashes of integers and tuples collide, those
        of text it cannot.
        """
        return f"{self.offset} {self.shape} {self.stride} {self.storage.key} {self.storage.file}"


def contiguous(storage: LocatedStorage, shape: tuple[int, ...], offset: int = 0) -> LocatedTensor:
    """The tensor of `shape` whose elements stand one after another in a storage."""
    return LocatedTensor(storage, offset, shape, row_major(shape))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides = [1] * len(shape)
    for index in range(len(shape) - 1, 0, -1):
        strides[index - 1] = strides[index] * shape[index]
    return tuple(strides)
