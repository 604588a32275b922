"""Files -> digests of them and of their tensors.

:class:`Follower` computes them while a file is being written, in a thread that reads back what the writer has
already handed to the page cache: hashing releases the interpreter's lock, so the copy goes on beside it.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import BadOption
from ..integrations.packages import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from .storage import Readable, Writable

ALGORITHMS = ("sha256", "xxh3")
"""SHA-256 as `sha256sum` prints it; XXH3 with 128 bits, several times faster, against accidents only."""

_BLOCK_BYTES = 1 << 20
_CACHED_BYTES = 1 << 18
"""Blocks that are read only to be hashed fit into the core's own cache. SHA-256 then ran at 1.3 GB/s, even when other
processes used the shared cache; with blocks of a megabyte it then fell to 0.9."""


class Hash(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: memoryview, /) -> object:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes taken in."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `[start, stop)` of a file, and the tensor they are (None for a header)."""

    start: int
    stop: int
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Hexadecimal digests of a file and of its tensors, by name."""

    file: str
    tensors: dict[str, str]


def maker(algorithm: str) -> Callable[[], Hash]:
    """What makes a new hash of that kind. Raises BadOption for an unknown one, MissingPackage without xxhash."""
    if algorithm == "sha256":
        return hashlib.sha256
    if algorithm == "xxh3":
        try:
            import xxhash
        except ImportError:
            raise missing("the digest xxh3", "xxhash", extra="xxh3") from None
        made: Callable[[], Hash] = xxhash.xxh3_128
        return made
    raise BadOption(f"a digest is one of {', '.join(ALGORITHMS)}", found=repr(algorithm))


def digest_of(
    files: Readable,
    file: str,
    algorithm: str,
    *,
    start: int = 0,
    stop: int | None = None,
    progress: Callable[[int], None],
) -> str:
    """The digest of bytes `[start, stop)` of a file, to its end by default. `progress(n)` after every n bytes.

    Raises DamagedFile if the file cannot be read or ends before `stop`.
    """
    hashed = maker(algorithm)()
    for part in file_blocks(files, file, start, files.size_bytes(file) if stop is None else stop):
        hashed.update(part)
        progress(len(part))
    return hashed.hexdigest()


def digests_of(files: Readable, file: str, spans: Sequence[Span], algorithm: str) -> Digests:
    """The digests of a file that is complete, and of its tensors. `spans` are the whole file, in order.

    Raises DamagedFile if the file cannot be read or ends before they do.
    """
    make = maker(algorithm)
    whole, tensors = make(), {}
    for span in spans:
        tensor = make()
        for part in file_blocks(files, file, span.start, span.stop):
            whole.update(part)
            if span.name is not None:
                tensor.update(part)
        if span.name is not None:
            tensors[span.name] = tensor.hexdigest()
    return Digests(file=whole.hexdigest(), tensors=tensors)


def file_blocks(files: Readable, file: str, start: int, stop: int) -> Iterator[memoryview]:
    """Bytes `[start, stop)` of a file, block by block; the next overwrites the last. Raises DamagedFile."""
    block = memoryview(bytearray(_CACHED_BYTES))
    with files.expecting([(file, start, stop)]):
        for here in range(start, stop, _CACHED_BYTES):
            part = block[: min(_CACHED_BYTES, stop - here)]
            files.read_into(file, here, part)
            yield part


class Follower:
    """Computes the digests of a file while it is written from its first byte to its last; use it as a context manager.

    `spans` are the whole file, in order. :meth:`reached` says how far it is written, :meth:`result` waits for
    the rest. Leaving the block without a result stops the thread.
    """

    def __init__(self, output: Writable, spans: Sequence[Span], algorithm: str) -> None:
        self._output = output
        self._spans = spans
        self._make = maker(algorithm)
        self._turn = threading.Condition()
        self._upto = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._file = self._make()
        self._tensors: dict[str, str] = {}
        self._thread = threading.Thread(target=self._follow, name="zeroconsolidate-digest", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._turn:
            self._stopped = True
            self._turn.notify()
        self._thread.join()

    def reached(self, upto: int) -> None:
        """Every byte below `upto` is written."""
        with self._turn:
            self._upto = upto
            self._turn.notify()

    def result(self) -> Digests:
        """The digests, when the last byte has been reached. Raises OutputFailed if it could not be read back."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return Digests(file=self._file.hexdigest(), tensors=self._tensors)

    def _follow(self) -> None:
        block = memoryview(bytearray(_BLOCK_BYTES))
        try:
            for span in self._spans:
                tensor = self._make()
                for here in range(span.start, span.stop, _BLOCK_BYTES):
                    part = block[: min(_BLOCK_BYTES, span.stop - here)]
                    if not self._wait(here + len(part)):
                        return
                    self._output.read_into(here, part)
                    self._file.update(part)
                    if span.name is not None:
                        tensor.update(part)
                if span.name is not None:
                    self._tensors[span.name] = tensor.hexdigest()
        except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
            self._error = error

    def _wait(self, upto: int) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._stopped or self._upto >= upto)
            return self._upto >= upto
