"""A wheel -> an empty environment in which it is used, without torch and without a cache."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .builds import ROOT
from .contents import ALWAYS
from .environments import Environment
from .extras import CHECKPOINT, ask_for

if TYPE_CHECKING:
    from pathlib import Path

WANTED_SECONDS = 15
"""An installation is to take less. Printed, and no error: it depends on the network."""
SMALL_EXTRAS = {"xxh3": "xxhash", "hub": "huggingface-hub"}
"""Those that are installed here; of the others is seen what would be, and the suites of the repository install them."""


def use(folder: Path, wheel: Path) -> int:
    """Install, look, convert, verify. Raises SystemExit for what is not as it should be."""
    environment = Environment(folder / "empty", sys.executable)
    seconds = environment.install(str(wheel))
    print(f"installed in {seconds:.1f} s (wanted: less than {WANTED_SECONDS} s)")
    extra = environment.installed() - ALWAYS - {"pip", "setuptools", "zeroconsolidate"}
    if extra:
        raise SystemExit(f"an installation brings {', '.join(sorted(extra))} as well")
    print("there are", ", ".join(sorted(ALWAYS)), "and no torch")
    _convert(environment)
    ask_for(environment)
    _extras(environment, wheel)
    _by_uv(folder, wheel)
    return 0


def _convert(environment: Environment) -> None:
    command = environment.folder / "bin/zeroconsolidate"
    said = environment.run(command, "--version").stdout
    if not said.startswith("zeroconsolidate "):
        raise SystemExit(f"--version printed {said!r}")
    environment.run("python", "-m", "zeroconsolidate", "inspect", CHECKPOINT)
    began = time.monotonic()
    environment.run(command, "convert", CHECKPOINT, "model")
    print(f"converted a bundled checkpoint in {time.monotonic() - began:.1f} s")
    environment.run(command, "verify", "model", CHECKPOINT)
    environment.run(command, "universal", CHECKPOINT, "resume")
    environment.run(command, "verify", "resume", CHECKPOINT)
    code = "import sys, zeroconsolidate as z; [view.numpy() for view in z.open_checkpoint(sys.argv[1]).values()]"
    environment.run("python", "-c", code, CHECKPOINT)


def _extras(environment: Environment, wheel: Path) -> None:
    for extra, package in SMALL_EXTRAS.items():
        environment.install(f"{wheel}[{extra}]", constraints=ROOT / "constraints.txt")
        if package not in {name.lower().replace("_", "-") for name in environment.installed()}:
            raise SystemExit(f"the extra {extra} did not bring {package}")
    environment.run("zeroconsolidate", "convert", CHECKPOINT, "digested", "--digest", "xxh3")
    environment.run("zeroconsolidate", "verify", "digested")
    print("the extras", ", ".join(SMALL_EXTRAS), "bring what they say")


def _by_uv(folder: Path, wheel: Path) -> None:
    """As `uvx zeroconsolidate` would, if the wheel were on the index."""
    began = time.monotonic()
    command = [sys.executable, "-m", "uv", "tool", "run", "--no-config", "--cache-dir", str(folder / "uv"),
               "--python", sys.executable, "--from", str(wheel), "zeroconsolidate", "convert", str(CHECKPOINT),
               str(folder / "by-uv")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"uvx: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"uvx, with an empty cache: installed and converted in {time.monotonic() - began:.1f} s")
