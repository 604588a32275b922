"""Each extra: what an installation with it brings, and that what is missing without it is asked for by its name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .builds import ROOT
from .contents import ALWAYS, EXTRAS, PYTHONS

if TYPE_CHECKING:
    from pathlib import Path

    from .environments import Environment

FIXTURES = ROOT / "tests/fixtures"
CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"
_MODELS = FIXTURES / "models"
_MERGE = ("convert", _MODELS / "lora_z3/checkpoint", "out", "--lora", "merge", "--base", _MODELS / "_bases/llama")
NEED: dict[str, tuple[str | Path, ...]] = {
    "torch": _MERGE,
    "hub": ("convert", CHECKPOINT, "out", "--base", "someone/a-model"),
    "xxh3": ("convert", CHECKPOINT, "out", "--digest", "xxh3"),
    "answers": ("compare", "model", "model", "--answers", "default"),
    "quantize": ("convert", CHECKPOINT, "out", "--quantize", "int8"),
    "s3": ("inspect", "s3://bucket/checkpoint"),
    "gcs": ("inspect", "gs://bucket/checkpoint"),
    "azure": ("inspect", "az://container/checkpoint"),
    "hf": ("inspect", "hf://someone/a-model"),
    "remote": ("inspect", "sftp://server/checkpoint"),
    **{engine: ("convert", CHECKPOINT, "out", "--executor", engine) for engine in ("ray", "dask", "mpi")},
}
"""By extra, a command that needs it, where `model` is a model. `deepspeed` is for engines, which only Python has."""
_INTO_ENGINE = """
import sys, zeroconsolidate
try:
    zeroconsolidate.load_into_engine(object(), sys.argv[1])
except zeroconsolidate.MissingPackage as error:
    print(error.remedy)
"""


def resolve(folder: Path, wheel: Path) -> int:
    """What would be installed for each extra, on the oldest and on the newest Python, by uv. Exit code 1 if wrong."""
    wanted = [(extra, python) for python in (PYTHONS[0], PYTHONS[-1]) for extra in ("", *EXTRAS)]
    with ThreadPoolExecutor(8) as pool:  # which wait for the index
        complaints = [text for text in pool.map(lambda each: _resolved(folder, wheel, *each), wanted) if text]
    print(*complaints, sep="\n", end="")
    if not complaints:
        print(
            f"{len(EXTRAS)} extras can be installed with Python {PYTHONS[0]} and {PYTHONS[-1]}; without one, no torch"
        )
    return int(bool(complaints))


def _resolved(folder: Path, wheel: Path, extra: str, python: str) -> str | None:
    """What is wrong with an extra on a Python."""
    wanted = f"zeroconsolidate{f'[{extra}]' if extra else ''} @ {wheel.resolve().as_uri()}"
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-config", "--no-header",
               "--no-annotate", "--python-version", python, "--cache-dir", str(folder / "resolved")]  # fmt: skip
    done = subprocess.run(command, input=wanted, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{wanted}, Python {python}: cannot be resolved\n{done.stderr}"
    brought, expected = set(re.findall(r"^([\w.-]+)==", done.stdout, re.MULTILINE)), EXTRAS.get(extra, set())
    lacking = (ALWAYS | expected) - brought
    if lacking or (not extra and brought != ALWAYS):
        return f"{wanted}, Python {python}: it brings {sorted(brought)}, without {sorted(lacking)}"
    if ("torch" in brought) != ("torch" in expected):
        return f"{wanted}, Python {python}: {'torch comes' if 'torch' in brought else 'no torch'}"
    return None


def ask_for(environment: Environment) -> None:
    """Without an extra, what needs it says which. Raises SystemExit where it says something else, or writes."""
    if unknown := {*NEED, "deepspeed"} ^ set(EXTRAS):
        raise SystemExit(f"extras that are not tried, or not declared: {', '.join(sorted(unknown))}")
    for extra, command in NEED.items():
        done = environment.run("zeroconsolidate", *command, "--json", expect=2)
        error = json.loads(done.stdout)["error"]
        if not _names(error["remedy"], extra):
            raise SystemExit(f"{' '.join(map(str, command))}: it says {error}")
        if (environment.home / "out").exists():
            raise SystemExit(f"{' '.join(map(str, command))}: it wrote something")
    if not _names(environment.run("python", "-c", _INTO_ENGINE, CHECKPOINT).stdout.strip(), "deepspeed"):
        raise SystemExit("loading into an engine does not name the extra deepspeed")
    print(f"what needs one of {len(EXTRAS)} extras names it")


def _names(remedy: str, extra: str) -> bool:
    return f"pip install 'zeroconsolidate[{extra}]'" in remedy.split("; ")
