"""Write universal checkpoints of the layout fixtures, resume from them with DeepSpeed, and compare, bit for bit.

    python tools/resume_layouts.py                       every target in layouts/resuming.py
    python tools/resume_layouts.py --only pp2_z1_bf16    those of one fixture
    python tools/resume_layouts.py --write               all of them: the table in docs/universal.md

A row is a fixture and an engine that resumed from it: how many parameters, moments and steps are those of the engine
that saved, and where the engines are alike, how far its next losses are from those of an engine that loaded the fixture
as it is.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layouts.case import Case

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES = REPOSITORY / "tests" / "fixtures" / "layouts"
PAGE = REPOSITORY / "docs" / "universal.md"
AXES = ("tp", "pp", "ep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An engine that resumed, or did not."""

    fixture: str
    engine: str
    equal: int = 0
    of: int = 0
    apart: float | None = None
    """How far its losses are from those of the run that went on."""
    wrong: str = ""
    """What is wrong, in words."""

    def __str__(self) -> str:
        losses = "" if self.apart is None else f"  losses apart by {self.apart:.1e}"
        wrong = f"  WRONG: {self.wrong}" if self.wrong else ""
        return f"{self.fixture:22} {self.engine:44} {self.equal} of {self.of} equal{losses}{wrong}"

    @property
    def cells(self) -> str:
        """As a row of a table."""
        losses = "" if self.apart is None else f"{self.apart:.1e}"
        return f"| `{self.fixture}` | {self.engine} | {self.equal} of {self.of} | {losses} |"


def engine_of(case: Case) -> str:
    """An engine, in words."""
    stage = f"stage {case.stage}" if "data_types" not in case.config else "BF16_Optimizer"
    degrees = [f"{axis} {getattr(case, axis)}" for axis in AXES if getattr(case, axis) > 1]
    return ", ".join([stage, f"{case.world} rank{'s' * (case.world > 1)}", *degrees])


def convert(checkpoint: Path, out: Path) -> None:
    """Write the universal checkpoint."""
    command = [sys.executable, "-m", "zeroconsolidate", "universal", "--quiet", str(checkpoint), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def resumed(name: str, changes: dict[str, Any], folder: Path, timeout: float) -> Row:
    """One engine, which resumes from the universal checkpoint in `folder`."""
    from layouts import resuming

    case = resuming.target(name, changes)
    engine, out = engine_of(case), folder / re.sub(r"\W+", "_", engine_of(case))
    try:
        resuming.resumed(case, folder / "universal", out, timeout)
        wrong, many = resuming.differences(case, out, FIXTURES / name)
        apart = None if changes else losses_apart(name, case, folder, out, timeout)
    except (RuntimeError, ValueError) as error:
        lines = [line for line in str(error).strip().splitlines() if "Error" in line] or [str(error)[:300]]
        return Row(fixture=name, engine=engine, wrong=lines[-1])
    wrong += ["the step"] * resuming.steps_apart(case, out, folder / "universal")
    # What pads a vocabulary comes back as zeros, and what ranks average as the mean: that model's loss has both in it.
    said = [*wrong[:3], *["losses"] * (bool(apart) and case.model != "megatron")]
    return Row(
        fixture=name, engine=engine, equal=many + 1 - len(wrong), of=many + 1, apart=apart, wrong=", ".join(said)
    )


def losses_apart(name: str, case: Case, folder: Path, out: Path, timeout: float) -> float:
    """How far the next losses are from those of the engine that saved."""
    from layouts import resuming

    resuming.went_on(name, FIXTURES / name / "checkpoint", folder / "went_on", timeout)
    pairs = zip(resuming.facts(folder / "went_on", case.world), resuming.facts(out, case.world), strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one["losses"], other["losses"], strict=True))


def write(rows: Sequence[Row]) -> None:
    """The table in the docs."""
    head = "| fixture | resumed at | parameters, moments, step | losses apart by |\n|---|---|---|---|\n"
    table = head + "".join(f"{row.cells}\n" for row in rows)
    page = PAGE.read_text()
    page = re.sub(r"(?s)(<!-- layouts -->\n).*?(<!-- /layouts -->)", lambda found: found[1] + table + found[2], page)
    PAGE.write_text(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FIXTURE", help="just these")
    parser.add_argument("--write", action="store_true", help="write the table into docs/universal.md")
    parser.add_argument("--out", type=Path, help="keep all files there")
    parser.add_argument("--timeout", type=float, default=600, help="seconds an engine may take")
    args = parser.parse_args()
    from fixtures_lib import ranks

    ranks.prepare()
    from layouts.resuming import TARGETS

    root = args.out or Path(tempfile.mkdtemp(prefix="resume-layouts-"))
    rows: list[Row] = []
    chosen = {name: targets for name, targets in TARGETS.items() if not args.only or name in args.only}
    for name in chosen:
        (root / name).mkdir(parents=True)
        convert(FIXTURES / name / "checkpoint", root / name / "universal")
    for name, targets in chosen.items():
        for changes in targets:
            rows.append(resumed(name, changes, root / name, args.timeout))
            print(rows[-1], flush=True)
    if args.write:
        write(rows)
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
