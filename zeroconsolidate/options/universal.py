"""The options of `universal`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .common import Recorded, check, digest, replicas, restart


@dataclass(frozen=True, kw_only=True)
class UniversalOptions(Recorded):
    """The options of `universal`."""

    restart: bool = restart()
    digest: Literal["sha256", "xxh3"] | None = digest()
    check: Literal["sample", "all", "none"] = check()
    replicas: Literal["equal", "first"] = replicas()

    reflink: ClassVar[Literal["auto"]] = "auto"
    """A checksum of every fragment is written, for which its bytes are read."""
    overwrite: ClassVar[bool] = False
    """Never: files of two universal checkpoints in one folder would be loaded together."""
    workers: ClassVar[int] = 1
    """Everything is copied."""
    partial: ClassVar[bool] = False
    """Never: an engine needs every parameter."""
