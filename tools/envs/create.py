"""Creates one of the environments described beside this file.

    python tools/envs/create.py transformers4 .venv-transformers4

A `# ---` line in a description ends a step: the requirements above it are installed by one pip command before those
below it. `# --- no build isolation` builds the step's packages against what is already installed, `# --- no
dependencies` installs them alone. With --upgrade, an environment that is there gets the newest releases that are
allowed, and nothing if it has them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


_FLAGS = {"no build isolation": "--no-build-isolation", "no dependencies": "--no-deps"}


def steps(description: str) -> list[tuple[list[str], list[str]]]:
    """(requirements, pip options) of each step, in order."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    for line in description.splitlines():
        if line.startswith("# ---"):
            found.append(([], [flag for words, flag in _FLAGS.items() if words in line]))
        elif line.strip() and not line.startswith("#"):
            found[-1][0].append(line.strip())
    return found


def main() -> None:
    """Make the environment, or fail with pip's exit code."""
    parser = argparse.ArgumentParser(description="Create a test environment.")
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.txt")))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--upgrade", action="store_true")
    options = parser.parse_args()
    python = options.folder / "bin" / "python"
    if not (options.upgrade and python.exists()):
        venv.create(options.folder, with_pip=True)
    upgrade = ["--upgrade"] if options.upgrade else []
    # DeepSpeed would otherwise try to compile its CUDA operators at installation.
    environment = os.environ | {"DS_BUILD_OPS": "0"}
    # Most of what is installed is never imported: the first that imports a module compiles it.
    for requirements, flags in steps((HERE / f"{options.name}.txt").read_text()):
        command = [python, "-m", "pip", "install", "--quiet", "--no-compile", *upgrade, *flags, *requirements]
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
