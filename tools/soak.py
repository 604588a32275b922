"""Looks for rare faults for hours: conversions killed at random moments, system calls that fail, fuzzing, in turn.

    python tools/soak.py --hours 24 --kills 10000
    python tools/soak.py --hours 24 --kills 10000 --dir DIR --only kills
    python tools/soak.py --report --dir DIR

It works in pieces of a minute or so, each with a seed of its own, and writes a line for each to DIR/soak.jsonl (by
default `.soak/` here). Ended and started again, it goes on where it was. It ends when so many hours of work and so many
kills are behind it, or with exit code 1 at the first piece that fails: its output is in DIR/failed-N.log, and the
command that repeats it in the log.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("pickles", "containers", "catalogs", "folders", "safetensors", "configs")
ROUNDS = 20
"""Conversions of a piece of kills. Each is killed until one gets through."""
FUZZ_SECONDS = 60
FAULT_STRIDE = 40
"""A piece of faults tries each fault at every so manieth call, beginning at another one each time."""
_KILLED = re.compile(r"(\d+) rounds, (\d+) kills")
_FUZZED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True)
class Piece:
    """A command, and what it counts."""

    kind: str
    command: list[str]


def pieces(only: str | None, first: int) -> Iterator[tuple[int, Piece]]:
    """Number and piece, without end. The number is the seed."""
    kinds = [only] if only else ["kills", "fuzz", "kills", "faults"]
    number = first
    for kind in cycle(kinds[first % len(kinds) :] + kinds[: first % len(kinds)]):
        yield number, piece(kind, number)
        number += 1


def piece(kind: str, number: int) -> Piece:
    """The piece of work with this number."""
    python = sys.executable
    if kind == "kills":
        verb = ("convert", "universal")[number // 2 % 2]  # among other kinds, kills have even numbers
        rounds = ["--rounds", str(ROUNDS), "--seed", str(number), "--verb", verb, "--megabytes", "8"]
        return Piece(kind, [python, "tools/kill_rounds.py", *rounds])
    if kind == "faults":
        verb = ("convert", "universal")[number // 4 % 2]
        return Piece(
            kind, [python, "tests/faults/rounds.py", "--verb", verb, "--every", str(FAULT_STRIDE + number % 7)]
        )
    target = TARGETS[number // 4 % len(TARGETS)]
    fuzzer = ROOT / ".venv/fuzz/bin/python"
    return Piece(kind, [str(fuzzer), "tools/fuzz/run.py", target, str(FUZZ_SECONDS)])


def run(number: int, what: Piece, folder: Path) -> dict[str, Any]:
    """Run a piece; returns its line of the log."""
    began = time.monotonic()
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support"), str(ROOT / "tools")])
    }
    done = subprocess.run(what.command, cwd=ROOT, capture_output=True, text=True, env=variables, check=False)
    said = done.stdout + done.stderr
    line = {
        "number": number,
        "kind": what.kind,
        "command": " ".join(what.command[1:]),
        "ok": done.returncode == 0,
        "seconds": round(time.monotonic() - began, 1),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **counted(what.kind, said),
    }
    if done.returncode:
        (folder / f"failed-{number}.log").write_text(said)
    return line


def counted(kind: str, said: str) -> dict[str, int]:
    """What a piece's output says that it tried."""
    killed = _KILLED.search(said)
    if kind == "kills" and killed:
        return {"conversions": int(killed[1]), "kills": int(killed[2])}
    fuzzed = _FUZZED.search(said)
    if kind == "fuzz" and fuzzed:
        return {"inputs": int(fuzzed[1])}
    return {}


def read(log: Path) -> list[dict[str, Any]]:
    """The lines so far; one that was torn by a kill of this program does not count."""
    lines = []
    for text in log.read_text().splitlines() if log.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def summary(lines: list[dict[str, Any]]) -> str:
    """In a line: hours, and what was tried."""
    hours = sum(line["seconds"] for line in lines) / 3600
    sums = {key: sum(line.get(key, 0) for line in lines) for key in ("conversions", "kills", "inputs")}
    kinds = {kind: sum(line["kind"] == kind for line in lines) for kind in ("kills", "fuzz", "faults")}
    failed = [line["number"] for line in lines if not line["ok"]]
    return (
        f"{hours:.2f} hours in {len(lines)} pieces ({', '.join(f'{n} of {kind}' for kind, n in kinds.items())}): "
        f"{sums['conversions']:,} conversions killed {sums['kills']:,} times, {sums['inputs']:,} inputs; "
        f"failed: {', '.join(map(str, failed)) or 'none'}"
    )


def main() -> int:
    """Exit code 1 if a piece fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24, help="of work in all, that of earlier runs included")
    parser.add_argument("--kills", type=int, default=10_000, help="in all, likewise")
    parser.add_argument("--dir", type=Path, default=ROOT / ".soak")
    parser.add_argument("--only", choices=("kills", "fuzz", "faults"))
    parser.add_argument("--report", action="store_true", help="only print what is behind it")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    log = options.dir / "soak.jsonl"
    lines = read(log)
    if options.report:
        print(summary(lines))
        return 0
    if options.only in (None, "fuzz") and not (ROOT / ".venv/fuzz").exists():
        subprocess.run(["sh", "tools/fuzz.sh", "1"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # makes it
    for number, what in pieces(options.only, max((line["number"] for line in lines), default=-1) + 1):
        hours, kills = sum(line["seconds"] for line in lines) / 3600, sum(line.get("kills", 0) for line in lines)
        if hours >= options.hours and (kills >= options.kills or options.only in ("fuzz", "faults")):
            break
        lines.append(run(number, what, options.dir))
        with log.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(lines[-1]), flush=True)
        if not lines[-1]["ok"]:
            print(summary(lines))
            return 1
    print(summary(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
