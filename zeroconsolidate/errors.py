"""Everything that can go wrong, on one page.

Each error is also the built-in a caller would think of catching::

    ZeroConsolidateError
    ├── NotACheckpoint        FileNotFoundError    the path, tag or `latest` leads to no checkpoint
    ├── MissingFiles          FileNotFoundError    a rank's file is not there (`.files`)
    ├── DamagedFile           ValueError           truncated, empty, not what its name says
    │   ├── UnsafePickle      ValueError           names code that no checkpoint needs; nothing was run
    │   └── UnsafePath        ValueError           a link that leads out, a pipe or device in place of a file
    ├── Disagreement          ValueError           two files disagree
    ├── WitnessMismatch       ValueError           a master weight does not round to its 16-bit copy
    ├── UnsupportedLayout     NotImplementedError  a layout we know of, or do not know, and cannot read
    ├── WrongNames            ValueError           a loader would not find its parameters under these names
    ├── BadOption             ValueError           an argument that makes no sense here
    ├── OutputExists          FileExistsError      the output is there already, or someone is writing it
    ├── OutputFailed          OSError              the output could not be written (`.errno` kept)
    └── PlanBroken            ValueError           our own arithmetic contradicts itself: a bug in this library

An error has parts, which the command prints on lines of their own and `--json` gives by name::

    >>> error = DamagedFile("the flat group holds too few elements", expected="12", found="10")
    >>> error.message, error.expected, error.found
    ('the flat group holds too few elements', '12', '10')

and an address. Code that knows where it is wraps its work in :func:`at`, and the address grows from the inside out
while the error unwinds::

    >>> with at("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"), at("group 0"):
    ...     raise error
    Traceback (most recent call last):
        ...
    zeroconsolidate.errors.DamagedFile: the flat group holds too few elements; expected 12, got 10 \
(at bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt > group 0)
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from collections.abc import Iterator


class Parts(TypedDict, total=False):
    """What an error says besides what is wrong."""

    expected: object
    found: object
    """What should be there, and what is; kept as text."""
    consequence: str | None
    """What follows from it, or why it matters."""
    remedy: str | tuple[str, ...] | None
    """What to do: an option, a command line, or words; several, if there is a choice. OUTPUT stands for the directory
    to be written."""
    address: tuple[str, ...]
    """The places it happened at, outermost first."""


class ZeroConsolidateError(Exception):
    """Base of all errors. `str` of it is one sentence of all its parts, which are attributes too (see :class:`Parts`).

    `message` says what is wrong.
    """

    def __init__(self, message: str, **parts: Unpack[Parts]) -> None:
        super().__init__(message)
        self.message = message
        self.expected = _text(parts.get("expected"))
        self.found = _text(parts.get("found"))
        self.consequence = parts.get("consequence")
        remedy = parts.get("remedy") or ()
        self.remedies = (remedy,) if isinstance(remedy, str) else remedy
        self.address = parts.get("address", ())
        self.files: tuple[str, ...] = ()
        """Where files of a checkpoint cannot be used: their names."""
        self.losses: tuple[Any, ...] = ()
        """Where files of a checkpoint cannot be used: a `plan.losses.Loss` for each of its tensors."""

    @property
    def comparison(self) -> str:
        """`expected x, got y`, as far as there is something to compare."""
        words = (("expected", self.expected), ("got", self.found))
        return ", ".join(f"{word} {value}" for word, value in words if value)

    @property
    def finding(self) -> str:
        """What is wrong, with what was expected and found."""
        return "; ".join(filter(None, (self.message, self.comparison)))

    @property
    def remedy(self) -> str | None:
        """What to do, in one text."""
        return "; ".join(self.remedies) or None

    @property
    def sentence(self) -> str:
        """All but the address."""
        return "; ".join(filter(None, (self.finding, self.consequence, self.remedy)))

    def __str__(self) -> str:
        return f"{self.sentence} (at {' > '.join(self.address)})" if self.address else self.sentence


def _text(value: object) -> str | None:
    return None if value is None else str(value)


class NotACheckpoint(ZeroConsolidateError, FileNotFoundError):
    """The path, the tag or the file `latest` leads to no checkpoint."""


class MissingFiles(ZeroConsolidateError, FileNotFoundError):
    """Files of some ranks are not there; `files` has their names."""

    def __init__(self, message: str, *, files: tuple[str, ...] = (), **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.files = files


class DamagedFile(ZeroConsolidateError, ValueError):
    """A file is truncated, empty, or not what its name says."""


class UnsafePickle(DamagedFile):
    """A pickle names code that no checkpoint needs. Nothing of it was run."""


class UnsafePath(DamagedFile):
    """A link or a name that leads out of its directory, or something that is no regular file. It was not read."""


class Disagreement(ZeroConsolidateError, ValueError):
    """Two files of one checkpoint disagree."""


class WitnessMismatch(ZeroConsolidateError, ValueError):
    """A master weight, rounded to the training dtype, is not the 16-bit copy that was saved with it."""


class UnsupportedLayout(ZeroConsolidateError, NotImplementedError):
    """A layout that cannot be read (yet), called by its name."""


class WrongNames(ZeroConsolidateError, ValueError):
    """A loader would not find its parameters under these names, and would leave random weights."""


class BadOption(ZeroConsolidateError, ValueError):
    """An argument that makes no sense for this checkpoint."""


class OutputExists(ZeroConsolidateError, FileExistsError):
    """The output is there already, or another process is writing it."""


class OutputFailed(ZeroConsolidateError, OSError):
    """The output could not be written; `errno` is the system's, where it came from there."""

    def __init__(self, message: str, *, errno: int | None = None, **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.errno = errno

    @classmethod
    def from_system(cls, path: str, error: OSError) -> OutputFailed:
        """The system's refusal to write `path`, in words."""
        return cls(f"the output cannot be written: {reason(error)}", errno=error.errno, address=(path,))


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}


def reason(error: OSError) -> str:
    """Why the system refused, as part of a sentence.

    >>> reason(PermissionError(errno.EACCES, "Permission denied"))
    'permission denied'
    """
    said = error.strerror or str(error)
    return _REASONS.get(error.errno or 0, said[:1].lower() + said[1:])


class PlanBroken(ZeroConsolidateError, ValueError):
    """A plan does not cover its tensors exactly once: a bug in this library, caught before it cost weights."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put `place` in front of the address of any of our errors raised inside, unless a path there begins or ends in it.

    >>> with at("model.safetensors"):
    ...     raise OutputFailed("the disk is full", address=("my-model/model.safetensors",))
    Traceback (most recent call last):
        ...
    zeroconsolidate.errors.OutputFailed: the disk is full (at my-model/model.safetensors)
    """
    try:
        yield
    except ZeroConsolidateError as error:
        first = error.address[0] if error.address else ""
        if not f"{first}/".startswith(f"{place.rstrip('/')}/") and not first.endswith(f"/{place}"):
            error.address = (place, *error.address)
        raise
