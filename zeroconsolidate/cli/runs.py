"""The saves of a run -> the tables and lines that `inspect`, `watch` and `prune` print."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..options import size_text
from .rows import folded, once, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..saves.facts import RunInfo, SaveInfo
    from ..saves.pruning import PrunedSave, Pruning
    from ..training.watching import Watched

_HEAD = ("save", "step", "saved", "good for", "model", "optimizer", "converted")
_MOST_REASONS = 4


def run_text(run: RunInfo) -> str:
    """The saves of a run, the oldest first, and from which of them a training can resume."""
    kinds = listed(list(dict.fromkeys(save.saved_by for save in run.saves)))
    lines = [f"{run.root}: {counted(len(run.saves), 'save')} by {kinds}"]
    lines.append(folded(f"  resume  {run.resume.text}", " " * 10))
    if run.best is not None:
        lines.append(f"  best    {run.best}")
    rows = [_HEAD, *(_row(save) for save in run.saves)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines += ["", _line(rows[0], widths)]
    for save, row in zip(run.saves, rows[1:], strict=True):
        lines.append(_line(row, widths))
        lines += [folded(f"    {text}", " " * 6) for text in _reasons(save)]
    return "\n".join(lines)


def pruning_text(pruning: Pruning) -> str:
    """What was removed of each save, or would be."""
    removed = [save for save in pruning.saves if save.removes != "nothing"]
    if pruning.done:
        head = f"{pruning.root}: freed {size_text(pruning.freed_bytes)}"
    elif removed:
        head = f"{pruning.root}: --yes frees {size_text(pruning.freed_bytes)}"
    else:
        head = f"{pruning.root}: there is nothing to remove"
    width = max(len(save.name) for save in pruning.saves)
    indent = " " * (width + 4)
    return "\n".join([head, *(folded(f"  {save.name:<{width}}  {_fate(save)}", indent) for save in pruning.saves)])


def _fate(save: PrunedSave) -> str:
    if save.removes == "nothing":
        return f"stays: {save.reason}"
    what = counted(len(save.files), "optimizer file") if save.removes == "optimizer" else "all of it"
    return f"{what}, {size_text(save.freed_bytes)}; {save.reason}"


def watched_text(watched: Watched) -> str:
    """What became of a save, in one line."""
    if watched.report is None:
        return f"{watched.name}: not converted: {watched.message}"
    removed = f"; removed {listed(watched.removed, 3)}" if watched.removed else ""
    return f"{watched.name}: {watched.output} in {time_text(watched.report.seconds)}{removed}"


def _row(save: SaveInfo) -> tuple[str, ...]:
    return (
        save.name,
        "?" if save.step is None else str(save.step),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(save.saved_at)),
        "resume" if save.whole else "resume, but see below" if save.resumable else save.use,
        size_text(save.model_bytes),
        size_text(save.optimizer_bytes),
        _models(save.converted),
    )


def _models(converted: Sequence[str]) -> str:
    if not converted:
        return "no"
    return converted[0] + (f" and {len(converted) - 1} more" if len(converted) > 1 else "")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _reasons(save: SaveInfo) -> list[str]:
    """What is wrong with a save."""
    reasons = [f"{name}: {reason}" for name, reason in save.missing.items()]
    found = once([*reasons, *(f"{name} is missing" for name in save.lacks if " " not in name)])
    found += [name for name in save.lacks if " " in name]
    return [*found[:_MOST_REASONS], *([f"and {len(found) - _MOST_REASONS} more"] if len(found) > _MOST_REASONS else [])]
