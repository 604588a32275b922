"""Planned files -> stretches of their bytes, which several machines can make at the same time.

All files of a plan, laid end to end, are cut where the bytes are shared out:

    files      |  model-00001  |  model-00002  |  model-00003  |
    3 parts    |     1    :    |  2     :      |   :  3        |
    stretches  |    1/3       |2/3|    2/3   |3/3|    3/3      |

It is arithmetic on names and sizes: every machine that has planned the same files cuts them at the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import BadOption
from .fragment import FragmentPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .layout import FilePlan

    Grid = Callable[[int], int]
    """Size of a file -> a number of bytes, at whose multiples it may be cut."""

CUT_BYTES = 1 << 20
"""A cut lies at a multiple of it. No page is then written by two machines: a client of NFS that knows a whole page may
send all of it, with old bytes in the half that another has written (Linux `fs/nfs/write.c`, `nfs_can_extend_write`)."""


def pages(_size_bytes: int) -> int:
    """Where files on a disk are cut."""
    return CUT_BYTES


MOST_PARTS = 10_000
"""More are refused: each has a journal of its own."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Part `number` of `count`, from 1 on.

    >>> Part.parse("3/16"), str(Part(3, 16))
    (Part(number=3, count=16), '3/16')
    """

    number: int
    count: int

    @classmethod
    def parse(cls, given: object) -> Part:
        """The part that a text such as `3/16` names. Raises BadOption."""
        texts = str(given).split("/")
        numbers = [int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0 for text in texts]
        if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] <= MOST_PARTS:
            raise BadOption(
                "a part is its number and how many there are",
                expected=f"1/16 to 16/16, for example; at most {MOST_PARTS:,}",
                found=repr(given),
            )
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Bytes `[start, stop)` of the planned file `file`."""

    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def share_of(files: Sequence[FilePlan], part: Part, grid: Grid = pages) -> tuple[Stretch, ...]:
    """The stretches of one part, in the order of the files. All parts together are every byte once.

    A part may be empty, if there are more parts than places to cut.
    """
    total = sum(file.size_bytes for file in files)
    begin, end = (total * number // part.count for number in (part.number - 1, part.number))
    found, before = [], 0
    for file in files:
        start, stop = (cut_near(file, min(max(place - before, 0), file.size_bytes), grid) for place in (begin, end))
        if start < stop:
            found.append(Stretch(file=file.name, start=start, stop=stop))
        before += file.size_bytes
    return tuple(found)


def stretches(files: Sequence[FilePlan], most_bytes: int, grid: Grid = pages) -> Iterator[Stretch]:
    """Every byte once, in the order of the files, in stretches of about `most_bytes` or less."""
    for file in files:
        count = -(-file.size_bytes // most_bytes)
        cuts = sorted({cut_near(file, file.size_bytes * i // count, grid) for i in range(count + 1)})
        for start, stop in pairwise(cuts):
            yield Stretch(file=file.name, start=start, stop=stop)


def cut_near(file: FilePlan, byte: int, grid: Grid = pages) -> int:
    """Where a file may be cut, if it should be at `byte`: behind its header, at an element, at a multiple of `grid`.

    A file with a checksum of its bytes is not cut.
    """
    if byte in (0, file.size_bytes):
        return byte
    if isinstance(file, FragmentPlan):
        return file.size_bytes if 2 * byte > file.size_bytes else 0
    step_bytes = grid(file.size_bytes)
    cut = byte // step_bytes * step_bytes
    if cut < len(file.header):
        return 0
    index = bisect_right(file.starts, cut) - 1
    # Of a tensor that does not begin at a multiple of its elements' size, no element ends at a multiple of 1 MiB.
    return cut - (cut - file.starts[index]) % file.tensors[index].dtype.itemsize
