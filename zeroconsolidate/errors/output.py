"""What is made is at fault: an output, a running engine, or the plan of either."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .base import OfFiles, ZeroConsolidateError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Parts


class OutputExists(OfFiles, FileExistsError):
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


class OutputFailed(OfFiles, OSError):
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
