"""A lock: one conversion at a time writes an output."""

from __future__ import annotations

import errno
import fcntl
import os

from ..errors import OutputBusy

# What a file system without locks answers (Lustre mounted without `flock`, some FUSE).
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})


class Lock:
    """An exclusive `flock` on a file, until :meth:`release` or the end of the process, however that comes; or one that
    is `shared` with others of its kind only. On NFS it holds between machines.

    Raises OutputBusy if someone else has it. On a file system without locks there is none: the caller
    must then prevent two conversions at the same time.
    """

    def __init__(self, path: str, *, shared: bool = False) -> None:
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._take(shared=shared)
                # Whoever held it may have taken the file away between our open and our lock: then this is not it.
                if _same_file(self._fd, path):
                    break
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)
        if not shared:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def _take(self, *, shared: bool) -> None:
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise self._busy(shared=shared) from None

    def _busy(self, *, shared: bool) -> OutputBusy:
        if not shared and self._is_shared():
            return OutputBusy("parts of this output are being written", remedy="wait for them, or name another output")
        holder = os.pread(self._fd, 256, 0).decode("utf-8", "replace").strip()
        return OutputBusy(
            f"another conversion is writing this output{f' (process {holder})' if holder else ''}",
            remedy="wait for it, or name another output",
        )

    def _is_shared(self) -> bool:
        """Whether those who hold it share it: then one more could."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True  # the caller closes the file, and with it goes this lock


def _same_file(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
