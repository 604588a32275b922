"""The folder that a conversion works in, its journal and its lock: taken over from an earlier run, begun, cleared away.

my-model/                              the output
    .zeroconsolidate/lock              held while a process works here
    .zeroconsolidate/journal           what is being converted, and what of it is on the disk (`journal.py`)
    .zeroconsolidate/files/            the files of the output until all are complete
    .zeroconsolidate/parts/, tasks/    what other processes leave and find here (`portion.py`, `spread.py`)
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import at
from . import spread
from .journal import Fingerprint, Journal, refuse_other
from .lock import Lock
from .refusals import JOURNAL, PARTS, STAGING, refuse_existing, refuse_file
from .system import remove, sync_directory, system_errors

if TYPE_CHECKING:
    from collections.abc import Sequence


class StagingFolder:
    """The staging folder of one output, once :meth:`open` has it.

    Raises OutputExists for an output in use, OutputFailed when the system refuses, and BadOption for staged work of
    another conversion than `fingerprint` says, unless `restart`.
    """

    journal: Journal

    def __init__(self, output: str, *, overwrite: bool, restart: bool, fingerprint: Fingerprint) -> None:
        self.output = output
        self.path = os.path.join(output, STAGING)
        self._overwrite = overwrite
        self._restart = restart
        self._fingerprint = fingerprint
        self._made: list[str] = []

    def open(self) -> None:
        """Take the lock, read the journal, and continue its conversion or begin ours."""
        with at(self.output), system_errors(self.output):
            refuse_file(self.output)
            if not os.path.isdir(self.path):
                refuse_existing(self.output, overwrite=self._overwrite)
            self._make_folders()
            self._lock = Lock(os.path.join(self.path, "lock"))
            try:
                self._open()
            except BaseException:
                self._lock.release()
                raise

    def close(self, *, keep: bool, published: bool) -> None:
        """Give the folder back; what is in it goes away unless someone is to go on with it (`keep`)."""
        self.journal.close()
        try:
            if published or not keep:
                self._clear(published=published)
        finally:
            self._lock.release()

    def staged(self, name: str) -> str:
        """Where the file `name` is while it is staged."""
        return os.path.join(self.path, "files", name)

    def make_durable(self) -> None:
        """Sync the folders that lead to the journal: without their entries it could vanish with the power."""
        for directory in (self.path, self.output, *map(os.path.dirname, self._made)):
            sync_directory(directory)

    @property
    def _journal_path(self) -> str:
        return os.path.join(self.path, JOURNAL)

    def _make_folders(self) -> None:
        missing, here = [], self.path
        while not os.path.isdir(here):
            missing.append(here)
            here = os.path.dirname(here) or "."
        try:
            for directory in reversed(missing):
                with suppress(FileExistsError):  # another conversion began at the same moment; the lock decides
                    os.mkdir(directory)
                    self._made.append(directory)
        except OSError:
            self._clear()
            raise

    def _open(self) -> None:
        try:
            self.journal = Journal(self._journal_path)
        except OSError:
            self._clear()
            raise
        try:
            self._take_over()
        except BaseException:
            self.journal.close()
            if self.journal.progress.fingerprint is None:
                self._clear()  # nobody's work, and we add none
            raise

    def _take_over(self) -> None:
        progress = self.journal.progress
        published: Sequence[str] = (progress.publish or {}).get("publish", ())
        if progress.fingerprint is not None and not self._restart:
            refuse_other(progress.fingerprint, self._fingerprint, self.path)
            refuse_existing(self.output, overwrite=self._overwrite, ours=published)
            return
        if published:
            # The half-published files belong to nothing: their conversion is being thrown away.
            for name in published:
                if not os.path.lexists(self.staged(name)):
                    remove(os.path.join(self.output, name))
        refuse_existing(self.output, overwrite=self._overwrite)
        self.journal.close()
        remove(self._journal_path)
        spread.drop_plan(self.path)
        for name in (PARTS, "files"):
            shutil.rmtree(os.path.join(self.path, name), ignore_errors=True)
        self.journal = Journal(self._journal_path)
        self.journal.append({"begin": self._fingerprint})

    def _clear(self, *, published: bool = False) -> None:
        """Take the staging folder away.

        The journal goes first, for without it the rest means nothing; but if all is published it goes last: whoever
        is stopped here begins here again, and is not told that the output exists.
        """
        if published:
            shutil.rmtree(os.path.join(self.path, "files"), ignore_errors=True)
        with suppress(OSError):
            remove(self._journal_path)
        shutil.rmtree(self.path, ignore_errors=True)
        for directory in [] if published else reversed(self._made):
            with suppress(OSError):
                os.rmdir(directory)
