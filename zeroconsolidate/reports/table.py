"""Rows -> a table that can be sorted by each column; without the script it stands as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .markup import Markup, tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Cell: TypeAlias = "str | tuple[str, float | int | None]"
"""A text; or a text and the number to sort by (None sorts below all)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    title: str
    is_number: bool = False


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Markup:
    """The first cell of each row is its name."""
    head = tag(
        "tr", [tag("th", column.title, scope="col", class_="n" if column.is_number else None) for column in columns]
    )
    body = [tag("tr", [_cell(cell, place) for place, cell in enumerate(row)]) for row in rows]
    made = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_="sortable")
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(cell: Cell, place: int) -> Markup:
    if place == 0:
        return tag("th", cell if isinstance(cell, str) else cell[0], scope="row", class_="name")
    if isinstance(cell, str):
        return tag("td", cell)
    shown, value = cell
    return tag("td", shown, class_="n", data_v="" if value is None else repr(value))
