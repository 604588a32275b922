"""Recipes of tensors with lost intervals, which another recipe or zeros replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pieces import ZEROS, Copied, Copy, share_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..dtypes import DType
    from .pieces import Recipe


@dataclass(frozen=True, slots=True)
class Patched:
    """`whole`, except for the intervals `holes`, which are those of `patch`."""

    whole: Recipe
    patch: Recipe
    holes: tuple[tuple[int, int], ...]

    @property
    def numel(self) -> int:
        return self.whole.numel

    @property
    def dtype(self) -> DType:
        return self.whole.dtype

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def is_copied(self) -> bool:
        return self.whole.is_copied and self.patch.is_copied

    @property
    def input_bytes(self) -> int:
        lost = sum(stop - start for start, stop in self.holes)
        return share_bytes(self.whole, self.numel - lost) + share_bytes(self.patch, lost)

    @property
    def memory_bytes(self) -> int:
        return self.whole.memory_bytes + self.patch.memory_bytes

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """The copies of either recipe, by turns. Those of the patch may have another dtype."""
        here, end = start, self.numel if stop is None else stop
        for first, last in self.holes:
            if last <= here:
                continue
            if first >= end:
                break
            if here < first:
                yield from self.whole.copies(here, first)
            yield from self.patch.copies(max(here, first), min(last, end))
            here = min(last, end)
        if here < end:
            yield from self.whole.copies(here, end)


@dataclass(frozen=True, slots=True)
class Zeros(Copied):
    """A tensor of zeros."""

    numel: int
    dtype: DType

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def input_bytes(self) -> int:
        return 0

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """One copy, of the input that is nothing but zeros."""
        end = self.numel if stop is None else stop
        if start < end:
            yield Copy(file=ZEROS, file_start=0, dtype=self.dtype, big_endian=False, start=start, run_numel=end - start)
