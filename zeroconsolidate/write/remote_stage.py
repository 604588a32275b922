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
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import PlanBroken, StoreFailed, WrongNames, ZeroConsolidateError, at
from ..integrations.object_uploads import uploads_to
from .journal import Checks, Fingerprint, refuse_other
from .lock import Lock
from .refusals import JOURNAL, STAGING
from .remote_files import SmallFiles
from .remote_journal import RemoteJournal, continued
from .remote_publish import abandon, how_to_remove, publish, refuse_existing, staged
from .uploads import NOTED_SECONDS, Sent, SentPart, part_bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

    from ..plan.layout import FilePlan
    from ..run.clone import Means


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
        self._etags: dict[str, dict[int, str]] = {}
        """Of the parts of files that this run has made."""
        self._staged: set[str] | None = set()
        """What this run has staged; None if there is more, which an earlier one has."""
        self._pending: list[dict[str, Any]] = []
        """Records of complete files that are not written down yet."""
        self._clock = time.monotonic()
        self._published = False

    def __enter__(self) -> Self:
        self._closing = ExitStack()
        self.folder = tempfile.mkdtemp(prefix="zeroconsolidate-")
        self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            with at(self.output):
                name = hashlib.sha256(self.output.encode()).hexdigest()[:32]
                lock = f"zeroconsolidate-{os.getuid()}-{name}.lock"
                self._closing.callback(Lock(os.path.join(tempfile.gettempdir(), lock)).release)
                self._pool = ThreadPoolExecutor(self._uploads.in_flight, thread_name_prefix="zeroconsolidate-upload")
                self._closing.callback(self._pool.shutdown, wait=True, cancel_futures=True)
                self._small = SmallFiles(self.folder, self.output, self._uploads, self._pool)
                self._small.keep_headers(self._files)
                self._journal = RemoteJournal(f"{self.output}/{STAGING}/{JOURNAL}", self._uploads)
                self._closing.callback(self._journal.close)
                self._take_over()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._small.drain()
        try:
            if kind is not None and not issubclass(kind, Exception):  # an interruption: note all there is
                with suppress(ZeroConsolidateError):
                    self.settle()
            with suppress(ZeroConsolidateError):  # whoever failed before has said so
                self._journal.wait()
            progress = self._journal.progress
            worth_keeping = bool(progress.upto or progress.done or progress.publish)
            if self._published or not worth_keeping or isinstance(error, (PlanBroken, WrongNames)):
                with suppress(StoreFailed):  # what is left is said by whoever failed, and removed by --abort
                    abandon(self.output, self._uploads)
            elif isinstance(error, ZeroConsolidateError):
                error.remedies += how_to_remove(self.output)
        finally:
            self._closing.close()

    @property
    def is_publishing(self) -> bool:
        """Whether an earlier run had made everything and was giving final names: call :meth:`finish`."""
        return self._journal.progress.publish is not None

    @property
    def resumed_bytes(self) -> int:
        """Bytes of weights an earlier run had made."""
        progress = self._journal.progress
        return sum((progress.upto | progress.done).values())

    @property
    def cloned_bytes(self) -> int:
        """None: a store shares nothing with the checkpoint."""
        return 0

    @property
    def token(self) -> None:
        """Parts are not made in stores."""
        return

    @property
    def checks(self) -> Checks | None:
        """What :meth:`note_checks` recorded, in this run or an earlier one."""
        return self._journal.progress.checks

    def note_checks(self, checks: Checks) -> None:
        """Remember that the witness has been compared, and the result."""
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
        url, part_bytes = f"{self.output}/{name}", part_bytes_of(size_bytes)
        is_small = size_bytes <= part_bytes
        start, upload, etags = 0, "", dict[int, str]()
        facts: dict[str, Any] = {}
        if not is_small:
            target = url if self._uploads.is_resumable else staged(self.output, name)
            with at(name):
                if self._uploads.is_resumable:
                    start, upload, etags, facts = continued(
                        self._journal.progress, self._uploads, name, target, part_bytes, afresh=self._read_back
                    )
                if not upload:
                    upload = self._uploads.begin(target, part_bytes)
                    self._journal.later({"upload": upload, "file": name})

        def send(number: int, data: bytearray) -> str:
            if is_small:
                self._uploads.put(staged(self.output, name), data)
                return ""
            return self._uploads.part(target, upload, number, data)

        output = Sent(
            send,
            self._pool,
            size_bytes=size_bytes,
            start=start,
            in_flight=self._uploads.in_flight,
            kept=self._read_back,
        )
        output.etags.update(etags)
        part = SentPart(output, name, start=start, facts=facts, notes=self)
        try:
            yield part
            output.finish()
        except BaseException as stopped:
            output.drain()
            if self._uploads.is_resumable and not is_small and not isinstance(stopped, PlanBroken):
                with suppress(ZeroConsolidateError):
                    part.sync()
            elif upload:
                self._uploads.give_up(target, upload)
            raise
        if upload and not self._uploads.is_resumable:
            self._uploads.complete(target, upload, output.etags)
        if upload and self._uploads.is_resumable:
            self._etags[name] = output.etags
            self._names.append(name)
        else:
            self._note_staged(name)
        self._note_done({"file": name, "done": size_bytes, "facts": part.facts})

    @property
    def has_unsynced(self) -> bool:
        """Whether complete files are not written down yet."""
        return bool(self._pending)

    def settle(self) -> None:
        """Write down all that is complete, while other things go on."""
        records, self._pending = self._pending, []
        if records:
            self._journal.later(*records)
        self._clock = time.monotonic()

    def keep(self, name: str) -> None:
        """A file that an earlier run has completed is part of this output."""
        self._names.append(name)
        self._staged = None

    def write(self, name: str, data: bytes) -> None:
        """A small file, whole."""
        self._small.write(name, data)
        self._note_staged(name)

    def copy(self, name: str, source: str) -> None:
        """A file of the checkpoint or the base model, byte for byte."""
        self._small.copy(name, source)
        self._note_staged(name)

    def path(self, name: str) -> str:
        """Where what is kept here of the file `name` is."""
        return self._small.path(name)

    def publish(self, last: Sequence[str]) -> dict[str, int]:
        """Give every file its final name, those in `last` after all others, and remove what they replace.

        Returns sizes by name.
        """
        final = set(self._names)
        names = [name for name in self._names if name not in last] + [name for name in last if name in final]
        with at(self.output):
            self._small.wait()
            self.settle()
            self._journal.wait()
            sizes = {name: os.path.getsize(self.path(name)) for name in names if os.path.exists(self.path(name))}
            sizes |= {name: size for name, size in self._journal.progress.done.items() if name in final}
            self._journal.append({"publish": names, "sizes": sizes, "last": list(last), "overwrite": self._overwrite})
        return self.finish()

    def finish(self) -> dict[str, int]:
        """Carry out what :meth:`publish` has written down, from wherever it stopped; returns sizes by name."""
        progress = self._journal.progress
        record = progress.publish or {}
        there = self._staged if self._names else None
        with at(self.output):
            publish(
                self.output,
                self._uploads,
                record["publish"],
                record["sizes"],
                last=record["last"],
                uploads_begun=progress.uploads,
                etags=self._etags,
                there=there,
                overwrite=record["overwrite"],
            )
        self._published = True
        return dict(record["sizes"])

    @property
    def checked(self) -> str:
        """What the store has compared of what it was sent."""
        return self._uploads.checks

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """Journal that the store has the file below byte `upto`."""
        self._journal.later({"file": name, "upto": upto, "facts": facts})

    def _note_staged(self, name: str) -> None:
        self._names.append(name)
        if self._staged is not None:
            self._staged.add(name)

    def _note_done(self, record: dict[str, Any]) -> None:
        self._pending.append(record)
        if time.monotonic() - self._clock >= NOTED_SECONDS or record["done"] > part_bytes_of(record["done"]):
            self.settle()

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
