"""The journal of a conversion: what is safely on disk, so that a killed conversion continues there.

One record a line, `<crc32 of the JSON> <JSON>`, appended and synced. Whatever a record speaks of has been synced
*before* it is written, so that a power failure can lose records but never make one a lie; a torn or unreadable line
and everything behind it do not count.

    {"begin": <fingerprint>}                                what is being converted, first line
    {"checked": 131072, "how": "sample, equal", …}          the witness has been compared, so many elements
    {"file": "model.safetensors", "upto": 536870912, …}     every byte below is on disk
    {"file": "model.safetensors", "done": 988097824, …}     the file is complete and checked
    {"file": "model.safetensors", "stretch": [0, 4096], …}  these bytes are on disk, made by a worker
    {"file": "model.safetensors", "afresh": true}           nothing of the file is there any more
    {"publish": ["model.safetensors", …], …}                all files are complete: only renames are left

In a store also {"upload": id, "file": …}, an upload in parts, and {"run": …}, the newest run that writes it.

A conversion in parts has one more of each part (see :mod:`.portion`), in which `upto` and `done` end its share of a
file. Its first line names the conversion that the part belongs to.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..archive.phrases import counted
from ..errors import BadOption
from ..options.convert import Options
from ..options.declaration import declarations
from .system import write_all

if TYPE_CHECKING:
    from collections.abc import Mapping

Fingerprint = dict[str, dict[str, Any]]
"""Aspect (`options`, `sources`, …) -> what decides the output's bytes, as values that survive JSON."""

ORIGINS = "origins"
"""What a fingerprint says of an output file beside its size and header: which input its tensors are made of."""
MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What was compared before anything was written."""

    how: str
    """What the caller asked for: a run that is asked for something else compares again."""
    numel: int
    """Elements compared."""
    warnings: tuple[str, ...]
    """What was found and is not an error: warnings."""


@dataclass(slots=True)
class Progress:
    """What the records of a journal add up to."""

    fingerprint: Fingerprint | None = None
    token: str | None = None
    """Of a conversion in parts: what its parts know it by."""
    checks: Checks | None = None
    upto: dict[str, int] = field(default_factory=dict)
    """File -> bytes that are on disk."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """File -> what else its newest record says."""
    stretches: dict[str, dict[tuple[int, int], dict[str, Any]]] = field(default_factory=dict)
    """File -> (start, stop) of what workers have made of it -> what else is known of that."""
    done: dict[str, int] = field(default_factory=dict)
    """Complete file -> its size."""
    publish: dict[str, Any] | None = None
    uploads: dict[str, str] = field(default_factory=dict)
    """File -> the upload that was begun for it in a store."""
    run: str | None = None
    """The newest run that works on an output in a store."""
    valid_bytes: int = 0
    """How long the journal is up to its last whole record."""

    @property
    def made_bytes(self) -> int:
        """Bytes of all files that are on disk."""
        made = {name: sum(stop - start for start, stop in of_file) for name, of_file in self.stretches.items()}
        return sum((made | self.upto | self.done).values())

    @property
    def all_facts(self) -> list[dict[str, Any]]:
        """What is known of files, and of stretches of those that are not complete."""
        stretches = [of_file.values() for name, of_file in self.stretches.items() if name not in self.done]
        return [*self.facts.values(), *(facts for of_file in stretches for facts in of_file)]

    def take(self, record: Mapping[str, Any]) -> None:
        """Add one record up."""
        if "begin" in record:
            self.fingerprint, self.token = record["begin"], record.get("token")
        elif "checked" in record:
            self.checks = Checks(how=record["how"], numel=record["checked"], warnings=tuple(record["warnings"]))
        elif "publish" in record:
            self.publish = dict(record)
        elif "upload" in record:
            self.uploads[record["file"]] = record["upload"]
        elif "run" in record:
            self.run = record["run"]
        elif "done" in record:
            self.done[record["file"]] = record["done"]
            self.facts[record["file"]] = record["facts"]
        elif "stretch" in record:
            start, stop = record["stretch"]
            self.stretches.setdefault(record["file"], {})[start, stop] = record["facts"]
        elif "afresh" in record:
            for known in (self.upto, self.facts, self.stretches, self.done):
                known.pop(record["file"], None)
        elif "upto" in record:
            self.upto[record["file"]] = record["upto"]
            self.facts[record["file"]] = record["facts"]


def read_progress(path: str) -> Progress:
    """What the journal at `path` adds up to. Raises the system's errors."""
    with open(path, "rb") as file:
        # Python allocates what it is asked to read, whether it is there or not.
        return progress_of(file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES)))


def progress_of(text: bytes) -> Progress:
    """What the records of a journal add up to."""
    progress = Progress()
    for line in text.splitlines(keepends=True):
        record = _record(line)
        if record is None:
            break
        progress.take(record)
        progress.valid_bytes += len(line)
    return progress


class Journal:
    """An open journal. The system's errors pass through; the caller knows whose disk it is."""

    def __init__(self, path: str) -> None:
        """Open the journal at `path`, or begin one, and read what it says."""
        self._turn = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self.progress = read_progress(path)
            os.ftruncate(self._fd, self.progress.valid_bytes)
            os.lseek(self._fd, self.progress.valid_bytes, os.SEEK_SET)
        except BaseException:
            self.close()
            raise

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records and sync them. What the records state must be synced already. Any thread may call it."""
        with self._turn:
            write_all(self._fd, encoded(*records))
            os.fsync(self._fd)
            for record in records:
                self.progress.take(record)

    def close(self) -> None:
        """Close the file. Calling this again does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def encoded(*records: Mapping[str, Any]) -> bytes:
    """Records as they are written."""
    texts = [json.dumps(record, separators=(",", ":")).encode() for record in records]
    return b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts)


def _record(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def refuse_other(before: Fingerprint, now: Fingerprint, folder: str, *, remedy: str | None = None) -> None:
    """Raise BadOption, saying what changed, if staged work was made from something else."""
    found = [
        (aspect, _change(aspect, name, before.get(aspect, {}).get(name), now.get(aspect, {}).get(name)))
        for aspect in dict.fromkeys([*before, *now])
        for name in dict.fromkeys([*before.get(aspect, {}), *now.get(aspect, {})])
        if before.get(aspect, {}).get(name) != now.get(aspect, {}).get(name)
    ]
    # That the output differs follows from what else does.
    changes = [change for aspect, change in found if aspect not in ("output", "layout")] or [
        change for _, change in found
    ]
    if changes:
        if remedy is None:
            remedy = "start over with --restart, or run the earlier command again to continue it"
        more = f", and {counted(len(changes) - 3, 'more change')}" if len(changes) > 3 else ""
        raise BadOption(
            f"{folder} has an interrupted conversion with other options or input: {'; '.join(changes[:3])}{more}",
            remedy=remedy,
        )


def _change(aspect: str, name: str, before: object, now: object) -> str:
    if aspect == "parts":
        there = "in one piece" if before is None else f"in {before} parts"
        return f"it is being made {there}, not {'in one piece' if now is None else f'in {now} parts'}"
    label = f"{aspect} {name}" if aspect != "options" else _flag(name)
    if before is None or now is None:
        return f"{label} {'is new' if before is None else 'has gone'}"
    if _differ_in_origins_only(before, now):
        return f"the tensors of {name} are made of others, or of the same in another order"
    return f"{label} was {_short(before)}, is {_short(now)}"


def _differ_in_origins_only(before: object, now: object) -> bool:
    """Whether an output file looks as it did, and is made of something else."""
    if not isinstance(before, dict) or not isinstance(now, dict) or ORIGINS not in before:
        return False
    return now == before | {ORIGINS: now.get(ORIGINS)}


def _flag(option: str) -> str:
    """As it is typed; the name of one that an older or newer release has."""
    return next((each.flags[0] for each in declarations(Options) if each.name == option and each.flags), option)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return f"{value!r:.60}"
