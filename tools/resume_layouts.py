"""Write universal checkpoints of the layout fixtures, resume from them with DeepSpeed, and compare, bit for bit.

    python tools/resume_layouts.py                       every target in layouts/resuming.py
    python tools/resume_layouts.py --only pp2_z1_bf16    those of one fixture

A row is a fixture and an engine that resumed from it: how many parameters and moments are those of the engine that
saved, and where the engines are alike, how far its next losses are from those of an engine that loaded the fixture as
it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layouts.case import Case

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "layouts"
SHOWN = ("stage", "world", "tp", "pp", "ep")


def convert(checkpoint: Path, out: Path) -> None:
    """Write the universal checkpoint."""
    command = [sys.executable, "-m", "zeroconsolidate", "universal", "--quiet", str(checkpoint), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def row(name: str, changes: dict[str, Any], folder: Path, timeout: float) -> tuple[str, bool]:
    """One resumed engine: the line about it, and whether all is as it was."""
    from layouts import resuming

    case = resuming.target(name, changes)
    said = " ".join(f"{key} {getattr(case, key)}" for key in SHOWN)
    said += " BF16_Optimizer" if "data_types" in case.config else ""
    out = folder / said.replace(" ", "_")
    try:
        resuming.resumed(case, folder / "universal", out, timeout)
        wrong, many = resuming.differences(case, out, FIXTURES / name)
        wrong += ["the step"] * resuming.steps_apart(case, out, folder / "universal")
        many += 1
    except (RuntimeError, ValueError) as error:
        lines = [line for line in str(error).strip().splitlines() if "Error" in line] or [str(error)[:300]]
        return f"{name:22} {said:48} {lines[-1]}", False
    apart = ""
    if not changes:
        apart, same = losses_apart(name, case, folder, out, timeout)
        if not same:
            return f"{name:22} {said:48} {many - len(wrong)} of {many} equal  {apart}  WRONG", False
    mark = f"  WRONG: {', '.join(wrong[:3])}" if wrong else ""
    return f"{name:22} {said:48} {many - len(wrong)} of {many} equal  {apart}{mark}", not wrong


def losses_apart(name: str, case: Case, folder: Path, out: Path, timeout: float) -> tuple[str, bool]:
    """How far the next losses are from those of the engine that saved."""
    from layouts import resuming

    resuming.went_on(name, FIXTURES / name / "checkpoint", folder / "went_on", timeout)
    pairs = zip(resuming.facts(folder / "went_on", case.world), resuming.facts(out, case.world), strict=True)
    apart = max(abs(a - b) for one, other in pairs for a, b in zip(one["losses"], other["losses"], strict=True))
    return f"losses apart by {apart:.1e}", not apart


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FIXTURE", help="just these")
    parser.add_argument("--out", type=Path, help="keep all files there")
    parser.add_argument("--timeout", type=float, default=600, help="seconds an engine may take")
    args = parser.parse_args()
    from layouts.resuming import TARGETS

    root = args.out or Path(tempfile.mkdtemp(prefix="resume-layouts-"))
    wrong = 0
    for name, targets in TARGETS.items():
        if args.only and name not in args.only:
            continue
        (root / name).mkdir(parents=True)
        convert(FIXTURES / name / "checkpoint", root / name / "universal")
        for changes in targets:
            line, good = row(name, changes, root / name, args.timeout)
            print(line, flush=True)
            wrong += not good
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
