"""Save with DeepSpeed, resume from what was saved, on other ranks and at other stages: is everything as it was?

    python tools/resume_universal.py --write                 all of it, in minutes: the table in docs/universal.md
    python tools/resume_universal.py --only z3_groups --ranks 2 --ways universal ds_to_universal

A cell is a saved engine and one that resumed: how many parameters, moments and steps are those of the engine that
saved, bit for bit, and for an engine of the same stage and size, whether its next losses are those of the run that went
on. `resuming/cases.py` says what is saved, `resuming/ways.py` how it is resumed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from fixtures_lib import ranks

if TYPE_CHECKING:
    from fixtures_lib.cases import EngineCase
    from resuming.cells import Cell, Result
    from resuming.ways import Refusals, WayBack

ranks.prepare()


def save_all(cases: list[EngineCase], root: Path) -> None:
    """Train and save each case in a folder of its own."""
    from fixtures_lib import resume

    folders = [root / case.name for case in cases]
    for folder in folders:
        folder.mkdir(parents=True)
    ranks.run(resume.save, cases, folders, world_size=2, log=root / "saved.log")


def prepare_all(cases: list[EngineCase], ways: list[WayBack], root: Path) -> Refusals:
    """What each way makes before an engine starts; returns what is refused, and why."""
    from resuming.ways import Refused

    refusals: Refusals = {}
    for case in cases:
        for way in ways:
            try:
                way.prepare(root / case.name)
            except Refused as refused:
                refusals[case.name, way.name] = str(refused)
                print(f"{case.name:17} {way.name}: {refused}", flush=True)
    return refusals


def line(cell: Cell, result: Result) -> str:
    """A cell, for people who wait."""
    found = result.error or result.refused or f"{result.equal} of {result.of} equal"
    losses = "" if result.losses_apart is None else f"  losses apart by {result.losses_apart:.1e}"
    mark = "" if result.is_right else "  WRONG"
    return f"{cell.case.name:17} {cell.way.name:16} stage {cell.stage} x {cell.world_size}  {found}{losses}{mark}"


def main() -> int:
    from resuming import table, ways
    from resuming.cases import apart
    from resuming.cases import cases as all_cases
    from resuming.cells import Cell, run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="CASE", help="just these")
    parser.add_argument("--ways", nargs="+", choices=ways.WAYS, default=ways.OURS, help="how they are resumed")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 3, 4], help="on how many ranks")
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 1, 2, 3], help="at which stages")
    parser.add_argument("--write", action="store_true", help="write the table into docs/universal.md")
    parser.add_argument("--out", type=Path, help="keep all files there")
    args = parser.parse_args()
    root = args.out or Path(tempfile.mkdtemp(prefix="resume-universal-"))
    chosen = [case for case in [*all_cases(), *apart()] if case.name in args.only] if args.only else all_cases()
    back = [ways.WAYS[name] for name in args.ways]
    ranks.import_deepspeed()
    save_all(chosen, root)
    refusals = prepare_all(chosen, back, root)
    by_world_size = [
        [
            Cell(case=case, way=way, stage=stage, world_size=world_size)
            for case in chosen
            for way in back
            for stage in args.stages
            if way.takes(case.stage, stage) and (case.name, way.name) not in refusals
        ]
        for world_size in args.ranks
    ]
    results: list[tuple[Cell, Result]] = []
    # Ranks mostly wait for each other: all world sizes at once take less time than one after the other.
    with ProcessPoolExecutor(len(args.ranks), mp_context=get_context("fork")) as pool:
        for found_of in pool.map(run, by_world_size, repeat(root)):
            results += found_of
            for cell, result in found_of:
                print(line(cell, result), flush=True)
    found = table.markdown(chosen, back, results, refusals)
    if args.write:
        table.write(found)
    print(found)
    return int(any(not result.is_right and cell.way.name in ways.OURS for cell, result in results))


if __name__ == "__main__":
    sys.exit(main())
