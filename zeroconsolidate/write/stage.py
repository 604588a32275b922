"""Files are made in the staging folder, and renamed when all are complete. No incomplete file has a final name.

The staging folder lies *inside* the output directory, so that a rename never crosses file systems (an output
directory is often a mount point) and an output that is a parent's only writable folder works too. Beside the
staged files it holds the journal and the lock (`staging_folder.py`). A conversion that is stopped leaves the folder
behind if anything in it is worth continuing; the same conversion, run again, continues there.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..archive.regular import open_regular, opened, read_errors
from ..errors import OutputFailed, PlanBroken, WrongNames, at
from ..options.urls import is_url
from ..run.clone import ANY_MEANS
from . import spread
from .batch import Batch
from .check import check
from .file_names import refuse_names
from .fingerprint import parts_in
from .part import CLONED, Part
from .publish import rename
from .refusals import refuse_full
from .staging_folder import StagingFolder
from .system import remove, sync_directory, system_errors, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

    from ..plan.layout import FilePlan
    from ..plan.stretches import Stretch
    from ..run.clone import Means
    from .journal import Checks, Fingerprint, Journal

_COPIED_BYTES = 32 << 20
"""What is held of a file from a store while it is copied."""


class Stage:
    """The staging folder of one conversion; use it as a context manager.

    `fingerprint` says what is converted and how: staged work of another conversion is refused with BadOption, or
    thrown away with `restart`. Raises OutputExists for an output in use, OutputFailed when the system refuses.
    """

    def __init__(self, output: str, *, overwrite: bool, restart: bool, fingerprint: Fingerprint) -> None:
        self.output = output
        self._overwrite = overwrite
        self._staging = StagingFolder(output, overwrite=overwrite, restart=restart, fingerprint=fingerprint)
        self.folder = self._staging.path
        self._names: list[str] = []
        self._batch = Batch(lambda records: self._journal.append(*records))
        self._published = False

    def __enter__(self) -> Self:
        self._staging.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # an interruption, not a failure: keep all there is
            with suppress(OSError, OutputFailed):
                self._batch.settle()
        self._batch.close()
        progress = self._journal.progress
        worth_keeping = bool(progress.upto or progress.stretches or progress.done or progress.publish)
        # A plan that broke would break again at the same place: its work is worth nothing.
        worth_keeping = worth_keeping and not isinstance(error, (PlanBroken, WrongNames))
        if progress.fingerprint is not None and parts_in(progress.fingerprint) is not None:
            worth_keeping = True  # whatever this run has found, others have worked for it
        self._staging.close(keep=worth_keeping, published=self._published)

    @property
    def _journal(self) -> Journal:
        return self._staging.journal

    @property
    def is_publishing(self) -> bool:
        """Whether an earlier run had made everything and was giving final names: call :meth:`finish`."""
        return self._journal.progress.publish is not None

    @property
    def resumed_bytes(self) -> int:
        """Bytes of weights an earlier run had made."""
        return self._journal.progress.made_bytes

    @property
    def cloned_bytes(self) -> int:
        """Those of `resumed_bytes` that take no room on the disk, although the staged files have them."""
        return sum(facts.get(CLONED, 0) for facts in self._journal.progress.all_facts)

    @property
    def checks(self) -> Checks | None:
        """What :meth:`note_checks` recorded, in this run or an earlier one."""
        return self._journal.progress.checks

    def note_checks(self, checks: Checks) -> None:
        """Remember that the witness has been compared, and the result."""
        with system_errors(self.output):
            self._journal.append({"checked": checks.numel, "how": checks.how, "warnings": checks.warnings})

    def facts(self, name: str) -> dict[str, Any] | None:
        """What the journal remembers of a complete file, None if it is not complete."""
        size_bytes = self._journal.progress.done.get(name)
        if size_bytes is None:
            return None
        with suppress(OSError):
            if self.is_publishing or os.path.getsize(self.path(name)) == size_bytes:
                return self._journal.progress.facts[name]
        return None  # someone has taken the staged file away

    def need(self, sizes: Mapping[str, int], *, cloned_bytes: int = 0) -> None:
        """Raise OutputFailed if the disk has no room for files of these names and sizes, what is staged already counted
        in. `cloned_bytes`: how much of them takes none."""
        with system_errors(self.output):
            refuse_names(self.folder, self.folder, sizes, output=self.output)
            refuse_full(
                self.folder, self.folder, sizes, cloned_bytes=cloned_bytes - self.cloned_bytes, output=self.output
            )

    @contextmanager
    def weights(
        self, name: str, size_bytes: int, *, means: Means = ANY_MEANS, together: bool = False
    ) -> Iterator[Part]:
        """A large file, which is continued where an earlier run stopped. Synced and remembered at the block's end, or
        with `together` when enough such files have come together: a sync of each of thousands would take minutes."""
        path, final = self.path(name), os.path.join(self.output, name)
        with system_errors(final):
            if name in self._journal.progress.stretches:
                spread.forget(self._journal, name)  # what is written from here on replaces them
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        part = None
        try:
            with system_errors(final):
                part = Part(final, name, fd, size_bytes, before=self._journal.progress, memory=self, means=means)
                os.ftruncate(fd, part.start)
            try:
                yield part
            except BaseException as stopped:
                if not isinstance(stopped, Exception):  # an interruption, not a failure: keep all there is
                    with suppress(OSError, OutputFailed):
                        part.sync()
                raise
            part.finish(sync=not together)
            record = {"file": name, "done": size_bytes, "facts": part.facts}
            with system_errors(final):
                if together:
                    self._batch.add(path, record, drop_cache=means.drop_cache)
                else:
                    self._journal.append(record)
        finally:
            if part is not None:
                part.close()
            os.close(fd)
        self._names.append(name)

    @property
    def has_unsynced(self) -> bool:
        """Whether complete files wait to be synced together."""
        return self._batch.is_waiting

    def settle(self) -> None:
        """Sync and remember all that is complete and waits for it: then :meth:`facts` knows it, too."""
        with system_errors(self.output):
            self._batch.settle()

    @property
    def place(self) -> str:
        """Where workers find the plan, and the files they write."""
        return os.path.abspath(self.folder)

    def keep_plan(self, name: str, content: bytes) -> None:
        """Put the plan where workers find it."""
        with system_errors(self.output):
            spread.keep_plan(self.folder, name, content)

    def made_before(self, name: str, size_bytes: int) -> dict[tuple[int, int], dict[str, Any]]:
        """What earlier runs have made of a file that workers are to make: (start, stop) -> facts."""
        with system_errors(os.path.join(self.output, name)):
            return spread.made_before(self._journal, self.path(name), name, size_bytes)

    def note(self, stretch: Stretch, facts: Mapping[str, Any]) -> None:
        """Remember that a worker has made and synced a stretch."""
        with system_errors(self.output):
            if not self._journal.progress.stretches:
                self._staging.make_durable()
            record = {"file": stretch.file, "stretch": [stretch.start, stretch.stop], "facts": dict(facts)}
            self._journal.append(record)

    @property
    def token(self) -> str | None:
        """What the parts of this conversion know it by; None if it is not made in parts."""
        return self._journal.progress.token

    def upload_of(self, _name: str) -> str:
        """Files on a disk are not uploaded."""
        return ""

    def check(self, file: FilePlan) -> None:
        """A staged file must be what was planned. Raises PlanBroken."""
        check(self.path(file.name), file)

    def adopt(self, name: str, size_bytes: int, facts: Mapping[str, Any]) -> None:
        """A file that parts have made, and synced, is complete."""
        with system_errors(self.output):
            self._journal.append({"file": name, "done": size_bytes, "facts": dict(facts)})
        self._names.append(name)

    def keep(self, name: str) -> None:
        """A file that an earlier run has completed is part of this output."""
        self._names.append(name)

    @contextmanager
    def create(self, name: str) -> Iterator[int]:
        """The descriptor of a new, small file of the output, synced to disk at the end of the block."""
        path = self.path(name)
        with system_errors(os.path.join(self.output, name)):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            remove(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            yield fd
            with system_errors(os.path.join(self.output, name)):
                os.fsync(fd)
        finally:
            os.close(fd)
        self._names.append(name)

    def write(self, name: str, data: bytes) -> None:
        """A small file, whole."""
        with self.create(name) as fd, system_errors(os.path.join(self.output, name)):
            write_all(fd, data)

    def copy(self, name: str, source: str) -> None:
        """A file of the checkpoint or the base model, byte for byte, block by block."""
        if is_url(source):
            with read_errors(source), closing(opened(source)) as remote, self.create(name) as fd:
                for start in range(0, remote.size_bytes, _COPIED_BYTES):
                    data = remote.pread(min(_COPIED_BYTES, remote.size_bytes - start), start)
                    with system_errors(os.path.join(self.output, name)):
                        write_all(fd, data)
            return
        with read_errors(source), open(open_regular(source), "rb", buffering=0) as file, self.create(name) as fd:
            while data := file.read(1 << 20):
                with system_errors(os.path.join(self.output, name)):
                    write_all(fd, data)

    def path(self, name: str) -> str:
        """Where the file `name` is while it is staged."""
        return self._staging.staged(name)

    def publish(self, last: Sequence[str]) -> dict[str, int]:
        """Give every staged file its final name, those in `last` after all others, and remove what they replace.

        Returns sizes by name.
        """
        final = set(self._names)
        names = [name for name in self._names if name not in last] + [name for name in last if name in final]
        with at(self.output), system_errors(self.output):
            self._batch.settle()
            sizes = {name: os.path.getsize(self.path(name)) for name in names}
            for directory, _, _ in os.walk(os.path.join(self.folder, "files")):
                sync_directory(directory)
            self._staging.make_durable()
            self._journal.append({"publish": names, "sizes": sizes, "overwrite": self._overwrite})
        return self.finish()

    def finish(self) -> dict[str, int]:
        """Carry out what :meth:`publish` has written down, from wherever it stopped; returns sizes by name."""
        record = self._journal.progress.publish or {}
        with at(self.output), system_errors(self.output):
            rename(self.output, self.path, record["publish"], record["sizes"], overwrite=record["overwrite"])
        self._published = True
        return dict(record["sizes"])

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """Journal that the file is on disk below byte `upto`, which has been synced."""
        if not self._journal.progress.upto:
            self._staging.make_durable()
        self._journal.append({"file": name, "upto": upto, "facts": facts})
