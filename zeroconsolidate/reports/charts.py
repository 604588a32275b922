"""Numbers -> pictures in SVG, each with a title and a description for those who do not see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .markup import Markup, joined, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 1000.0
LABEL = 150.0
"""Where drawings begin: labels of rows stand to the left."""
_ROW = 24.0
_AXIS = 22.0
APART = 44.0
"""Least width of the last column, which stands apart from the others."""


@dataclass(frozen=True, slots=True)
class Square:
    """A cell of a picture: its class, which is its colour, and what it says when it is pointed at."""

    style: str
    title: str
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a column of a picture with stacked bars."""

    style: str
    title: str
    size: float


def squares(
    name: str,
    description: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Square],
    unit: str,
    *,
    apart: bool = False,
) -> Markup:
    """A map: a square for each row and column that has one. `unit`: what the columns are; `apart`: all but the last."""
    places = _places(len(columns), apart=apart)
    drawn = [
        tag(
            "rect",
            tag("title", cell.title),
            x=_short(places[cell.column][0]),
            y=_short(cell.row * _ROW),
            width=_short(places[cell.column][1]),
            height=_short(_ROW - 2),
            class_=cell.style,
        )
        for cell in cells
    ]
    labels = [tag("text", row, x=LABEL - 8, y=_short(n * _ROW + 15), text_anchor="end") for n, row in enumerate(rows)]
    height = len(rows) * _ROW + _AXIS
    return _picture(name, description, height, labels, drawn, _axis(columns, places, height, unit, apart=apart))


def stacks(
    name: str,
    description: str,
    columns: Sequence[str],
    stacked: Sequence[Sequence[Slice]],
    unit: str,
    top: str,
    *,
    apart: bool = False,
) -> Markup:
    """Stacked bars, one for each column. `unit`: what the columns are; `top`: what the highest bar stands for;
    `apart`: the last column is not one of them."""
    highest = max((sum(part.size for part in parts) for parts in stacked), default=0) or 1
    places, tall = _places(len(columns), apart=apart), 200.0
    drawn = []
    for (left, width), parts in zip(places, stacked, strict=True):
        below = tall
        for part in parts:
            size = tall * part.size / highest
            below -= size
            drawn.append(
                tag(
                    "rect",
                    tag("title", part.title),
                    x=_short(left),
                    y=_short(below),
                    width=_short(width),
                    height=_short(size),
                    class_=part.style,
                )
            )
    height = tall + _AXIS
    labels = [
        tag("text", top, x=LABEL - 8, y=12, text_anchor="end"),
        tag("text", "0", x=LABEL - 8, y=_short(tall), text_anchor="end"),
        tag("line", x1=LABEL, x2=WIDTH, y1=tall, y2=tall, class_="axis"),
    ]
    return _picture(name, description, height, labels, drawn, _axis(columns, places, height, unit, apart=apart))


def bars(name: str, description: str, rows: Sequence[tuple[str, float, str, str]]) -> Markup:
    """A horizontal bar for each (label, size, text behind it, class)."""
    largest = max((size for _, size, _, _ in rows), default=0) or 1
    room = WIDTH - LABEL - 200
    drawn = []
    for n, (label, size, text, style) in enumerate(rows):
        width = max(room * size / largest, 1 if size else 0)
        drawn += [
            tag("text", label, x=LABEL - 8, y=_short(n * _ROW + 15), text_anchor="end"),
            tag("rect", x=LABEL, y=_short(n * _ROW + 2), width=_short(width), height=_ROW - 6, class_=style),
            tag("text", text, x=_short(LABEL + width + 8), y=_short(n * _ROW + 15)),
        ]
    return _picture(name, description, len(rows) * _ROW, drawn)


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """What each class of colour stands for: (class, words)."""
    return tag(
        "ul",
        [
            tag(
                "li",
                tag("svg", tag("rect", width=10, height=10, class_=style), viewBox="0 0 10 10", aria_hidden="true"),
                words,
            )
            for style, words in entries
        ],
        class_="legend",
    )


def figure(drawing: Markup, caption: str, *more: Markup) -> Markup:
    """A picture with the words below it."""
    return tag("figure", drawing, more, tag("figcaption", caption))


def _picture(name: str, description: str, height: float, *content: Sequence[Markup]) -> Markup:
    key = "".join(c if c.isalnum() else "-" for c in name)
    return tag(
        "svg",
        tag("title", name, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-text"),
        *[joined(part) for part in content],
        viewBox=f"0 0 {WIDTH:.0f} {_short(height)}",
        role="img",
        aria_labelledby=f"{key}-title {key}-text",
    )


def _places(count: int, *, apart: bool) -> list[tuple[float, float]]:
    """Where each column begins, and how wide it is drawn."""
    if not count:
        return []
    room, last = WIDTH - LABEL, list[tuple[float, float]]()
    if apart and count > 1 and room / count < APART:
        last, room, count = [(WIDTH - APART, APART)], room - APART - 12, count - 1
    width = room / count
    drawn = width - 1 if width > 4 else width + 0.25  # without seams between narrow ones
    return [*((LABEL + n * width, drawn) for n in range(count)), *last]


def _axis(
    columns: Sequence[str], places: Sequence[tuple[float, float]], height: float, unit: str, *, apart: bool
) -> list[Markup]:
    """Some of the columns' labels, evenly spread, so that they do not touch."""
    if not columns:
        return []
    numbered = columns[:-1] if apart and len(columns) > 1 else columns
    step = (places[len(numbered) - 1][0] - places[0][0]) / max(len(numbered) - 1, 1) or WIDTH
    every = max(1, int((7.0 * max(map(len, numbered)) + 14) / step) + 1)
    if every > 2:
        every = next(n for n in (5, 10, 20, 25, 50, 100, 200, 250, 500, 10**9) if n >= every)
    chosen = [n for n in range(len(columns)) if n % every == 0 or n >= len(numbered)]
    if len(chosen) > 1 and apart and len(numbered) - chosen[-2] < every / 2 and every > 1:
        del chosen[-2]  # it would touch the last one's
    middle = [(columns[n], places[n][0] + places[n][1] / 2) for n in chosen]
    labels = [
        tag("text", label, x=_short(min(x, WIDTH - 3.5 * len(label))), y=_short(height - 6), text_anchor="middle")
        for label, x in middle
    ]
    return [tag("text", unit, x=LABEL - 8, y=_short(height - 6), text_anchor="end"), *labels]


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
