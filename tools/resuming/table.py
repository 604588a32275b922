"""Results of cells -> a Markdown table, and its place in docs/universal.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fixtures_lib.cases import EngineCase

    from .cells import Cell, Result
    from .ways import Refusals, WayBack

PAGE = Path(__file__).resolve().parents[2] / "docs" / "universal.md"
_PLACE = re.compile(r"(?<=<!-- resumed -->\n).*?(?=<!-- /resumed -->)", re.DOTALL)


def markdown(
    cases: Sequence[EngineCase], ways: Sequence[WayBack], results: Sequence[tuple[Cell, Result]], refused: Refusals
) -> str:
    """A row for what was saved, by each way back; cells of all world sizes are added up."""
    stages = sorted({cell.stage for cell, _ in results})
    head = ["saved at stage", "", "through", *(f"into stage {stage}" for stage in stages), "next losses"]
    lines = [_row(head), "|--:|" + "---|" * (len(head) - 1)]
    for case in sorted(cases, key=lambda case: case.stage):
        for way in ways:
            own = [
                (cell, result) for cell, result in results if (cell.case.name, cell.way.name) == (case.name, way.name)
            ]
            found = [*(_values([each for each in own if each[0].stage == stage]) for stage in stages), _losses(own)]
            if (case.name, way.name) in refused:
                found = [*("refused" if way.takes(case.stage, stage) else "" for stage in stages), ""]
            lines.append(_row([f"{case.stage}", case.description, f"`{way.name}`", *found]))
    return "\n".join(lines) + "\n"


def _values(found: Sequence[tuple[Cell, Result]]) -> str:
    if any(result.refused for _, result in found):
        return "refused"
    errors = [f"{cell.world_size} ranks: {result.error.split(':')[0]}" for cell, result in found if result.error]
    equal, of = (sum(getattr(result, field) for _, result in found) for field in ("equal", "of"))
    return ", ".join([*([f"{equal} of {of}"] if of else []), *errors])


def _losses(found: Sequence[tuple[Cell, Result]]) -> str:
    apart = [result.losses_apart for _, result in found if result.losses_apart is not None]
    return " ".join(f"apart by {each:.0e}" if each else "equal" for each in apart)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write(table: str) -> None:
    """Put the table into the page."""
    PAGE.write_text(_PLACE.sub(lambda _: table, PAGE.read_text()))
