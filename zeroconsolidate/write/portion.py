"""The staging folder of a conversion in parts, as one of the commands sees it that make a part each.

    OUTPUT/.zeroconsolidate/
        lock                  shared by all parts that are being written; whoever finishes has it alone
        journal               what is being converted, and in how many parts; `--finish` goes on with it
        files/                the files of weights, from the first moment on as long as they will be
        parts/3-of-16         the journal of a part: how much of its share of each file is on disk
        parts/3-of-16.lock    held by the command that writes the part

Whichever part comes first makes the files, and then the journal, which from then on says that they are there: a file
that is missing later has been taken away, and is never made again, for its holes would be read as zeros. The journal
appears whole, by a link, which a network file system gives to one machine only. It has a token, which the journals of
the parts repeat: what was written for another journal does not count.
"""

from __future__ import annotations

import errno
import os
import shlex
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import BadOption, OutputBusy, OutputFailed, at
from ..options.urls import is_url
from ..run.clone import ANY_MEANS
from .file_names import refuse_names
from .journal import Fingerprint, Journal, encoded, read_progress, refuse_other
from .lock import Lock
from .part import Part
from .refusals import JOURNAL, PARTS, STAGING, refuse_existing, refuse_file, refuse_full
from .shares import told
from .system import remove, sync_directory, system_errors, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

    from ..plan.stretches import Part as Number
    from ..plan.stretches import Stretch
    from ..run.clone import Means
    from .journal import Progress

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
"""What file systems without hard links answer."""


class Portion:
    """One part's share of a conversion; use it as a context manager.

    `sizes`: of the files of weights. `fingerprint` says what is converted and how, and in how many parts: a staged
    conversion of something else is refused with BadOption. Raises OutputExists for an output in use, OutputBusy if
    someone else writes this part or finishes all, OutputFailed when the system refuses.
    """

    def __init__(
        self, output: str, part: Number, *, sizes: Mapping[str, int], overwrite: bool, fingerprint: Fingerprint
    ) -> None:
        self.output = output
        self.folder = os.path.join(output, STAGING)
        self.own_folder = os.path.join(self.folder, PARTS, f"{part.number}-of-{part.count}.preview")
        """A folder that nobody else uses. It is not made."""
        self._part = part
        self._sizes = sizes
        self._overwrite = overwrite
        self._fingerprint = fingerprint

    def __enter__(self) -> Self:
        with at(self.output), system_errors(self.output):
            refuse_file(self.output)
            if not os.path.isdir(self.folder):
                refuse_existing(self.output, overwrite=self._overwrite)
            os.makedirs(os.path.join(self.folder, PARTS), exist_ok=True)
            self._shared = Lock(os.path.join(self.folder, "lock"), shared=True)
            try:
                token = self._begun()
                with at(f"part {self._part}"):
                    self._own = Lock(f"{journal_of(self.folder, self._part)}.lock")
                try:
                    self._journal = _journal(journal_of(self.folder, self._part), token)
                except BaseException:
                    self._own.release()
                    raise
            except BaseException:
                self._shared.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._own.release()
        self._shared.release()

    @property
    def resumed_bytes(self) -> dict[str, int]:
        """File -> where an earlier run of this part had come to."""
        progress = self._journal.progress
        return progress.upto | progress.done

    def is_done(self, stretch: Stretch) -> bool:
        """Whether a stretch of this part is on disk."""
        return self._journal.progress.done.get(stretch.file) == stretch.stop

    def need(self, sizes: Mapping[str, int], *, cloned_bytes: int = 0) -> None:
        """Raise OutputFailed if the disk has no room for files of these sizes, what is staged already counted in."""
        with system_errors(self.output):
            refuse_names(self.folder, self.folder, sizes, output=self.output)
            refuse_full(self.folder, self.folder, sizes, cloned_bytes=cloned_bytes, output=self.output)

    @contextmanager
    def weights(self, stretch: Stretch, *, means: Means = ANY_MEANS) -> Iterator[Part]:
        """The file of a stretch, to be continued where an earlier run of this part stopped. Synced and remembered at
        the block's end."""
        name, final = stretch.file, os.path.join(self.output, stretch.file)
        part = None
        fd = opened(self.folder, name, self._sizes[name])
        try:
            part = Part(
                final,
                name,
                fd,
                stretch.stop,
                begin=stretch.start,
                before=self._journal.progress,
                memory=self,
                means=means,
            )
            try:
                yield part
            except BaseException as stopped:
                if not isinstance(stopped, Exception):  # an interruption, not a failure: keep all there is
                    with suppress(OSError, OutputFailed):
                        part.sync()
                raise
            part.finish()
            with system_errors(final):
                self._journal.append({"file": name, "done": stretch.stop, "facts": part.facts})
        finally:
            if part is not None:
                part.close()
            os.close(fd)

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """Journal that the share of the file is on disk below byte `upto`, which has been synced."""
        self._journal.append({"file": name, "upto": upto, "facts": facts})

    def _begun(self) -> str:
        """The token of the conversion, which is begun if it was not."""
        path = os.path.join(self.folder, JOURNAL)
        if not os.path.lexists(path):
            refuse_existing(self.output, overwrite=self._overwrite)
            self._make_files()
            _appear(path, encoded({"begin": self._fingerprint, "token": os.urandom(8).hex()}), self._part)
            for folder in (self.folder, self.output):
                sync_directory(folder)
        progress = read_progress(path)
        if progress.fingerprint is None:
            raise OutputBusy("another part is just beginning this output", remedy="run this part again")
        remedy = f"run the earlier command again to continue it, or {start_over(self.folder)}"
        refuse_other(progress.fingerprint, self._fingerprint, self.folder, remedy=remedy)
        refuse_existing(self.output, overwrite=self._overwrite, ours=(progress.publish or {}).get("publish", ()))
        if progress.token is None:
            raise BadOption(f"{self.folder} is of no conversion in parts", remedy=start_over(self.folder))
        return progress.token

    def _make_files(self) -> None:
        for name, size_bytes in self._sizes.items():
            path = staged(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                # Others may have made it a moment ago, and may be writing already.
                if os.fstat(fd).st_size != size_bytes:
                    os.ftruncate(fd, size_bytes)
                os.fsync(fd)
            finally:
                os.close(fd)
        for folder, _, _ in os.walk(os.path.join(self.folder, "files")):
            sync_directory(folder)


def gathered(
    folder: str, token: str | None, shares: Mapping[Number, Sequence[Stretch]], sizes: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """What the parts remember of each file, if each has made its share. `sizes`: of the files.

    Raises BadOption if a part is not finished, OutputFailed if a staged file is not there.
    """
    journals = {part: _progress(journal_of(folder, part)) for part in shares}
    facts = told(journals, token, shares, sizes)
    for name, size_bytes in sizes.items():
        os.close(opened(folder, name, size_bytes))
    return facts


def opened(folder: str, name: str, size_bytes: int) -> int:
    """The descriptor of a staged file that was made when the conversion began. Raises OutputFailed."""
    path = staged(folder, name)
    remedy = start_over(folder)
    with system_errors(path):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OutputFailed("the staged file has been removed", remedy=remedy, address=(path,)) from None
        found = os.fstat(fd).st_size
    if found != size_bytes:
        os.close(fd)
        raise OutputFailed(
            "the staged file is not as it was made",
            expected=f"{size_bytes} bytes",
            found=found,
            remedy=remedy,
            address=(path,),
        )
    return fd


def start_over(folder: str) -> str:
    """What to do if the staging folder is of no more use."""
    if is_url(folder):
        output = shlex.quote(folder.rpartition("/")[0])
        return f"start over: zeroconsolidate convert CHECKPOINT {output} --abort, and then all parts"
    return f"start over: rm -r {shlex.quote(folder)}, and then all parts"


def staged(folder: str, name: str) -> str:
    """Where the file `name` is while it is staged."""
    return os.path.join(folder, "files", name)


def journal_of(folder: str, part: Number) -> str:
    """Where the journal of a part is."""
    return os.path.join(folder, PARTS, f"{part.number}-of-{part.count}")


def _progress(path: str) -> Progress | None:
    with system_errors(path):
        try:
            return read_progress(path)
        except FileNotFoundError:
            return None


def _journal(path: str, token: str) -> Journal:
    """The journal of a part; what it says counts only if it belongs to the conversion with this token."""
    journal = Journal(path)
    try:
        if journal.progress.token != token:
            journal.close()
            remove(path)
            journal = Journal(path)
            journal.append({"begin": {}, "token": token})
            sync_directory(os.path.dirname(path))
    except BaseException:
        journal.close()
        raise
    return journal


def _appear(path: str, content: bytes, part: Number) -> None:
    """Make a file that is there whole or not at all, unless another part has made it meanwhile."""
    aside = f"{path}.{part.number}.{os.getpid()}"
    remove(aside)
    try:
        _write(aside, content)
        try:
            os.link(aside, path)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with suppress(FileExistsError):  # a part that sees it half is told to come again
                _write(path, content)
    finally:
        remove(aside)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
