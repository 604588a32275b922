"""Nothing incomplete ever has a final name: files are made in a staging folder and renamed when all are done.

The staging folder lies *inside* the output directory, so that a rename never crosses file systems (an output
directory is often a mount point) and an output that is a parent's only writable folder works too.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..archive.regular import open_regular
from ..errors import BadOption, DamagedFile, OutputExists, OutputFailed, ZeroConsolidateError, at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_COPY_BYTES = 1 << 32
"""A larger file is not copied beside the weights. Tokenizers take megabytes, dense layers of encoders some more."""

STAGING = ".zeroconsolidate"
"""Name of the staging folder."""

_WEIGHTS = re.compile(
    r"(?:model|pytorch_model)(?:-[0-9]{5}-of-[0-9]{5})?\.(?:safetensors|bin)"
    r"|(?:model\.safetensors|pytorch_model\.bin)\.index\.json|adapter_model\.(?:safetensors|bin)|adapter_config\.json"
)


def refuse_inside(output: str, *, checkpoint: str, tag_directory: str) -> None:
    """The output must not be in the checkpoint: we never modify what we read. Raises BadOption."""
    real = os.path.realpath(output)
    for source in (checkpoint, tag_directory):
        inside = os.path.realpath(source)
        if real == inside or real.startswith(inside.rstrip("/") + "/"):
            raise BadOption(
                f"the output {output} lies in the checkpoint {source}, which is never modified; name another directory"
            )


class Stage:
    """The staging folder of one conversion; use it as a context manager. Without :meth:`publish`, nothing remains."""

    def __init__(self, output: str, *, overwrite: bool) -> None:
        self.output = output
        self.folder = os.path.join(output, STAGING)
        self._overwrite = overwrite
        self._made: list[str] = []
        self._names: list[str] = []

    def __enter__(self) -> Stage:
        with at(self.output), _system_errors(self.output):
            self._refuse_existing()
            missing, here = [], self.output
            while not os.path.isdir(here):
                missing.append(here)
                here = os.path.dirname(here) or "."
            for directory in reversed(missing):
                os.mkdir(directory)
                self._made.append(directory)
            shutil.rmtree(self.folder, ignore_errors=True)
            os.mkdir(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for directory in reversed(self._made):
            try:
                os.rmdir(directory)
            except OSError:
                return

    def need(self, size_bytes: int) -> None:
        """Raise OutputFailed if the disk has less room than `size_bytes`."""
        with _system_errors(self.output):
            disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < size_bytes:
            raise OutputFailed(
                f"the disk has too little room; expected {size_bytes} bytes free, got {free}", address=(self.output,)
            )

    @contextmanager
    def create(self, name: str) -> Iterator[int]:
        """The descriptor of a new file of the output, synced to disk at the end of the block."""
        path = self.path(name)
        with _system_errors(os.path.join(self.output, name)):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            yield fd
            with _system_errors(os.path.join(self.output, name)):
                os.fsync(fd)
        finally:
            os.close(fd)
        self._names.append(name)

    def write(self, name: str, data: bytes) -> None:
        """A small file, whole."""
        with self.create(name) as fd, _system_errors(os.path.join(self.output, name)):
            while data:
                data = data[os.write(fd, data) :]

    def copy(self, name: str, source: str) -> None:
        """A file of the checkpoint or the base model, byte for byte, block by block."""
        try:
            with open(open_regular(source), "rb", buffering=0) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes > MAX_COPY_BYTES:
                    raise DamagedFile(
                        f"the file is too large to belong beside the weights; expected at most {MAX_COPY_BYTES} bytes, "
                        f"got {size_bytes}",
                        address=(source,),
                    )
                with self.create(name) as fd, _system_errors(os.path.join(self.output, name)):
                    while data := file.read(1 << 20):
                        while data:
                            data = data[os.write(fd, data) :]
        except ZeroConsolidateError:
            raise
        except OSError as error:
            raise DamagedFile(f"the file cannot be read: {error.strerror}", address=(source,)) from None

    def path(self, name: str) -> str:
        """Where the file `name` is while it is staged."""
        return os.path.join(self.folder, name)

    def publish(self, last: Sequence[str]) -> None:
        """Give every staged file its final name, those in `last` after all others, and take away what they replace."""
        with at(self.output), _system_errors(self.output):
            final = set(self._names)
            if self._overwrite:
                # An index must never point at shards of another conversion, not even between two renames.
                for old in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
                    _remove(os.path.join(self.output, old))
            for name in [n for n in self._names if n not in last] + [n for n in last if n in final]:
                target = os.path.join(self.output, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.replace(self.path(name), target)
            if self._overwrite:
                for old in os.listdir(self.output):
                    if old not in final and _WEIGHTS.fullmatch(old):
                        _remove(os.path.join(self.output, old))
            _sync_directory(self.output)
            self._made.clear()

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.output):
            return
        if not os.path.isdir(self.output):
            raise OutputExists("the output is a file; expected a directory or nothing")
        there = sorted(name for name in os.listdir(self.output) if name != STAGING)
        if there and not self._overwrite:
            shown = ", ".join(there[:3]) + (", …" if len(there) > 3 else "")
            raise OutputExists(f"the output directory is not empty ({shown}); replace its model with --overwrite")


@contextmanager
def _system_errors(path: str) -> Iterator[None]:
    """The system's errors, as ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (OutputExists, OutputFailed)):
            raise
        raise OutputFailed.from_system(path, error) from None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
