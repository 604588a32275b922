"""What :class:`.portion.Portion` is, for an output in a store: every part sends its own numbers of the same uploads.

    s3://bucket/my-model/
        model.safetensors                  an upload, which no listing shows: 1 2 3 4 5 6 7
                                                               part 1/2 sends  ----- -------  part 2/2
        .zeroconsolidate/journal           what is being converted, in how many parts, and the uploads
        .zeroconsolidate/parts/1-of-2      the journal of a part: how much of its share of each file the store has

Whichever part comes first begins the uploads, and then puts the journal there, which S3 gives to one of several that
come at a time; the others give up what they have begun. Every journal of a part repeats the token of the journal, and
every record is written only while that is still there: what was sent for another journal does not count, and its
uploads are gone. Records are written while the next bytes are sent; a part is finished when all of them are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..archive.remote import ahead
from ..errors import BadOption, OutputBusy, ZeroConsolidateError, at
from .journal import Fingerprint, encoded, progress_of, refuse_other
from .portion import start_over
from .refusals import JOURNAL, PARTS, STAGING
from .remote_journal import RemoteJournal, read_journal
from .remote_publish import refuse_existing
from .remote_spread import shared_uploads, uploaded
from .shares import told
from .uploads import Sent, SentPart, numbers_of, part_bytes_of, room_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

    from ..integrations.object_uploads import UploadedPart
    from ..plan.stretches import Part as Number
    from ..plan.stretches import Stretch
    from ..run.clone import Means
    from .journal import Progress


class RemotePortion:
    """One part's share of a conversion whose output is at a URL; use it as a context manager.

    `sizes`: of the files of weights. Raises what :class:`.portion.Portion` raises, StoreFailed, and BadOption for a
    store to which only one machine can send a file.
    """

    def __init__(
        self, output: str, part: Number, *, sizes: Mapping[str, int], overwrite: bool, fingerprint: Fingerprint
    ) -> None:
        self.output = output
        self.folder = f"{output}/{STAGING}"
        self._uploads = shared_uploads(output)
        self._part = part
        self._sizes = sizes
        self._overwrite = overwrite
        self._fingerprint = fingerprint
        self._there: dict[str, dict[int, UploadedPart]] = {}

    def __enter__(self) -> Self:
        with at(self.output):
            main = self._begun()
            self._token, self._ids = main.token, main.uploads
            with at(f"part {self._part}"):
                self._journal = RemoteJournal(
                    journal_of(self.folder, self._part), self._uploads, guard=self._refuse_gone
                )
                afresh = self._journal.progress.token != self._token
                self._journal.begin(*([{"begin": {}, "token": self._token}] if afresh else []))
        self.own_folder = tempfile.mkdtemp(prefix="zeroconsolidate-")
        self._pool = ThreadPoolExecutor(self._uploads.in_flight, thread_name_prefix="zeroconsolidate-upload")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._journal.wait()
            else:
                self._journal.drain()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._journal.close()
            shutil.rmtree(self.own_folder, ignore_errors=True)

    @property
    def resumed_bytes(self) -> dict[str, int]:
        """File -> where an earlier run of this part had come to."""
        progress = self._journal.progress
        return progress.upto | progress.done

    def is_done(self, stretch: Stretch) -> bool:
        """Whether the store has a stretch of this part."""
        return self._journal.progress.done.get(stretch.file) == stretch.stop and self._has(stretch, stretch.stop)

    def need(self, sizes: Mapping[str, int], *, cloned_bytes: int = 0) -> None:
        """Stores have room."""

    @contextmanager
    def weights(self, stretch: Stretch, *, means: Means | None = None) -> Iterator[SentPart]:
        """The file of a stretch, to be continued where an earlier run of this part stopped. Remembered at the block's
        end."""
        name, size_bytes = stretch.file, self._sizes[stretch.file]
        progress, part_bytes = self._journal.progress, part_bytes_of(size_bytes)
        start = max(progress.upto.get(name, 0) // part_bytes * part_bytes, stretch.start)
        start = start if self._has(stretch, start) else stretch.start
        facts: dict[str, Any] = progress.facts[name] if start > stretch.start else {}
        url, upload = f"{self.output}/{name}", self._ids[name]

        def send(number: int, data: bytearray) -> str:
            return self._uploads.part(url, upload, number, data)

        output = Sent(
            send,
            self._pool,
            size_bytes=size_bytes,
            begin=stretch.start,
            start=start,
            stop=stretch.stop,
            room=room_for(self._uploads, [size_bytes]),
            kept=False,
        )
        output.etags.update((number, "") for number in numbers_of(stretch.start, start, size_bytes))
        part = SentPart(output, name, start=start, facts=facts, notes=self)
        try:
            yield part
            output.finish()
        except BaseException:
            output.drain()
            with suppress(ZeroConsolidateError):
                part.sync()
            raise
        self._journal.later({"file": name, "done": stretch.stop, "facts": part.facts})

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """Journal, before long, that the store has the share of the file below byte `upto`."""
        self._journal.later({"file": name, "upto": upto, "facts": facts})

    def _refuse_gone(self) -> None:
        """The conversion's own journal must be there. Raises OutputBusy."""
        with at(self.output):
            if progress_of(read_journal(f"{self.folder}/{JOURNAL}")).token != self._token:
                raise OutputBusy(
                    "the conversion that this part belongs to is no longer there",
                    consequence="it was finished or given up, or another part began it at the same moment",
                    remedy="run this part again, if the output is not complete",
                )

    def _has(self, stretch: Stretch, upto: int) -> bool:
        """Whether the store has the bytes of a stretch below `upto`. Raises OutputFailed if the upload has gone."""
        name, size_bytes = stretch.file, self._sizes[stretch.file]
        if name not in self._there:
            self._there[name] = uploaded(self._uploads, self.output, name, self._ids[name])
        there = self._there[name]
        return all(number in there for number in numbers_of(stretch.start, upto, size_bytes))

    def _begun(self) -> Progress:
        """The journal of the conversion, which is begun if it was not."""
        path = f"{self.folder}/{JOURNAL}"
        progress = progress_of(read_journal(path))
        if progress.fingerprint is None:
            refuse_existing(self.output, overwrite=self._overwrite)
            progress = self._begin(path)
        if progress.fingerprint is None:
            raise OutputBusy("another conversion is just beginning this output", remedy="run this part again")
        remedy = f"run the earlier command again to continue it, or {start_over(self.folder)}"
        refuse_other(progress.fingerprint, self._fingerprint, self.folder, remedy=remedy)
        refuse_existing(self.output, overwrite=self._overwrite, ours=(progress.publish or {}).get("publish", ()))
        if progress.token is None or not self._sizes.keys() <= progress.uploads.keys():
            raise BadOption(f"{self.folder} is of no conversion in parts", remedy=start_over(self.folder))
        return progress

    def _begin(self, path: str) -> Progress:
        token, ids = os.urandom(8).hex(), dict[str, str]()
        try:
            for name, size_bytes in self._sizes.items():
                ids[name] = self._uploads.begin(f"{self.output}/{name}", part_bytes_of(size_bytes))
            records = [{"upload": upload, "file": name} for name, upload in ids.items()]
            self._uploads.create(path, encoded({"begin": self._fingerprint, "token": token}, *records))
            progress = progress_of(read_journal(path))
        except BaseException:
            # Our journal may be there all the same: then its uploads are what all parts send to.
            with suppress(ZeroConsolidateError):
                if progress_of(read_journal(path)).token != token:
                    self._give_up(ids)
            raise
        if progress.token != token:
            self._give_up(ids)
        return progress

    def _give_up(self, ids: Mapping[str, str]) -> None:
        for name, upload in ids.items():
            self._uploads.give_up(f"{self.output}/{name}", upload)


def gathered(
    output: str, token: str | None, shares: Mapping[Number, Sequence[Stretch]], sizes: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """What the parts remember of each file, if each has sent its share. Raises BadOption if a part is not finished."""
    folder = f"{output}/{STAGING}"
    answers = ahead(lambda part: progress_of(read_journal(journal_of(folder, part))), shares)
    journals: dict[Number, Progress | None] = {part: answer() for part, answer in zip(shares, answers, strict=True)}
    return told(journals, token, shares, sizes)


def journal_of(folder: str, part: Number) -> str:
    """Where the journal of a part is."""
    return f"{folder}/{PARTS}/{part.number}-of-{part.count}"
