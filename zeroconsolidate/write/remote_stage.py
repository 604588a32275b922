"""What :class:`.stage.Stage` is, for an output in a store: nothing has its final name before all is complete.

    s3://bucket/my-model/                        visible when all is complete: weights first, index and manifest last
        model-00001-of-00002.safetensors         until then an upload in parts, which no listing shows
        .zeroconsolidate/journal                 what the store has, and which uploads were begun
        .zeroconsolidate/files/config.json       small files, copied to their names by the store

A directory of this machine holds what is small: headers, tails and the files beside the weights. The last check reads
them there. An upload that was interrupted stays in the store, and the same command continues it; `--abort` removes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import PlanBroken, StoreFailed, WrongNames, ZeroConsolidateError, at
from ..integrations.object_uploads import uploads_to
from . import remote_spread, uploads
from .journal import Checks, Fingerprint, refuse_other
from .kept import Kept
from .lock import Lock
from .part import CHECKSUM, CHECKSUM_OF_PARTS
from .portion import start_over
from .refusals import JOURNAL, STAGING, TASKS
from .remote_files import SmallFiles
from .remote_journal import RemoteJournal
from .remote_publish import abandon, how_to_remove, publish, refuse_existing
from .remote_sending import Sending
from .uploads import NOTED_SECONDS, room_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

    from ..plan.layout import FilePlan
    from ..plan.stretches import Stretch
    from ..run.clone import Means
    from .uploads import SentPart


class RemoteStage:
    """The staging folder of one conversion whose output is at a URL; use it as a context manager.

    `files`: those of weights. `read_back`: what is uploaded is read back while it is made, for digests. Raises what
    `Stage` raises, and StoreFailed.
    """

    def __init__(
        self,
        output: str,
        *,
        overwrite: bool,
        restart: bool,
        fingerprint: Fingerprint,
        files: Sequence[FilePlan],
        read_back: bool,
    ) -> None:
        self.output = output
        self._uploads = uploads_to(output)
        self._overwrite, self._restart, self._fingerprint = overwrite, restart, fingerprint
        self._files, self._read_back = files, read_back
        self._names: list[str] = []
        self._clock = time.monotonic()
        self._done_bytes = 0
        """Of complete files that are not written down yet."""
        self._published = False

    def __enter__(self) -> Self:
        self.folder = tempfile.mkdtemp(prefix="zeroconsolidate-")
        name = hashlib.sha256(self.output.encode()).hexdigest()[:32]
        self._lock = Lock(os.path.join(tempfile.gettempdir(), f"zeroconsolidate-{os.getuid()}-{name}.lock"))
        most = max(self._uploads.in_flight, self._uploads.objects_in_flight)
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="zeroconsolidate-upload")
        try:
            with at(self.output):
                self._kept = Kept(self.folder, self._files)
                self._small = SmallFiles(self.folder, self.output, self._uploads, self._pool)
                self._kept.begin()
                self._journal = RemoteJournal(f"{self.output}/{STAGING}/{JOURNAL}", self._uploads)
                self._sending = Sending(
                    self.output,
                    self._uploads,
                    self._journal,
                    self._pool,
                    room_for(self._uploads, (file.size_bytes for file in self._files)),
                    read_back=self._read_back,
                    done=self._note_done,
                )
                self._take_over()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            self._small.drain()
            self._sending.drain()
            self._journal.drain()
            if kind is not None:  # an interruption, or a store that refuses: note all there is
                with suppress(ZeroConsolidateError):
                    self.settle()
            progress = self._journal.progress
            worth_keeping = bool(progress.upto or progress.stretches or progress.done or progress.publish)
            # A plan that broke would break again; but for parts, whatever this run has found, others have worked.
            worth_keeping = worth_keeping and not isinstance(error, (PlanBroken, WrongNames))
            if self._published or not (worth_keeping or progress.token is not None):
                with suppress(StoreFailed):  # what is left is said by whoever failed, and removed by --abort
                    abandon(self.output, self._uploads)
            elif isinstance(error, ZeroConsolidateError):
                error.remedies += how_to_remove(self.output)
        finally:
            self._journal.close()
            self._leave()

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
        """None: a store shares nothing with the checkpoint."""
        return 0

    @property
    def token(self) -> str | None:
        """What the parts of this conversion know it by; None if it is not made in parts."""
        return self._journal.progress.token

    @property
    def place(self) -> str:
        """Where workers find the plan."""
        return f"{self.output}/{STAGING}"

    @property
    def checks(self) -> Checks | None:
        """What :meth:`note_checks` recorded, in this run or an earlier one."""
        return self._journal.progress.checks

    def note_checks(self, checks: Checks) -> None:
        """Remember, before long, that the witness has been compared, and the result."""
        self._journal.later({"checked": checks.numel, "how": checks.how, "warnings": checks.warnings})

    def facts(self, name: str) -> dict[str, Any] | None:
        """What the journal remembers of a complete file, None if it is not complete."""
        progress = self._journal.progress
        return progress.facts[name] if name in progress.done else None

    def need(self, sizes: Mapping[str, int], *, cloned_bytes: int = 0) -> None:
        """Stores have room."""

    @contextmanager
    def weights(
        self, name: str, size_bytes: int, *, means: Means | None = None, together: bool = False
    ) -> Iterator[SentPart]:
        """A large file, which is continued where an earlier run stopped, if the store can."""
        with (
            self._kept.copying(name) as copy,
            self._sending.file(name, size_bytes, together=together, copy=copy) as part,
        ):
            if part.start:
                self._kept.restore(name, part.facts.get(CHECKSUM_OF_PARTS))
            yield part
        self._names.append(name)

    @property
    def has_unsynced(self) -> bool:
        """Whether complete files are not written down yet."""
        return self._sending.is_under_way or self._journal.is_behind

    def settle(self) -> None:
        """Wait until the store has all that is complete, and write it down."""
        self._sending.settle()
        self._journal.append()

    def keep(self, name: str) -> None:
        """A file that an earlier run has completed is part of this output."""
        self._kept.restore(name, (self.facts(name) or {}).get(CHECKSUM))
        self._names.append(name)

    def adopt(self, name: str, size_bytes: int, facts: Mapping[str, Any]) -> None:
        """The store has all bytes of a file."""
        self._names.append(name)
        self._note_done({"file": name, "done": size_bytes, "facts": dict(facts)})

    def check(self, file: FilePlan) -> None:
        """The store must have every part of a file, as it was planned. Raises OutputFailed."""
        with at(self.output):
            remote_spread.refuse_incomplete(
                self._uploads, self.output, file.name, self.upload_of(file.name), file.size_bytes
            )

    def upload_of(self, name: str) -> str:
        """What the upload of a file is known by that several processes send; it is begun if it was not."""
        return remote_spread.upload_of(self._journal, self._uploads, self.output, name)

    def keep_plan(self, name: str, content: bytes) -> None:
        """Put the plan where workers find it."""
        self._uploads.put(f"{self.place}/{TASKS}/{name}", content)

    def made_before(self, name: str, size_bytes: int) -> dict[tuple[int, int], dict[str, Any]]:
        """What earlier runs have sent of a file that workers are to make: (start, stop) -> facts."""
        return remote_spread.made_before(self._journal, self._uploads, self.output, name, size_bytes)

    def note(self, stretch: Stretch, facts: Mapping[str, Any]) -> None:
        """Remember, before long, that a worker has sent a stretch."""
        self._note_done({"file": stretch.file, "stretch": [stretch.start, stretch.stop], "facts": dict(facts)})

    def write(self, name: str, data: bytes) -> None:
        """A small file, whole."""
        self._small.write(name, data)
        self._names.append(name)

    def copy(self, name: str, source: str) -> None:
        """A file of the checkpoint or the base model, byte for byte."""
        self._small.copy(name, source)
        self._names.append(name)

    def path(self, name: str) -> str:
        """Where what is kept here of the file `name` is."""
        return self._kept.path(name)

    def publish(self, last: Sequence[str]) -> dict[str, int]:
        """Give every file its final name, those in `last` after all others, and remove what they replace.

        Returns sizes by name.
        """
        final = set(self._names)
        names = [name for name in self._names if name not in last] + [name for name in last if name in final]
        with at(self.output):
            self._small.wait()
            self.settle()
            sizes = {name: os.path.getsize(self.path(name)) for name in names if os.path.exists(self.path(name))}
            sizes |= {name: size for name, size in self._journal.progress.done.items() if name in final}
            record = {"publish": names, "last": [*last], "sizes": sizes, "overwrite": self._overwrite}
            self._journal.append(record)
        return self.finish()

    def finish(self) -> dict[str, int]:
        """Carry out what :meth:`publish` has written down, from wherever it stopped; returns sizes by name."""
        progress = self._journal.progress
        record = progress.publish or {}
        with at(self.output):
            publish(
                self.output,
                self._uploads,
                record["publish"],
                record["sizes"],
                last=record["last"],
                uploads_begun=progress.uploads,
                overwrite=record["overwrite"],
                again="start over with --restart" if self.token is None else start_over(self.place),
            )
        self._published = True
        return dict(record["sizes"])

    @property
    def checked(self) -> str:
        """What the store has compared of what it was sent."""
        return self._uploads.checks

    def _note_done(self, record: dict[str, Any]) -> None:
        self._journal.keep(record)
        self._done_bytes += record.get("done", 0)
        if time.monotonic() - self._clock >= NOTED_SECONDS or self._done_bytes >= uploads.NOTED_BYTES:
            self._journal.later()
            self._clock, self._done_bytes = time.monotonic(), 0

    def _take_over(self) -> None:
        progress = self._journal.progress
        if progress.fingerprint is not None and not self._restart:
            refuse_other(progress.fingerprint, self._fingerprint, f"{self.output}/{STAGING}")
            refuse_existing(self.output, overwrite=self._overwrite, ours=(progress.publish or {}).get("publish", ()))
            self._journal.begin()
            return
        refuse_existing(self.output, overwrite=self._overwrite)
        abandon(self.output, self._uploads)
        self._journal.begin({"begin": self._fingerprint})

    def _leave(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
