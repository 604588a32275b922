"""Train with DeepSpeed on four ranks, lose one, resume on the other three: the losses beside those of the run that lost
nothing.

    python tools/resume_rescued.py                  prints a table
    python tools/resume_rescued.py --write docs     also writes it and the figure into docs/incomplete-checkpoints.md

A run saves at steps 30 and 40 and goes on to step 80. Of the save at step 40 the files of rank 2 are taken away.
`zeroconsolidate universal --rescue` makes a universal checkpoint of the rest: once filled from the save at step 30,
once with zeros for what the optimizer kept. Three ranks resume from each, and from a universal checkpoint of the whole
save.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fixtures_lib import ranks

ranks.prepare()

EARLIER, SAVED, LAST = 30, 40, 80
WORLD_SIZE, LOST = 4, 2
RUNS = {
    "undisturbed": ("four ranks, nothing lost", "#444444", ""),
    "whole": ("three ranks, nothing lost", "#2a7ab9", "2 3"),
    "filled": (f"three ranks, filled from step {EARLIER}", "#2a9d55", ""),
    "zeros": ("three ranks, zeros for lost moments", "#d1495b", ""),
}
"""What is compared: its name in words, colour and dashes of its line."""
SHOWN = (41, 42, 43, 45, 50, 60, 80)
"""Steps in the table."""
PAGE, FIGURE, BEGIN, END = (
    "incomplete-checkpoints.md",
    "losses-after-a-rescue.svg",
    "<!-- losses -->",
    "<!-- /losses -->",
)


def command(*arguments: object, code: int = 0) -> None:
    """Our command, which must end with this exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "zeroconsolidate", *map(str, arguments), "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != code:
        raise RuntimeError(f"{arguments} ended with {done.returncode}\n{done.stderr[-2000:]}")


def losses(stage: int, folder: Path) -> dict[str, list[float]]:
    """The losses of each run from the first step after the save on. Raises RuntimeError if a run fails."""
    from fixtures_lib import learning

    folder.mkdir(parents=True)
    run, log = folder / "run", folder / "ranks.log"
    ranks.run(learning.train, stage, folder, (EARLIER, SAVED), LAST, world_size=WORLD_SIZE, log=log)
    earlier, damaged = run / f"global_step{EARLIER}", folder / "damaged"
    command("universal", run, folder / "whole")
    shutil.copytree(run / f"global_step{SAVED}", damaged / f"global_step{SAVED}")
    for path in damaged.glob(f"*/*pp_rank_{LOST}_*"):
        path.unlink()
    command("universal", "--rescue", "--fill", earlier, damaged, folder / "filled", code=3)
    # Stage 2 has 16-bit copies of the weights. At stage 3 they can only come from an earlier save: here, its model.
    command("convert", earlier, folder / "model", "--names", "stored")
    filled = ["--fill", folder / "model"] if stage == 3 else []
    command("universal", "--rescue", *filled, damaged, folder / "zeros", code=3)
    found = {"undisturbed": json.loads((folder / "undisturbed.json").read_text())[SAVED:]}
    for name in RUNS:
        if name not in found:
            told = folder / f"{name}.json"
            ranks.run(learning.resume, stage, folder / name, SAVED, LAST, told, world_size=WORLD_SIZE - 1, log=log)
            found[name] = json.loads(told.read_text())
    return found


def table(found: dict[int, dict[str, list[float]]]) -> str:
    """Markdown: the losses of the undisturbed run, and how far the others are from it."""
    lines = []
    for stage, runs in found.items():
        lines += [f"| stage {stage}: step | {' | '.join(map(str, SHOWN))} |", f"|---|{'--:|' * len(SHOWN)}"]
        for name, (text, *_) in RUNS.items():
            there = [runs[name][step - SAVED - 1] for step in SHOWN]
            base = [runs["undisturbed"][step - SAVED - 1] for step in SHOWN]
            shown = (
                [f"{loss:.3f}" for loss in there]
                if name == "undisturbed"
                else [f"{loss - other:+.3f}" for loss, other in zip(there, base, strict=True)]
            )
            lines.append(f"| {text} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


WIDE, HIGH, LEFT, TOP = 380, 190, 56, 40
"""Of a panel, and around it."""


def figure(found: dict[int, dict[str, list[float]]]) -> str:
    """SVG: for each stage a column with the losses, and below how far each is from the undisturbed run's."""
    apart = {
        stage: {
            name: [loss - base for loss, base in zip(run, runs["undisturbed"], strict=True)]
            for name, run in runs.items()
        }
        for stage, runs in found.items()
    }
    parts = []
    for row, (title, values) in enumerate((("loss", found), ("difference from the undisturbed run", apart))):
        every = [value for runs in values.values() for run in runs.values() for value in run]
        for column, (stage, runs) in enumerate(values.items()):
            place = (LEFT + column * (WIDE + LEFT), TOP + row * (HIGH + TOP + 20))
            parts += panel(place, f"stage {stage}: {title}", runs, min(every), max(every))
    width, height = LEFT + len(found) * (WIDE + LEFT), 2 * (HIGH + TOP + 20) + 50
    for index, (text, colour, dashes) in enumerate(RUNS.values()):
        x, y = LEFT + (index % 2) * (WIDE + LEFT), height - 34 + index // 2 * 18
        parts.append(f'<path d="M{x},{y - 4} h24" {stroke(colour, dashes)}/><text x="{x + 30}" y="{y}">{text}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def panel(place: tuple[int, int], title: str, runs: dict[str, list[float]], low: float, high: float) -> list[str]:
    """Lines against steps, with values from `low` to `high`."""
    x0, y0 = place

    def x(step: float) -> float:
        return x0 + (step - SAVED) / (LAST - SAVED) * WIDE

    def y(value: float) -> float:
        return y0 + 8 + (high - value) / (high - low) * (HIGH - 16)

    parts = [
        f'<rect x="{x0}" y="{y0}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#bbb"/>',
        f'<text x="{x0}" y="{y0 - 10}" font-weight="bold">{title}</text>',
    ]
    parts += [
        f'<text x="{x(step):.1f}" y="{y0 + HIGH + 16}" text-anchor="middle">{step}</text>'
        for step in range(SAVED, LAST + 1, 10)
    ]
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts.append(f'<text x="{x0 - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for name, (_, colour, dashes) in RUNS.items():
        points = " ".join(f"{x(SAVED + 1 + index):.1f},{y(value):.1f}" for index, value in enumerate(runs[name]))
        parts.append(f'<polyline points="{points}" {stroke(colour, dashes)}/>')
    return parts


def stroke(colour: str, dashes: str) -> str:
    """How a run's line is drawn."""
    return f'fill="none" stroke="{colour}" stroke-width="1.6"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--write", type=Path, metavar="DOCS", help="the folder of the pages")
    parser.add_argument("--out", type=Path, help="keep all files there")
    args = parser.parse_args()
    root = args.out or Path(tempfile.mkdtemp(prefix="resume-rescued-"))
    ranks.import_deepspeed()
    found = {stage: losses(stage, root / f"z{stage}") for stage in args.stages}
    print(table(found))
    (root / "losses.json").write_text(json.dumps(found))
    if args.write:
        (args.write / FIGURE).write_text(figure(found))
        page = (args.write / PAGE).read_text()
        before, behind = page.partition(BEGIN)[0], page.partition(END)[2]
        (args.write / PAGE).write_text(f"{before}{BEGIN}\n{table(found)}{END}{behind}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
