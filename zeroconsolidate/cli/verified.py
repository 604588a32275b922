"""A verification -> the text that the command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..audit.findings import NOT_WHOLE
from ..options import size_text
from .rows import at_most, once, rows_text, time_row

if TYPE_CHECKING:
    from ..audit.findings import Verification


def verification_text(found: Verification, *, tensors: bool = False) -> str:
    """What a verification found: problems first. `tensors`: and of each tensor."""
    many = counted(len(found.problems), "problem")
    rows = [
        *(("WRONG", text) for text in at_most(found.problems, 50)),
        *(("checked", text) for text in found.checks),
        *(("note", text) for text in at_most(once(found.notes), 20)),
        ("read", f"{size_text(found.bytes_read)} in {time_row(found.seconds, found.gb_per_second)}"),
    ]
    well = "all is well"
    if any(note.startswith(NOT_WHOLE) for note in found.notes):
        well = f"nothing is wrong, but it is {NOT_WHOLE}"
    text = f"{found.subject}: {well if found.ok else many}\n{rows_text(rows)}"
    return f"{text}\n{_compared_text(found)}" if tensors else text


_MARKS = {
    "=": "equal", "*": "other values", "+": "only in the output", "-": "only in the checkpoint", "!": "not comparable",
    "?": "not read",
}  # fmt: skip


def _compared_text(found: Verification) -> str:
    """A tensor a line, with its mark in front; and how many there are of each."""
    marks = list(found.compared.values())
    counts = [f"{mark} {text}: {marks.count(mark)}" for mark, text in _MARKS.items() if mark in marks]
    return "\n".join([f"  {', '.join(counts)}", *(f"  {mark} {name}" for name, mark in sorted(found.compared.items()))])
