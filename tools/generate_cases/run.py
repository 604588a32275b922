"""Generate, train, convert, load and compare; tell how many were right, refused and wrong.

    python tools/generate_cases/run.py --seed 1 --count 300 --dir DIR            (goes on where it was stopped)
    python tools/generate_cases/run.py --seed 1 --number 17 --dir DIR            (this one, and keep its files)
    python tools/generate_cases/run.py --case '{"model": …}' --dir DIR           (one that is written down)
    python tools/generate_cases/run.py --pinned --dir DIR                        (one of each kind ever found wrong)
    python tools/generate_cases/run.py --dir DIR --summary                       (what was found so far)

DIR has a line of JSON for each conversion in results.jsonl, and the folders of cases that came out wrong. The exit
code is 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

TOOLS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOOLS))

from generate_cases.case import Case, draw, pinned  # noqa: E402
from generate_cases.convert import kind, outcomes  # noqa: E402
from generate_cases.forked import Forked  # noqa: E402

BATCH = 60
"""Cases that the same processes train before they are converted."""


def train(cases: list[Case], folder: Path) -> subprocess.Popen[bytes]:
    """Begin to write the checkpoints of the cases, in processes of their own."""
    for case in cases:
        (folder / str(case.number)).mkdir(parents=True)
        (folder / str(case.number) / "case.json").write_text(case.to_json())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "generate_cases.make", str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=(folder / "errors.txt").open("w")
    )


def prepare() -> None:
    """Ask transformers about a config in this process, which has it loaded, and PEFT in a copy of it."""
    import peft  # noqa: F401
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|peft")
    sys.path.insert(0, str(TOOLS.parent / "tests" / "support"))
    from converted import ask_in_this_process

    from zeroconsolidate.adapters import by_peft
    from zeroconsolidate.naming import asking

    started = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    by_peft.subprocess = started  # type: ignore[attr-defined]
    answers: dict[bytes, object] = {}
    asking.ask = lambda config: answers.setdefault(config, ask_in_this_process(config))  # type: ignore[assignment]


def convert(cases: list[Case], folder: Path, directory: Path, *, keep: bool) -> None:
    """Convert trained cases; add what came of it to results.jsonl, and keep the folders of wrong ones."""
    for case in cases:
        found = outcomes(case, folder / str(case.number), folder)
        with (directory / "results.jsonl").open("a") as results:
            results.writelines(f"{json.dumps(outcome.to_dict())}\n" for outcome in found)
        if keep or any(outcome.verdict in ("wrong", "crashed") for outcome in found):
            kept = directory / "kept" / str(case.number)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder / str(case.number), kept)


def run(cases: list[Case], directory: Path, *, keep: bool) -> None:
    """All of it, batch by batch: one is trained while the one before is converted."""
    began, done = time.monotonic(), 0
    batches = [cases[first : first + BATCH] for first in range(0, len(cases), BATCH)]
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        folders = [Path(scratch) / str(number) for number in range(len(batches))]
        training = train(batches[0], folders[0]) if batches else None
        for number, now in enumerate(batches):
            if training is None or training.wait():
                raise RuntimeError((folders[number] / "errors.txt").read_text()[-3000:])
            following = number + 1
            training = train(batches[following], folders[following]) if following < len(batches) else None
            convert(now, folders[number], directory, keep=keep)
            shutil.rmtree(folders[number])
            done += len(now)
            rate = done / (time.monotonic() - began) * 60
            print(f"{done} of {len(cases)}, {rate:.1f} cases a minute", file=sys.stderr, flush=True)


def summary(results: Path, most: int = 4) -> tuple[str, int]:
    """(a table of verdicts and their reasons, most frequent first; how many were wrong)."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    counts = Counter(line["verdict"] for line in lines)
    cases = len({line["number"] for line in lines})
    text = [f"{cases} cases, {len(lines)} conversions: {', '.join(f'{n} {what}' for what, n in counts.most_common())}"]
    passed = sum(1 for line in lines if line["verdict"] == "wrong" and line["verified"])
    disputed = sum(1 for line in lines if line["verdict"] == "right" and line["verified"] is False)
    text.append(f"verify: {passed} wrong ones are well to it, {disputed} right ones are not")
    needed = Counter(line["expected"] for line in lines if line["verdict"] == "refused" and line["expected"])
    text += [f" refused {count:>4}  rightly: {why}" for why, count in needed.most_common()]
    for verdict in ("crashed", "wrong", "refused", "not made", "not judged", "right"):
        by_kind: dict[tuple[str, str], list[dict[str, object]]] = {}
        for line in lines:
            said = line["reason"] and not (verdict == "refused" and line["expected"])
            if line["verdict"] == verdict and said:
                by_kind.setdefault((line["way"], kind(line["reason"])), []).append(line)
        for (way, _), found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
            numbers = ", ".join(str(line["number"]) for line in found[:most])
            text.append(f"{verdict:>10} {len(found):>4}  {way}: {str(found[0]['reason'])[:240]}")
            text.append(f"{'':>17}  {numbers}: {found[0]['case']}")
    return "\n".join(text), counts["wrong"] + counts["crashed"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Convert random fine-tunes and see what comes out.")
    parser.add_argument("--dir", type=Path, required=True, help="where results and wrong cases are kept")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100, help="cases 0 to COUNT - 1; those with a result are done")
    parser.add_argument("--number", type=int, action="append", help="only these cases, and keep their files")
    parser.add_argument("--case", action="append", help="a case as JSON; what it does not say is a plain Llama's")
    parser.add_argument("--pinned", action="store_true", help="the cases in pinned.json")
    parser.add_argument("--summary", action="store_true", help="only tell what was found")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    results = options.dir / "results.jsonl"
    if not options.summary:
        prepare()
        done = {json.loads(line)["number"] for line in results.read_text().splitlines()} if results.exists() else set()
        if options.pinned:
            left = [case for case in pinned().values() if case.number not in done]
        elif options.case:
            left = [Case.from_json(text) for text in options.case]
        else:
            numbers = options.number or [number for number in range(options.count) if number not in done]
            left = [draw(options.seed, number) for number in numbers]
        run(left, options.dir, keep=bool(options.number or options.case))
    text, wrong = summary(results)
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
