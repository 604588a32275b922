"""Measures what conversions in the background do to a training's step time: with our callback and without, in turn.

python tools/measure_step_time.py --out D --rounds 5

The steps of a save are left out: they write the save. Prints the medians of all others, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).resolve().parent / "in_the_loop" / "run.py"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=120)
    arguments.add_argument("--save-every", type=int, default=20)
    arguments.add_argument("--width", type=int, default=256)
    given = arguments.parse_args()
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(given.rounds):
        for how, options in (("without", None), ("with", {"wait": False})):
            shutil.rmtree(given.out, ignore_errors=True)
            words = ["--steps", given.steps, "--save-every", given.save_every, "--width", given.width, "--stage", 2]
            words += [] if options is None else ["--options", json.dumps(options)]
            subprocess.run([sys.executable, RUN, "--out", given.out, *map(str, words)], check=True)
            times = json.loads((given.out / "times.json").read_text())
            # The first steps warm up; a save is written after a step, and lengthens none.
            seconds[how] += times[given.save_every :]
    medians = {how: statistics.median(times) for how, times in seconds.items()}
    for how, times in seconds.items():
        low, *_, high = (1000 * each for each in statistics.quantiles(times, n=10))
        print(f"{how:>8}: median {1000 * medians[how]:.1f} ms, {low:.1f} to {high:.1f} ms, {len(times)} steps")
    print(f"   ratio: {medians['with'] / medians['without']:.3f}")


if __name__ == "__main__":
    main()
