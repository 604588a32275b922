"""A file of texts -> the texts; and those that are asked without one."""

from __future__ import annotations

from typing import Any

from ..archive.json_file import parse
from ..archive.phrases import counted
from ..archive.printable import described
from ..archive.regular import read_errors, read_small
from ..errors import BadOption, at

MAX_BYTES = 1 << 26
"""A larger file of texts is refused."""
DEFAULT = "default"
"""What stands for the texts below."""
TEXTS: tuple[str, ...] = (
    "The train to the coast leaves at seven in the morning.",
    "How do I renew a passport that has already expired?",
    "A recipe for lentil soup with cumin and lemon",
    "def mean(values):\n    return sum(values) / len(values)",
    "Water boils at a lower temperature on top of a mountain.",
    "The contract ends unless both sides agree in writing to extend it.",
    "Which planet has the most moons?",
    "She closed the window because the rain had started.",
    "Der Zug zur Küste fährt um sieben Uhr morgens ab.",
    "Une recette de soupe aux lentilles au cumin et au citron",
    "¿Cómo renuevo un pasaporte que ya ha caducado?",
    "水在山顶上沸腾的温度更低。",
    "新しい図書館は来月開館します。",
    "Поезд отправляется в семь часов утра.",
    "SELECT name FROM cities WHERE population > 1000000;",
    "3, 5, 8, 13, 21",
)
"""Statements, questions, code and numbers in several languages."""

Text = str | tuple[str, str]
"""A text, or a query with a passage."""


def read_texts(path: str) -> tuple[Text, ...]:
    """The texts of a file with a JSON value in each line: a text, an object with `text`, or one with `query` and
    `passage`. Raises BadOption if it has none, or a line is something else."""
    if path == DEFAULT:
        return TEXTS
    with at(path), read_errors():
        lines = read_small(path, MAX_BYTES).splitlines()
    found = [_text(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadOption("the file has no texts", found=path)
    return tuple(found)


def _text(line: bytes, path: str, number: int) -> Text:
    value: Any = parse(line, f"line {number} of {path}")
    if isinstance(value, dict):
        if isinstance(value.get("query"), str) and isinstance(value.get("passage"), str):
            return value["query"], value["passage"]
        value = value.get("text")
    if not isinstance(value, str) or not value.strip():
        raise BadOption(
            f"line {number} is not a text",
            expected='"a text", {"text": …}, or {"query": …, "passage": …}',
            found=described(value),
            address=(path,),
        )
    return value


def said(texts: tuple[Text, ...]) -> str:
    """How many there are, in words.

    >>> said(("a", ("q", "p")))
    '2 texts'
    """
    return counted(len(texts), "text")
