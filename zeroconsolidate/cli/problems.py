"""Errors and warnings -> their text: what is wrong first, then each part on a line of its own."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Protocol

from .. import errors
from ..archive.printable import printable
from ..options import size_text
from .rows import folded, once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..errors import ZeroConsolidateError
    from ..opening.losses import Loss

WIDTH = 120
"""An error that fits into so many columns is printed on one line."""
MOST_ROWS = 12
_FOLDED = 4
"""From this many on, tensors with equal losses share a row."""


def error_text(error: ZeroConsolidateError, *, checkpoint: Sequence[str] = (), output: str | None = None) -> str:
    """The text of an error: one line if it is short, else its parts on lines of their own, and what is lost.

    `checkpoint` and `output`: as they were given to the command, for the command lines that the text proposes.
    """
    remedies = [with_output(remedy, output) for remedy in error.remedies]
    short = "; ".join(filter(None, (error.finding, error.consequence, *remedies)))
    place = " > ".join(error.address)
    line = f"zeroconsolidate: {short}" + (f" (at {place})" if place else "")
    if len(line) <= WIDTH and not error.losses:
        return printable(line)
    compared = [error.comparison]
    if len(error.comparison) > WIDTH and error.expected and error.found:
        compared = [f"expected {error.expected}", f"got {error.found}"]
    parts = [*compared, f"at {place}" if place else None, error.consequence, *remedies]
    lines = [f"zeroconsolidate: {error.message}", *(f"  {part}" for part in parts if part)]
    lines += [f"    {row}" for row in loss_rows(error.losses, checkpoint)]
    return "\n".join(map(printable, lines))


class Warned(Protocol):
    """The result of a conversion or of a dry run."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What a loader will not find."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be wrong with the output."""


def warnings_text(result: Warned) -> list[str]:
    """The warnings of a conversion or a dry run, each on its own line. They are always printed on stderr."""
    return [folded(f"warning: {printable(text)}", " " * 9) for text in once((*result.missing, *result.warnings))]


def with_output(remedy: str, output: str | None) -> str:
    """A command line with the output directory in place of OUTPUT, if it is known."""
    return remedy if output is None else remedy.replace("OUTPUT", shlex.quote(output))


def error_dict(error: ZeroConsolidateError, exit_code: int, *, output: str | None = None) -> dict[str, object]:
    """The error as `--json` prints it: always the same keys, None for parts that it does not have."""
    public = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in errors.__all__)
    return _dict(
        public,
        exit_code,
        message=error.message,
        expected=error.expected,
        found=error.found,
        consequence=error.consequence,
        remedy=with_output(error.remedy, output) if error.remedy else None,
        address=list(error.address),
        files=list(error.files),
    )


def ended_dict(message: str, exit_code: int) -> dict[str, object]:
    """The end of the process by a signal, as `--json` prints it."""
    return _dict("Interrupted", exit_code, message=message)


def _dict(kind: str, exit_code: int, **parts: object) -> dict[str, object]:
    empty: dict[str, object] = dict.fromkeys(("message", "expected", "found", "consequence", "remedy"))
    return {
        "ok": False,
        "kind": "error",
        "error": {"kind": kind} | empty | {"address": [], "files": []} | parts | {"exit_code": exit_code},
    }


def loss_rows(losses: Sequence[Loss], checkpoint: Sequence[str]) -> list[str]:
    """Rows of what is lost of each tensor, the worst first; tensors with equal losses share a row.

    There are none if all losses are equal: then the error's sentence says it.
    """
    alike: dict[tuple[str, str], list[Loss]] = {}
    for loss in sorted(losses, key=lambda loss: -loss.lost_bytes):
        if loss.lost_numel:
            alike.setdefault((loss.fate, f"{100 * loss.lost_numel / loss.numel:5.1f} %"), []).append(loss)
    has_whole = any(not loss.lost_numel and loss.role != "buffer" for loss in losses)
    if len(alike) == 1 and not has_whole:
        return []
    groups = [
        (fate, share, few)
        for (fate, share), group in alike.items()
        for few in ([group] if len(group) >= _FOLDED else [[loss] for loss in group])
    ]
    groups.sort(key=lambda group: -sum(loss.lost_bytes for loss in group[2]))
    shown = groups[:MOST_ROWS]
    names = [few[0].name + (f" and {len(few) - 1} more" if len(few) > 1 else "") for _, _, few in shown]
    width = max(map(len, names), default=0)
    rows = [
        f"{name:<{width}}  {fate:<11}  {share}  "
        f"{size_text(sum(loss.lost_bytes for loss in few))} of {size_text(sum(loss.nbytes for loss in few))}"
        for name, (fate, share, few) in zip(names, shown, strict=True)
    ]
    folded = sum(len(few) for _, _, few in groups) - len(rows)
    if folded and checkpoint:
        rows.append(f"zeroconsolidate inspect --tensors {shlex.join(checkpoint)} lists them all")
    return rows
