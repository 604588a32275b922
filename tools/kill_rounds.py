"""Kill conversions with SIGKILL at random moments, run them again, and compare every byte with a straight run.

    python tools/kill_rounds.py --rounds 100
    python tools/kill_rounds.py --rounds 100 --verb universal
    python tools/kill_rounds.py --rounds 100 --verb clone --dir DIR     on a file system that shares blocks

Each round converts a synthetic checkpoint in a child process that is killed after a random part of the time a straight
run takes, several times over, until one gets through. After every kill no final name may stand before the journal says
that all files are complete, and in the end the directory must equal the straight run's, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import synthetic  # noqa: E402
from cloned import checkpoint_in  # noqa: E402

import zeroconsolidate  # noqa: E402
from zeroconsolidate.plan import congruent  # noqa: E402
from zeroconsolidate.write import part  # noqa: E402
from zeroconsolidate.write.journal import Journal  # noqa: E402

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "convert": (
        {"dtype": "fp32"},
        {"dtype": "fp32", "max_shard_size": "2MB", "digest": "sha256"},
        {"dtype": "bf16"},
        {"dtype": "bf16", "max_shard_size": "1MB"},
    ),
    "universal": ({}, {"digest": "sha256"}),
    "clone": ({}, {"reflink": "always", "digest": "sha256"}, {"max_shard_size": "8MB"}, {"dtype": "bf16"}),
}
"""By verb, the options it is run with in turn."""
FUNCTIONS = {
    "convert": zeroconsolidate.consolidate,
    "universal": zeroconsolidate.universal,
    "clone": zeroconsolidate.consolidate,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=FUNCTIONS, default="convert")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=24, help="size of the masters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="where to work; a folder for temporary files by default")
    args = parser.parse_args()
    dice, variants, make = random.Random(args.seed), VARIANTS[args.verb], FUNCTIONS[args.verb]
    part.SYNC_BYTES = 256 << 10  # many syncs in little data
    if args.verb == "clone":
        part.SYNC_BYTES = 4 << 10
        congruent.LEAST_FILE_BYTES, congruent.LEAST_SHARE = 1, 0
    with tempfile.TemporaryDirectory(prefix="kill-rounds-", dir=args.dir) as name:
        work = Path(name)
        checkpoints = []
        for stage in (2, 3):
            if args.verb == "clone":
                checkpoints.append(checkpoint_in(work, stage=stage, megabytes=args.megabytes))
                continue
            checkpoints.append(work / f"z{stage}" / "checkpoint-5")
            values = synthetic.values_of(synthetic.shapes_of(args.megabytes))
            synthetic.write(checkpoints[-1], values, stage=stage, ranks=3, moments=args.verb == "universal")
            (checkpoints[-1] / "generation_config.json").write_text("{}")
        kills = {"before any sync": 0, "while copying": 0, "while publishing": 0, "after the end": 0}
        straight = {}
        for number in range(args.rounds):
            checkpoint, variant = checkpoints[number % 2], variants[number // 2 % len(variants)]
            key = (number % 2, number // 2 % len(variants))
            if key not in straight:
                out = work / f"straight-{key}"
                began = time.monotonic()
                report = make(checkpoint, out, **variant)
                straight[key] = (contents(out), time.monotonic() - began)
                saves_no_copy = "dtype" in variant and number % 2  # stage 3 in 16 bits
                if args.verb == "clone" and not saves_no_copy and report.cloned_bytes < report.bytes_written / 2:
                    print(f"round {number}: {report.cloned_bytes} bytes were cloned; DIR must be able to share blocks")
                    return 1
            expected, seconds = straight[key]
            out = work / "out"
            work_of_it = partial(make, checkpoint, out, **variant)
            while not made(work_of_it, out, kill_after=dice.random() * 1.2 * seconds):
                kills[where(out)] += 1
                visible = (
                    [path.name for path in out.iterdir() if path.name != ".zeroconsolidate"] if out.exists() else []
                )
                if visible and not publishing(out):
                    print(f"round {number}: {visible} have final names, but nothing vouches for them")
                    return 1
            if contents(out) != expected:
                print(f"round {number}: {variant} of {checkpoint} differs from a straight run")
                return 1
            shutil.rmtree(out)
    print(f"{args.rounds} rounds, {sum(kills.values())} kills: " + ", ".join(f"{n} {k}" for k, n in kills.items()))
    return 0


def made(make: Callable[[], object], out: Path, *, kill_after: float) -> bool:
    """Make the output in a child and kill it after so many seconds; True if it had got through by then."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if not (out / "zeroconsolidate.json").exists() or (out / ".zeroconsolidate/journal").exists():
                make()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + kill_after
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"a conversion failed with {status}; see above")
            return True
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def where(out: Path) -> str:
    """Where a killed conversion was."""
    journal = out / ".zeroconsolidate/journal"
    if not journal.exists():
        return "after the end" if (out / "zeroconsolidate.json").exists() else "before any sync"
    if publishing(out):
        return "while publishing"
    opened = Journal(str(journal))
    opened.close()
    return "while copying" if opened.progress.upto or opened.progress.done else "before any sync"


def publishing(out: Path) -> bool:
    journal = out / ".zeroconsolidate/journal"
    if not journal.exists():
        return (out / "zeroconsolidate.json").exists()
    opened = Journal(str(journal))
    opened.close()
    return opened.progress.publish is not None


def contents(directory: Path) -> dict[str, bytes]:
    skip = directory / ".zeroconsolidate"
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and skip not in path.parents
    }


if __name__ == "__main__":
    sys.exit(main())
