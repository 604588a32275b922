"""Answers of transformers that had to be asked for, kept in the user's cache directory: each costs seconds.

An answer is kept under a digest of all it follows from: the config, the transformers installed, and this release. A
file that is damaged, too large, or could have been written by somebody else is ignored, and so is a directory that
cannot be written to. Neither is ever an error.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..archive.regular import read_small
from ..errors import ZeroConsolidateError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ANSWER_BYTES = 16 << 20
"""Of one answer. That of a model of 671 billion parameters, expert by expert, takes ten million bytes."""
MAX_BYTES = 64 << 20
"""Of all of them; the oldest go first."""

_SUFFIX = ".json"


class Remembered:
    """The answers in one directory, of one transformers."""

    def __init__(self, directory: str, asked: str) -> None:
        """`asked`: what tells this transformers from every other."""
        self._directory, self._asked = directory, asked

    def get(self, config: bytes) -> dict[str, Any] | None:
        """The answer for a config, None if there is none that can be trusted."""
        path = self._path(config)
        try:
            if not (_is_ours(self._directory) and _is_ours(path)):
                return None
            digest, _, text = read_small(path, MAX_ANSWER_BYTES).partition(b"\n")
            if digest != _digest(text):
                return None
            answer = json.loads(text)
            os.utime(path)
        except (ZeroConsolidateError, OSError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    def put(self, config: bytes, answer: Mapping[str, Any]) -> None:
        """Keep an answer, if that is possible."""
        text = json.dumps(answer, separators=(",", ":")).encode()
        data = b"\n".join([_digest(text), text])
        if len(data) > MAX_ANSWER_BYTES:
            return
        from tempfile import NamedTemporaryFile

        with suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            if not _is_ours(self._directory):
                return
            self._make_room(len(data))
            # Whole or not at all, even if two conversions write at once.
            with NamedTemporaryFile(dir=self._directory, delete=False) as file:
                try:
                    file.write(data)
                    file.close()
                    os.replace(file.name, self._path(config))
                except OSError:
                    os.unlink(file.name)

    def _path(self, config: bytes) -> str:
        key = _digest(b"\0".join([__version__.encode(), self._asked.encode(), config]))
        return os.path.join(self._directory, key.decode() + _SUFFIX)

    def _make_room(self, nbytes: int) -> None:
        """Remove what was not used for longest, until there is room."""
        kept = [(entry.stat(), entry.path) for entry in os.scandir(self._directory) if entry.is_file()]
        total = nbytes + sum(stat.st_size for stat, _ in kept)
        for stat, path in sorted(kept, key=lambda each: each[0].st_mtime):
            if total <= MAX_BYTES:
                return
            os.unlink(path)
            total -= stat.st_size


def cache_directory() -> str:
    """Where answers are kept: as the XDG base directory specification has it, which ignores relative paths."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "zeroconsolidate", "names")


def installed() -> str | None:
    """What tells the installed transformers from every other; None if nothing does, as between two commits."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    spec = find_spec("transformers")
    try:
        number = version("transformers")
        if spec is None or spec.origin is None or not number.replace(".", "").isdigit():
            return None
        return f"transformers {number}, {spec.origin}, {os.stat(spec.origin).st_mtime_ns}"
    except (PackageNotFoundError, OSError):
        return None


def major() -> str:
    """The first number of the version of the installed transformers, empty if nothing tells."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("transformers").partition(".")[0]
    except PackageNotFoundError:
        return ""


def _is_ours(path: str) -> bool:
    """Whether nobody but this user can have written it. Raises OSError."""
    stat = os.stat(path)
    return stat.st_uid == os.getuid() and not stat.st_mode & 0o022


def _digest(data: bytes) -> bytes:
    from hashlib import sha256

    return sha256(data).hexdigest().encode()
