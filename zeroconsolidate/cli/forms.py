"""The paths that `verify` was given -> what to check: an output, a checkpoint, or one against the other."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.discover import is_checkpoint
from ..archive.model_files import MANIFEST_NAME
from ..archive.phrases import counted
from ..archive.places import exists
from ..errors import NotACheckpoint
from ..options import roots_of
from ..saves.target import found_run
from .arguments import Misuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..options import Roots


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What to check."""

    output: str | None
    """The model directory; None if a checkpoint is checked."""
    checkpoints: list[str]
    """The checkpoint, or the directories that it is spread over; empty if the output is checked by itself."""


def form_of(paths: Sequence[str], *, against: Roots | None, source: Roots | None) -> Form:
    """Sort the paths by what is there. `against` and `source`: the values of these options.

    Raises Misuse, and NotACheckpoint for a path that does not exist.
    """
    if source is not None:
        if paths or against is not None:
            raise Misuse("--source takes a checkpoint and nothing else", remedy=_line("--source", source))
        return Form(output=None, checkpoints=roots_of(source))
    if against is not None:
        if len(paths) != 1:
            raise Misuse(
                "--against compares one OUTPUT with a checkpoint",
                found=counted(len(paths), "path") if paths else None,
                remedy=_line("OUTPUT --against", against),
            )
        return Form(output=paths[0], checkpoints=roots_of(against))
    if not paths:
        raise Misuse("verify needs an OUTPUT, a CHECKPOINT, or both", remedy="zeroconsolidate verify OUTPUT CHECKPOINT")
    for path in paths:
        if not exists(path):
            raise NotACheckpoint("there is no such directory", address=(path,))
    checkpoints = [path for path in paths if _is_only_checkpoint(path)]
    outputs = [path for path in paths if path not in checkpoints]
    if len(outputs) > 1:
        raise Misuse(
            "verify takes one OUTPUT", found=f"several directories that are not checkpoints: {', '.join(outputs)}"
        )
    return Form(output=outputs[0] if outputs else None, checkpoints=checkpoints)


def _is_only_checkpoint(path: str) -> bool:
    """Trainer saves weights beside a checkpoint, too; what we wrote is an output, whatever lies in it."""
    has_manifest = exists(os.path.join(path, MANIFEST_NAME))
    return not has_manifest and (is_checkpoint(path) or found_run([path]) is not None)


def _line(middle: str, checkpoints: Roots) -> str:
    return f"zeroconsolidate verify {middle} {shlex.join(roots_of(checkpoints))}"
