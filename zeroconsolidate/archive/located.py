"""What stands in place of a tensor after reading: where its bytes are, not the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DamagedFile

if TYPE_CHECKING:
    from ..dtypes import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedStorage:
    """The bytes behind one or several tensors, inside a `.pt` container."""

    file: str
    """Path of the container."""
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
        if len(self.shape) != len(self.stride) or min((self.offset, *self.shape, *self.stride)) < 0:
            raise DamagedFile(
                f"a tensor's geometry is impossible; got shape {self.shape}, stride {self.stride}, offset {self.offset}"
            )
        if self.numel and self._last >= self.storage.numel:
            raise DamagedFile(
                f"a tensor reaches past its storage {self.storage.key!r}; "
                f"expected at most {self.storage.numel} elements, got a view that needs {self._last + 1}"
            )

    @property
    def _last(self) -> int:
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    @property
    def dtype(self) -> DType:
        return self.storage.dtype

    @property
    def file(self) -> str:
        return self.storage.file

    @property
    def numel(self) -> int:
        numel = 1
        for n in self.shape:
            numel *= n
        return numel

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
    def identity(self) -> tuple[object, ...]:
        """Equal for two tensors exactly when they are the same view of the same storage."""
        return (self.storage.file, self.storage.key, self.offset, self.shape, self.stride)
