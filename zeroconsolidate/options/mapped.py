"""`--map OLD=NEW` -> where a machine sees what is called OLD elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Mapped:
    """Pairs of (OLD, NEW), both absolute paths. Without any, everything is where it is called."""

    pairs: tuple[tuple[str, str], ...] = ()
    base: str = ""
    """What relative paths are relative to."""

    @classmethod
    def parse(cls, given: Sequence[object]) -> Mapped:
        """From texts such as `/scratch=/mnt/scratch`. Raises BadOption."""
        pairs = []
        for each in given:
            old, equals, new = str(each).partition("=")
            if not (equals and old.startswith("/") and new.startswith("/")):
                raise BadOption(
                    "--map is OLD=NEW, both absolute paths", expected="/scratch=/mnt/scratch, for example", found=each
                )
            pairs.append((os.path.normpath(old), os.path.normpath(new)))
        return cls(tuple(pairs))

    def seen(self, path: str) -> str:
        """Where this machine sees what is called `path` elsewhere.

        >>> Mapped((("/scratch", "/mnt/scratch"),)).seen("/scratch/run/model")
        '/mnt/scratch/run/model'
        """
        return _moved(os.path.join(self.base, path), self.pairs)

    def called(self, path: str) -> str:
        """What is called elsewhere what this machine sees as `path`.

        >>> Mapped((("/scratch", "/mnt/scratch"),)).called("/mnt/scratch/run/model")
        '/scratch/run/model'
        """
        real = [(os.path.realpath(new), old) for old, new in self.pairs]
        return _moved(path, [*((new, old) for old, new in self.pairs), *real])


EVERYTHING_HERE = Mapped()
"""Nothing is called otherwise elsewhere."""


def _moved(path: str, pairs: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    """The path with its beginning replaced: by the pair with the longest."""
    fitting = [(old, new) for old, new in pairs if path == old or path.startswith(old.rstrip("/") + "/")]
    if not fitting:
        return path
    old, new = max(fitting, key=lambda pair: len(pair[0]))
    return os.path.normpath(os.path.join(new, os.path.relpath(path, old)))
