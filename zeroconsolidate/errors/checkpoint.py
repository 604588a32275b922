"""What is read is at fault: a checkpoint, a file of it, or the store that it is in."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .base import OfFiles, ZeroConsolidateError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Parts


class NotACheckpoint(OfFiles, FileNotFoundError):
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


class MissingFiles(OfFiles, FileNotFoundError):
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


class StoreFailed(ZeroConsolidateError, RuntimeError):
    """An object store refuses access, or has not answered until the deadline. Nothing is said about the checkpoint.

    It is no OSError: an unreadable file is a reason to look for another, and a store that is away is none.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.StoreFailed, RuntimeError)
    True
    """
