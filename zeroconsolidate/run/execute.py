"""The plan of an output file -> its bytes. The one loop that does it, in one thread or in several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import PlanBroken, at
from ..plan.computed import Computed
from .counts import NOTHING, Counts, Seen
from .reader import reader
from .storage import copy_range, extents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..plan.layout import FilePlan, TensorPlan
    from ..plan.pieces import Copy, Recipe
    from .inputs import Inputs
    from .storage import Extent, Writable

BLOCK_BYTES = 1 << 20
"""The executor's reusable buffer: small enough for the processor's cache, large enough to make calls cheap."""
PIECE_BYTES = 8 << 20
"""What one of several threads makes at a time: enough that handing it out costs nothing beside it."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements `[start, stop)` of a tensor that begins at byte `first_byte` of the file."""

    tensor: TensorPlan
    first_byte: int
    start: int
    stop: int

    @property
    def end_byte(self) -> int:
        """The byte behind it."""
        return self.first_byte + self.stop * self.tensor.dtype.itemsize


def execute(
    plan: FilePlan,
    inputs: Inputs,
    output: Writable,
    *,
    start: int,
    stop: int | None = None,
    counts: Counts,
    reached: Callable[[int], None],
    others: Sequence[Inputs] = (),
) -> None:
    """Write bytes `[start, stop)` of one output file, to its end by default; `stop` lies where an element ends.

    `reached(n)` is called again and again: every byte of the file from `start` to n is written; whenever it is
    called the counts are right. With `others`, inputs for a further thread each, pieces of the file are made side by
    side, and bytes above n may be written, too. Raises DamagedFile if an input ends early, OutputFailed if the output
    cannot be written.
    """
    stop = plan.size_bytes if stop is None else stop
    if start < len(plan.header):
        output.write(plan.header, 0)
        reached(len(plan.header))

    def made(tensor: TensorPlan, upto: int, seen: Seen) -> None:
        counts.add(tensor.name, seen)
        reached(upto)

    if others:
        from .threads import Threads

        makers = [_Maker(own, output) for own in (inputs, *others)]
        with Threads(makers, _Maker.quietly) as threads:
            if threads.are_there:
                for piece, seen in threads.in_order(_pieces(plan, start, stop, PIECE_BYTES)):
                    made(piece.tensor, piece.end_byte, seen)
                return
    maker = _Maker(inputs, output)
    for piece in _pieces(plan, start, stop, None):
        maker.make(piece, made)


def extents_of(plan: FilePlan, start: int, stop: int | None = None, *, shared_bytes: int = 0) -> Iterator[Extent]:
    """What :func:`execute` reads of the inputs, for who wants to announce it: what is computed is left out, and so is
    what is shared, in blocks of `shared_bytes` bytes of the disk."""
    for piece in _pieces(plan, start, plan.size_bytes if stop is None else stop, None):
        if piece.tensor.recipe.is_copied:
            copies = piece.tensor.recipe.copies(piece.start, piece.stop)
            yield from extents(copy for copy in copies if not _is_shared(piece, copy, shared_bytes))


def _is_shared(piece: _Piece, copy: Copy, block_bytes: int) -> bool:
    """Whether all of a copy but its edges is shared, if the disk can."""
    target = piece.first_byte + copy.start * piece.tensor.dtype.itemsize
    return bool(block_bytes) and piece.tensor.is_copy and (copy.file_start - target) % block_bytes == 0


def _pieces(plan: FilePlan, start: int, stop: int, most_bytes: int | None) -> Iterator[_Piece]:
    """What is to be made of bytes `[start, stop)`, in the order of the file: whole tensors, or pieces of
    `most_bytes`. What is compared with a witness comes in pieces in any case."""
    for tensor, first_byte in zip(plan.tensors, plan.starts, strict=True):
        # An element that an interruption has cut in two is made again.
        first = max(start - first_byte, 0) // tensor.dtype.itemsize
        last = min((stop - first_byte) // tensor.dtype.itemsize, tensor.numel)
        if first >= last:
            continue
        cuts = [last]
        if tensor.witness is not None:
            cuts = [*(cut for cut in _even_cuts(tensor, first_byte) if cut < last), last]
        elif most_bytes is not None:
            wide = max(tensor.dtype.itemsize, tensor.recipe.dtype.itemsize)
            cuts = [*(cut for cut in cuts_of(tensor.recipe, max(most_bytes // wide, 1)) if cut < last), last]
        for cut in cuts:
            if cut > first:
                yield _Piece(tensor, first_byte, first, cut)
                first = cut


def cuts_of(recipe: Recipe, most_numel: int) -> list[int]:
    """Where the pieces of a tensor end: where its own blocks do, if it is computed block by block."""
    if not isinstance(recipe, Computed):
        return [*range(most_numel, recipe.numel, most_numel), recipe.numel]
    cuts, last = [], 0
    for end in recipe.block_ends:
        if end - last >= most_numel or end == recipe.numel:
            cuts.append(end)
            last = end
    return cuts


def _even_cuts(tensor: TensorPlan, first_byte: int) -> range:
    """Where the pieces of a tensor end, if its blocks may be shared: at multiples of their size in the file, so that
    no block of the disk lies in two."""
    most_numel = max(PIECE_BYTES // tensor.recipe.dtype.itemsize, 1)
    before = first_byte // tensor.dtype.itemsize
    return range(most_numel - before % most_numel, tensor.numel, most_numel)


class _Maker:
    """Makes one piece after the other, with blocks and a reader that it keeps for the next."""

    def __init__(self, inputs: Inputs, output: Writable) -> None:
        self._inputs, self._output = inputs, output
        self._block = memoryview(bytearray(BLOCK_BYTES))
        self._reading: tuple[TensorPlan, Any] | None = None
        self._arrays: dict[str, Any] = {}

    def make(self, piece: _Piece, made: Callable[[TensorPlan, int, Seen], None]) -> None:
        """`made(tensor, n, seen)` on the way: the piece is written below byte n of the file, and this was seen in what
        was written since the last time."""
        with at(piece.tensor.name):
            if piece.tensor.is_copy:
                self._copy(piece, made)
            else:
                self._blocks(piece, made)

    def quietly(self, piece: _Piece) -> tuple[_Piece, Seen]:
        """The piece, when all of it is made, and what was seen in it."""
        seen = NOTHING

        def count(_tensor: TensorPlan, _upto: int, more: Seen) -> None:
            nonlocal seen
            seen = seen.and_more(more)

        self.make(piece, count)
        return piece, seen

    def _copy(self, piece: _Piece, made: Callable[[TensorPlan, int, Seen], None]) -> None:
        """The output's bytes are input bytes: extents go straight to their place."""
        tensor, position = piece.tensor, piece.start
        for copy in tensor.recipe.copies(piece.start, piece.stop):
            if copy.start != position or copy.count != 1:
                raise PlanBroken(
                    "the copies leave a gap or overlap", expected=f"element {position} next", found=copy.start
                )
            self._from_input(piece, copy, lambda upto: made(tensor, upto, NOTHING))
            position += copy.numel
        if position != piece.stop:
            raise PlanBroken("the copies end early", expected=f"{piece.stop} elements", found=position)

    def _from_input(self, piece: _Piece, copy: Copy, reached: Callable[[int], None]) -> None:
        """The bytes of a copy, to their place in the output."""
        copy_range(
            self._inputs.files,
            copy.file,
            copy.file_start,
            copy.nbytes,
            self._output,
            piece.first_byte + copy.start * piece.tensor.dtype.itemsize,
            block=self._block,
            reached=reached,
        )

    def _blocks(self, piece: _Piece, made: Callable[[TensorPlan, int, Seen], None]) -> None:
        """Elements are gathered, cast and written block by block. Blocks that a witness holds bit for bit are shared
        with it instead, as many in a row at once as there are."""
        # numpy is imported by those who cast; a plain copy never pays for it.
        import numpy as np

        from .cast import STORAGE, cast, unlike

        tensor = piece.tensor
        recipe = tensor.recipe
        if self._reading is None or self._reading[0] is not tensor:
            self._reading = None  # what it holds is given up before the next is made
            self._reading = (tensor, reader(recipe, self._inputs))
        elements = self._reading[1]
        wide = max(recipe.dtype.itemsize, tensor.dtype.itemsize)
        block_numel = min(piece.stop - piece.start, elements.block_numel or BLOCK_BYTES // wide)
        source = self._array("source", block_numel if recipe.dtype is not tensor.dtype else 0, STORAGE[recipe.dtype])
        target = self._array("target", block_numel, STORAGE[tensor.dtype])
        witness = None if tensor.witness is None else reader(tensor.witness, self._inputs)
        saved = self._array("saved", block_numel if witness is not None else 0, STORAGE[tensor.dtype])
        equal_from, seen_equal = piece.start, NOTHING
        for begin in range(piece.start, piece.stop, block_numel):
            end = min(begin + block_numel, piece.stop)
            here, there = source[: end - begin], target[: end - begin]
            seen = NOTHING
            if recipe.dtype is tensor.dtype:
                elements.fill(begin, end, there)
            else:
                elements.fill(begin, end, here)
                seen = Seen(infinite=cast(here, recipe.dtype, tensor.dtype, there))
            if witness is not None:
                witness.fill(begin, end, saved[: end - begin])
                differing = unlike(there, saved[: end - begin], tensor.dtype)
                if differing is None:
                    seen_equal = seen_equal.and_more(seen)
                    continue
                self._share(piece, equal_from, begin, seen_equal, made)
                equal_from, seen_equal, seen = end, NOTHING, Seen(seen.infinite, differing)
            self._output.write(there.view(np.uint8).data, piece.first_byte + begin * tensor.dtype.itemsize)
            made(tensor, piece.first_byte + end * tensor.dtype.itemsize, seen)
        if witness is not None:
            self._share(piece, equal_from, piece.stop, seen_equal, made)

    def _share(
        self, piece: _Piece, start: int, stop: int, seen: Seen, made: Callable[[TensorPlan, int, Seen], None]
    ) -> None:
        """Elements `[start, stop)`, which a witness holds as they are to be written: its blocks are shared, and what
        cannot be is copied from it."""
        tensor = piece.tensor
        if tensor.witness is None or start == stop:
            return
        for copy in tensor.witness.copies(start, stop):
            self._from_input(piece, copy, lambda _: None)  # what was seen is of all of them together
        made(tensor, piece.first_byte + stop * tensor.dtype.itemsize, seen)

    def _array(self, use: str, numel: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Memory for that use, the same as the last time if it is large enough."""
        import numpy as np

        held = self._arrays.get(use)
        if held is None or held.nbytes < numel * dtype.itemsize:
            held = self._arrays[use] = np.empty(numel * dtype.itemsize, np.uint8)
        found: NDArray[np.generic] = held[: numel * dtype.itemsize].view(dtype)
        return found
