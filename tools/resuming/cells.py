"""One cell of the table: an engine that saved, and one that resumed from it at some stage and world size.

All cells of a world size run in one process a rank, one engine after the other, and each result is written down as soon
as it is there. If a rank fails, the run ends, its cell is marked, and another run goes on with the next.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fixtures_lib import ranks

from .ways import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fixtures_lib.cases import EngineCase

    from .ways import WayBack


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is resumed how."""

    case: EngineCase
    way: WayBack
    stage: int
    world_size: int

    @property
    def is_same(self) -> bool:
        """Whether its next losses must be those of the run that went on."""
        return (self.stage, self.world_size) == (self.case.stage, self.case.world_size)

    @property
    def target(self) -> EngineCase:
        """The engine that resumes."""
        zero = {k: v for k, v in self.case.zero.items() if k != "round_robin_gradients" or self.way.takes_round_robin}
        # Stage 0 has no optimizer that accumulates gradients in another dtype.
        config = {key: value for key, value in self.case.config.items() if self.stage or key != "data_types"}
        config |= self.way.config
        return dataclasses.replace(self.case, stage=self.stage, world_size=self.world_size, zero=zero, config=config)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    equal: int
    """Values that are equal, bit for bit: each master, moment, step and weight."""
    of: int
    losses_apart: float | None
    """The largest difference to the losses of the run that went on, of an engine of its stage and world size."""
    refused: str
    """Instead of all that: why this is refused."""
    error: str
    """Instead of all that: in a line, why there is no engine that resumed."""

    @property
    def is_right(self) -> bool:
        return not self.error and self.equal == self.of and not self.losses_apart


def without(*, refused: str = "", error: str = "") -> Result:
    """No engine has resumed."""
    return Result(equal=0, of=0, losses_apart=None, refused=refused, error=error)


def run(cells: Sequence[Cell], root: Path) -> list[tuple[Cell, Result]]:
    """Resume cells of one world size, in order. `root / case` has what each case saved."""
    left, found = list(cells), list[tuple["Cell", "Result"]]()
    while left:
        world_size = left[0].world_size
        written = root / f"resumed-{world_size}-{len(left)}.jsonl"
        written.touch()
        error = ""
        try:
            ranks.run(resume_all, left, root, written, world_size=world_size, log=root / f"resumed-{world_size}.log")
        except RuntimeError as failed:
            error = _last_line(str(failed))
        results = [Result(**json.loads(line)) for line in written.read_text().splitlines()]
        if error:
            results.append(without(error=error))
        found += zip(left, results, strict=False)
        left = left[len(results) :]
    return found


def _last_line(text: str) -> str:
    """That which names the exception, of a traceback and what `ranks.run` adds."""
    named = [line for line in text.splitlines() if re.match(r"[\w.]+: ", line)]
    return named[-1] if named else text.strip()


def resume_all(cells: Sequence[Cell], root: Path, written: Path) -> None:
    """Resume one engine after the other; a line of `written` for each. Runs on every rank."""
    import torch.distributed as dist

    for cell in cells:
        result = resume(cell, root / cell.case.name)
        if dist.get_rank() == 0:
            with written.open("a") as lines:
                lines.write(json.dumps(dataclasses.asdict(result)) + "\n")


def resume(cell: Cell, folder: Path) -> Result:
    """Resume in an engine with other weights and other settings, which must all come from the checkpoint."""
    from fixtures_lib import resume as engines

    is_setting_lost = len(cell.case.groups) > 1 and not cell.way.keeps_settings(cell.stage)
    apart = engines.Apart(
        noise=0.1, scale=1.0 if is_setting_lost else 3.0, eps=1e-5, whole_module=cell.way.loads_whole_module
    )
    engine = engines.start(cell.target, apart)
    try:
        cell.way.load(engine, folder)
    except Refused as refused:
        engines.end(engine)
        return without(refused=str(refused))
    if engine.global_steps != cell.case.steps:
        msg = f"RuntimeError: the step is lost: {engine.global_steps}"
        raise RuntimeError(msg)
    equal, of = compare(folder, engines.held(engine))
    losses_apart = None
    if cell.is_same:
        before = json.loads((folder / "saved.json").read_text())
        after = engines.next_losses(engine, cell.target)
        losses_apart = max(
            abs(a - b) for one, other in zip(before, after, strict=True) for a, b in zip(one, other, strict=True)
        )
    engines.end(engine)
    return Result(equal=equal, of=of, losses_apart=losses_apart, refused="", error="")


def compare(folder: Path, held: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """How many of the values that the engine held when it saved are held, bit for bit."""
    import torch

    return equal_values(torch.load(folder / "saved.pt", weights_only=True), held)


def equal_values(saved: dict[str, dict[str, Any]], held: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """How many values of `saved` are in `held`, bit for bit, and how many there are."""
    import torch

    if saved.keys() != held.keys():
        msg = f"RuntimeError: other parameters are trained: {sorted(saved.keys() ^ held.keys())}"
        raise RuntimeError(msg)
    equal = [
        key in held[name] and held[name][key].dtype == value.dtype and torch.equal(held[name][key], value)
        for name, values in saved.items()
        for key, value in values.items()
    ]
    return sum(equal), len(equal)
