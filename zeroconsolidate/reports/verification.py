"""A verification -> its page: problems first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..audit.findings import NOT_WHOLE
from ..options import size_text
from .markup import tag
from .page import facts, findings, page, section, texts
from .table import Column, table

if TYPE_CHECKING:
    from ..audit.findings import Verification

MOST = 2000
"""So many problems are listed: `--json` has all."""


def verification_page(found: Verification) -> str:
    """The page."""
    partly = any(note.startswith(NOT_WHOLE) for note in found.notes)
    well = f"Nothing is wrong, but it is {NOT_WHOLE}." if partly else "All is well."
    words = well if found.ok else f"{counted(len(found.problems), 'problem')} found."
    left = len(found.problems) - MOST
    rows = [(name, (f"{nan:,}", nan), (f"{infinite:,}", infinite)) for name, (nan, infinite) in found.nonfinite.items()]
    columns = (Column("tensor"), Column("NaN", True), Column("infinite", True))
    return page(
        f"Verified: {found.subject}",
        tag("p", words, class_=f"lead {'good' if found.ok else 'bad'}"),
        section("Wrong", findings([*found.problems[:MOST], *([f"and {left:,} more"] if left > 0 else [])])),
        section("Checked", texts(found.checks)),
        section(
            "Values that are not finite",
            table("Numbers of elements, by tensor", columns, rows) if rows else None,
            id_="tensors" if rows else None,
        ),
        section("Notes", texts(found.notes)),
        section(
            "Read",
            facts(
                [
                    ("Files", f"{found.files:,}"),
                    ("Tensors", f"{found.tensors:,}"),
                    ("Bytes", f"{size_text(found.bytes_read)} in {found.seconds:.2f} s"),
                ]
            ),
        ),
    )
