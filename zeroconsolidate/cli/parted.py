"""A conversion in parts, on the command line: what contradicts itself, and what a part has written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..options import size_text
from .arguments import Misuse
from .rows import time_text

if TYPE_CHECKING:
    from ..outputs.parts import PartReport
    from .verbs.convert import ModelFlags


def refuse_contradicting(flags: ModelFlags) -> None:
    """Raises Misuse."""
    if flags.part is not None and flags.finish:
        raise Misuse("--part and --finish are of different commands", remedy="run --finish when all parts are written")
    if flags.abort and (flags.dry_run or flags.finish or flags.json or flags.part is not None):
        raise Misuse("--abort converts nothing", remedy="leave out --part, --finish, --dry-run and --json")
    if flags.dry_run and (flags.part is not None or flags.finish):
        name = "--finish" if flags.finish else "--part"
        raise Misuse(f"--dry-run is about the whole conversion, not about {name}", remedy=f"leave out {name}")


def aborted_text(directory: str, removed: int) -> str:
    """What --abort has removed."""
    return f"{directory}: {counted(removed, 'staged file')} removed" if removed else f"{directory}: nothing is staged"


def part_text(report: PartReport) -> str:
    """What a part has written, and how to go on."""
    rate = size_text(round((report.bytes_written - report.resumed_bytes) / max(report.seconds, 1e-9)))
    rows = [
        f"{report.output}: part {report.part}/{report.parts} is written",
        f"  weights   {size_text(report.bytes_written)} of {size_text(report.total_bytes)}",
        *([f"  resumed   {size_text(report.resumed_bytes)} were there already"] if report.resumed_bytes else []),
        f"  time      {time_text(report.seconds)}, {rate}/s",
        "",
        "When all parts are written, the same command with --finish in place of --part makes the output.",
    ]
    return "\n".join(rows)
