"""What all errors have: their parts, the sentence made of them, and the address where they happened."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack


class Parts(TypedDict, total=False):
    """What an error says besides what is wrong; `ZeroConsolidateError` documents them."""

    expected: object
    found: object
    consequence: str | None
    remedy: str | tuple[str, ...] | None
    address: tuple[str, ...]


class ZeroConsolidateError(Exception):
    """The base of all errors that this package raises.

    `str(error)` is one sentence with all parts. Each part is an attribute, too.

    Parameters
    ----------
    message : str
        What is wrong.
    **parts
        `expected`, `found`, `consequence`, `remedy` and `address`, as below. Several remedies are a tuple.

    Attributes
    ----------
    message : str
        What is wrong.
    expected : str or None
        What should be there.
    found : str or None
        What is there.
    consequence : str or None
        What follows from it, or why it matters.
    remedies : tuple of str
        What to do: options, command lines or words, each by itself. OUTPUT stands for the directory to be written.
    address : tuple of str
        The places it happened at, outermost first: file, rank, tensor.
    files : tuple of str
        Names of the files that are missing or cannot be used, if this is what is wrong.
    losses : tuple of Loss
        What is lost of each tensor with these files.
    typed : dict
        Where the error speaks of keywords, its parts as the command spells them; else empty.
    comparison
    finding
    remedy
    sentence

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.inspect("tests/fixtures/no-such-directory")
    ... except FileNotFoundError as error:
    ...     print(type(error).__name__, error.message, error.expected, sep=" | ")
    NotACheckpoint | there is no such directory | a DeepSpeed checkpoint
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
        self.losses: tuple[Any, ...] = ()
        self.typed: dict[str, Any] = {}

    @property
    def comparison(self) -> str:
        """`expected x, got y`; empty if the error has neither."""
        words = (("expected", self.expected), ("got", self.found))
        return ", ".join(f"{word} {value}" for word, value in words if value)

    @property
    def finding(self) -> str:
        """Message and comparison."""
        return "; ".join(filter(None, (self.message, self.comparison)))

    @property
    def remedy(self) -> str | None:
        """All remedies in one text, None if there is none."""
        return "; ".join(self.remedies) or None

    @property
    def sentence(self) -> str:
        """All parts but the address."""
        return "; ".join(filter(None, (self.finding, self.consequence, self.remedy)))

    def __str__(self) -> str:
        return f"{self.sentence} (at {' > '.join(self.address)})" if self.address else self.sentence


def _text(value: object) -> str | None:
    return None if value is None else str(value)


class OfFiles(ZeroConsolidateError):
    """An error that the system would report as one of a file: it has `errno` and `filename` as an OSError has them."""

    number: int | None = None

    def __init__(self, message: str, **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.errno = self.number

    @property
    def filename(self) -> str | None:
        """The file or directory that it is about, the first of the address; None if there is none."""
        return self.address[0] if self.address else None


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put a place in front of the address of every error of this package that is raised inside the `with` block.

    If the address begins with a path that has the place at its beginning or end, it stays as it is.

    Parameters
    ----------
    place : str
        A file, a rank, a group or a tensor.

    Yields
    ------
    None
        Nothing.

    Examples
    --------
    >>> with at("model.safetensors"):
    ...     raise ZeroConsolidateError("the disk is full", address=("my-model/model.safetensors",))
    Traceback (most recent call last):
        ...
    zeroconsolidate.errors.base.ZeroConsolidateError: the disk is full (at my-model/model.safetensors)
    """
    try:
        yield
    except ZeroConsolidateError as error:
        first = error.address[0] if error.address else ""
        if not f"{first}/".startswith(f"{place.rstrip('/')}/") and not first.endswith(f"/{place}"):
            error.address = (place, *error.address)
        raise
