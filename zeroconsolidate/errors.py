"""Every error that this package raises, on one page.

Each is also the built-in error that a caller would think of catching::

    ZeroConsolidateError
    ├── NotACheckpoint        FileNotFoundError    the path, the tag or `latest` leads to no checkpoint
    │   └── SaveGone          FileNotFoundError    the save was removed before it could be converted
    ├── MissingFiles          FileNotFoundError    files of some ranks are missing (`.files`)
    ├── DamagedFile           ValueError           a file is truncated, empty, or not what its name says
    │   ├── UnsafePickle      ValueError           a pickle names code that no checkpoint needs; nothing was run
    │   └── UnsafePath        ValueError           a link out of its directory, or a pipe or device in place of a file
    ├── Disagreement          ValueError           two files of one checkpoint contradict each other
    ├── WitnessMismatch       ValueError           a master weight does not round to its 16-bit copy
    ├── UnsupportedLayout     NotImplementedError  the layout is unknown, or known and cannot be read
    ├── WrongNames            ValueError           a loader would not find its parameters under these names
    ├── BadOption             ValueError           an option that is unknown, or makes no sense for this checkpoint
    ├── MissingPackage        ImportError          a package that only this needs is not installed, such as torch
    ├── UnsupportedSystem     ImportError          the operating system lacks what this package needs: Windows
    ├── NoSuchTensor          KeyError             the checkpoint has no tensor of this name
    ├── BadIndex              IndexError           what stands between the brackets is not in the tensor
    ├── StoreFailed           RuntimeError         an object store refuses, or does not answer
    ├── OutputExists          FileExistsError      the output is not empty, or another process is writing it
    │   └── OutputBusy        FileExistsError      another process is writing it
    ├── OutputFailed          OSError              the output could not be written (`.errno` is the system's)
    ├── RankFailed            RuntimeError         another rank of a running engine could not load its part
    └── PlanBroken            ValueError           a bug in this library, noticed before it could do harm

An error has parts. The command prints each on a line of its own, and `--json` gives them by name::

    >>> error = DamagedFile("the flat group holds too few elements", expected="12", found="10")
    >>> error.message, error.expected, error.found
    ('the flat group holds too few elements', '12', '10')

It also has an address: the places it happened at, outermost first. Code that works on a file, a group or a tensor does
so inside of :func:`at`, which puts that place in front of the address of any error that passes::

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


class _OfFiles(ZeroConsolidateError):
    """An error that the system would report as one of a file: it has `errno` and `filename` as an OSError has them."""

    number: int | None = None

    def __init__(self, message: str, **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.errno = self.number

    @property
    def filename(self) -> str | None:
        """The file or directory that it is about, the first of the address; None if there is none."""
        return self.address[0] if self.address else None


class NotACheckpoint(_OfFiles, FileNotFoundError):
    """There is no checkpoint at the path, under the tag, or where the file `latest` points; or it may not be read.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.inspect("tests/fixtures")
    ... except zeroconsolidate.NotACheckpoint as error:
    ...     print(error.filename, error.errno)
    tests/fixtures 2
    """

    number = errno.ENOENT


class SaveGone(NotACheckpoint):
    """The save was removed, by a trainer that keeps only the newest ones, before it could be converted.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.SaveGone, zeroconsolidate.NotACheckpoint)
    True
    """


class MissingFiles(_OfFiles, FileNotFoundError):
    """Files of some ranks are missing, or too damaged to be used.

    Parameters
    ----------
    message : str
        What is wrong.
    files : tuple of str
        Names of these files.
    **parts
        See `ZeroConsolidateError`.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.MissingFiles, FileNotFoundError)
    True
    """

    number = errno.ENOENT

    def __init__(self, message: str, *, files: tuple[str, ...] = (), **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.files = files


class DamagedFile(ZeroConsolidateError, ValueError):
    """A file is truncated, empty, or not what its name says.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.DamagedFile, ValueError)
    True
    """


class UnsafePickle(DamagedFile):
    """A pickle names code that no checkpoint needs: it may be an attack. Nothing in it was run.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.UnsafePickle, zeroconsolidate.DamagedFile)
    True
    """


class UnsafePath(DamagedFile):
    """A link or a name leads out of its directory, or to something that is not a regular file. It was not read.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.UnsafePath, zeroconsolidate.DamagedFile)
    True
    """


class Disagreement(ZeroConsolidateError, ValueError):
    """Two files of one checkpoint contradict each other.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.Disagreement, ValueError)
    True
    """


class WitnessMismatch(ZeroConsolidateError, ValueError):
    """A value does not agree with its second copy, the witness.

    The witness of a master weight is the 16-bit copy that was saved with it: the master, rounded to the training dtype,
    must equal it.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.WitnessMismatch, ValueError)
    True
    """


class UnsupportedLayout(ZeroConsolidateError, NotImplementedError):
    """The layout of the checkpoint is unknown, or known to be one that cannot be read.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.UnsupportedLayout, NotImplementedError)
    True
    """


class WrongNames(ZeroConsolidateError, ValueError):
    """A loader would not find its parameters under these names, and would use random weights.

    Parameters
    ----------
    message : str
        What is wrong.
    missing : tuple of str
        Names that are expected and not there, where tensors were to be loaded into a module.
    unexpected : tuple of str
        Names that are there and not expected, likewise.
    **parts
        See `ZeroConsolidateError`.

    Examples
    --------
    >>> import torch, zeroconsolidate
    >>> try:
    ...     zeroconsolidate.load_into(torch.nn.Linear(2, 2), "tests/fixtures/z3_bf16/checkpoint")
    ... except zeroconsolidate.WrongNames as error:
    ...     print(error.missing)
    ('weight', 'bias')
    """

    def __init__(
        self, message: str, *, missing: tuple[str, ...] = (), unexpected: tuple[str, ...] = (), **parts: Unpack[Parts]
    ) -> None:
        super().__init__(message, **parts)
        self.missing = missing
        self.unexpected = unexpected


class BadOption(ZeroConsolidateError, ValueError):
    """An option is unknown, or makes no sense for this checkpoint or output.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint", tga="global_step2")
    ... except zeroconsolidate.BadOption as error:
    ...     print(error)
    inspect has no option 'tga'; did you mean 'tag'?
    """


class MissingPackage(ZeroConsolidateError, ImportError):
    """A package that only this needs is not installed, such as torch.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.MissingPackage, ImportError)
    True
    """


class UnsupportedSystem(ZeroConsolidateError, ImportError):
    """The operating system lacks what this package needs to write safely: Windows.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.UnsupportedSystem, ImportError)
    True
    """


class NoSuchTensor(ZeroConsolidateError, KeyError):
    """The checkpoint has no tensor of this name.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")["embed.wieght"]
    ... except KeyError as error:
    ...     print(error.message)
    the checkpoint has no tensor 'embed.wieght'
    """


class BadIndex(ZeroConsolidateError, IndexError):
    """What stands between the brackets, behind a tensor that has not been read, is not in the tensor.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")["embed.weight"][13]
    ... except IndexError as error:
    ...     print(error)
    the index 13 is out of range for dimension 0, which has 13
    """


class StoreFailed(ZeroConsolidateError, RuntimeError):
    """An object store refuses access, or has not answered until the deadline. Nothing is said about the checkpoint.

    It is no OSError: an unreadable file is a reason to look for another, and a store that is away is none.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.StoreFailed, RuntimeError)
    True
    """


class OutputExists(_OfFiles, FileExistsError):
    """The output directory is not empty, or another process is writing it.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.consolidate("tests/fixtures/z3_bf16/checkpoint", "tests")
    ... except FileExistsError as error:
    ...     print(error.filename, error.remedy, sep=": ")
    tests: replace its model with overwrite=True
    """

    number = errno.EEXIST


class OutputBusy(OutputExists):
    """Another process is writing the output.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.OutputBusy, zeroconsolidate.OutputExists)
    True
    """


class OutputFailed(_OfFiles, OSError):
    """The output could not be written.

    Parameters
    ----------
    message : str
        What is wrong.
    errno : int, optional
        The system's error number, if the system refused.
    **parts
        See `ZeroConsolidateError`.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.OutputFailed, OSError)
    True
    """

    def __init__(self, message: str, *, errno: int | None = None, **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.errno = errno

    @classmethod
    def from_system(cls, path: str, error: OSError) -> OutputFailed:
        """Make the error for a file that the system refused to write.

        Parameters
        ----------
        path : str
            The file, which becomes the address.
        error : OSError
            What the system said.

        Returns
        -------
        OutputFailed
            The error, which says so in words.
        """
        return cls(f"the output cannot be written: {reason(error)}", errno=error.errno, address=(path,))


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}


def reason(error: OSError) -> str:
    """Say why the system refused, as part of a sentence.

    Parameters
    ----------
    error : OSError
        What the system said.

    Returns
    -------
    str
        The reason, without a capital letter.

    Examples
    --------
    >>> reason(PermissionError(errno.EACCES, "Permission denied"))
    'permission denied'
    """
    said = error.strerror or str(error)
    return _REASONS.get(error.errno or 0, said[:1].lower() + said[1:])


class RankFailed(ZeroConsolidateError, RuntimeError):
    """Another rank of a running engine could not load its part, so this one does not go on either.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.RankFailed, RuntimeError)
    True
    """


class PlanBroken(ZeroConsolidateError, ValueError):
    """A plan does not cover its tensors exactly once: a bug in this library, noticed before it could do harm.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.PlanBroken, ValueError)
    True
    """


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
