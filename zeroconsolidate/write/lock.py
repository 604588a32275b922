"""A lock: one conversion at a time writes an output."""

from __future__ import annotations

import errno
import fcntl
import os

from ..errors import OutputBusy

# What a file system without locks answers (Lustre mounted without `flock`, some FUSE).
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})


class Lock:
    """An exclusive `flock` on a file, until :meth:`release` or the end of the process, however that comes.

    Raises OutputBusy if someone else has it. On a file system without locks there is none: the caller
    must then prevent two conversions at the same time.
    """

    def __init__(self, path: str) -> None:
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._take(path)
                # Whoever held it may have taken the file away between our open and our lock: then this is not it.
                if _same_file(self._fd, path):
                    break
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def _take(self, path: str) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            raise OutputBusy(
                f"another conversion is writing this output{f' (process {holder})' if holder else ''}",
                remedy="wait for it, or name another output",
            ) from None


def _same_file(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
