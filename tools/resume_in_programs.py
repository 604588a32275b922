"""Run the scripts of docs/resume-in-frameworks.md: train, write a universal checkpoint, resume.

    python tools/resume_in_programs.py                       all of them, on CPU
    python tools/resume_in_programs.py --only trainer

Each script trains on two ranks and saves. It is resumed from the universal checkpoint on two ranks, where its next
losses must be those of the run that went on, and on three and one, where parameters, moments and step must be equal bit
for bit, right after loading.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fixtures_lib import ranks

ranks.prepare()

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "resume-in-frameworks.md"
_SCRIPT = re.compile(
    r"^<!-- run by tools/resume_in_programs\.py as train_(\w+)\.py -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
SAVED = {"trainer": "run/checkpoint-3", "accelerate": "run", "lightning": "run/epoch=0.ckpt"}
"""Where each script saves in the middle, as the page says."""


def scripts() -> dict[str, str]:
    """The scripts of the page, by name."""
    return dict(_SCRIPT.findall(PAGE.read_text()))


def run(name: str, folder: Path, world_sizes: list[int]) -> bool:
    """Train, convert, resume, and say what was found; whether all is as it was."""
    from resuming import programs

    programs.import_program("transformers" if name == "trainer" else name)
    folder.mkdir(parents=True)
    (folder / "tests").symlink_to(ROOT / "tests")
    script = scripts()[name]
    trained = programs.run(script, [], folder, world_size=2)
    command = [sys.executable, "-m", "zeroconsolidate", "universal", "--quiet", SAVED[name], "resume"]
    subprocess.run(command, cwd=folder, check=True)
    is_right = True
    for world_size in world_sizes:
        devices = ["--devices", f"{world_size}"] if name == "lightning" else []
        resumed = programs.run(script, ["--resume", "resume", *devices], folder, world_size=world_size)
        equal, of = programs.compare(trained.saved, resumed.loaded)
        is_right &= equal == of > 0
        text = f"{name} on {world_size}: {equal} of {of} equal after loading"
        if world_size == 2:
            steps = len(resumed.losses[0])
            more = [of_rank[-steps:] for of_rank in trained.losses]
            is_right &= 0 < steps < len(trained.losses[0]) and more == resumed.losses
            text += f", losses {'equal' if more == resumed.losses else f'{resumed.losses}, not {more}'}"
        print(text, flush=True)
    return is_right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SAVED, default=list(SAVED), help="just these")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 3], help="how many ranks resume")
    parser.add_argument("--out", type=Path, help="keep all files there")
    args = parser.parse_args()
    root = args.out or Path(tempfile.mkdtemp(prefix="resume-in-programs-"))
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # what `accelerate launch --use_deepspeed` sets
    ranks.import_deepspeed()
    right = [run(name, root / name, args.ranks) for name in args.only]
    return int(not all(right))


if __name__ == "__main__":
    sys.exit(main())
