"""Every Python of those that are supported and found here -> the wheel in it, and the tests that need no torch."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from .builds import ROOT
from .contents import PYTHONS
from .environments import Environment

TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
NEEDED = ("pytest", "hypothesis", "jsonschema", "pytest-timeout")
_HEAVY = {"torch", "transformers", "deepspeed", "peft", "lightning", "numpydoc", "tomllib", "fsspec"}
_MAKERS = {path.name for path in (ROOT / "tools").iterdir() if path.is_dir()} - {"mutations", "website"}
"""Packages of tools that make fixtures: they train."""
_LEFT_OUT = ("live", "tools", "models", "faults", "test_tensor_parallel_memory.py", "test_docs.py")
"""Tests of other things than this package on a Python, and what runs programs that need torch."""


def found() -> dict[str, str]:
    """Version, such as `3.12` -> its interpreter: on PATH, or one of pyenv's."""
    places = [*os.environ["PATH"].split(os.pathsep), *map(str, Path("~/.pyenv/versions").expanduser().glob("*/bin"))]
    pythons = {}
    for version in PYTHONS:
        for place in places:
            python = shutil.which(f"python{version}", path=place)
            if python and _says(python) == version:
                pythons[version] = python
                break
    return pythons


def _says(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def try_all(folder: Path, wheel: Path) -> int:
    """Exit code 1 if a test fails with any of them."""
    pythons, tests, worst = found(), without_torch(), 0
    for version in PYTHONS:
        if version not in pythons:
            print(f"Python {version}: there is none here")
            continue
        environment = Environment(folder / f"python{version}", pythons[version])
        environment.install(str(wheel), *NEEDED)
        command = ["-m", "pytest", "--no-header", "-p", "no:cacheprovider", "--timeout", "300", *tests]
        done = subprocess.run(
            [str(environment.folder / "bin/python"), *command], cwd=ROOT, check=False, capture_output=True, text=True,
            env=os.environ | {"PATH": f"{environment.folder}/bin:/usr/bin:/bin", "PYTHONPATH": ""},
        )  # fmt: skip
        print(f"Python {version}: {done.stdout.strip().splitlines()[-1]}")
        if done.returncode:
            print(done.stdout[-8000:], done.stderr[-2000:])
            worst = 1
    return worst


def without_torch() -> list[str]:
    """Files of tests that neither import torch and its like nor anything of ours that does."""
    files = [path for path in sorted(TESTS.glob("*/test_*.py")) if not {path.parent.name, path.name} & {*_LEFT_OUT}]
    return [str(path.relative_to(ROOT)) for path in files if not _imports(path) & (_HEAVY | _MAKERS)]


@cache
def _imports(path: Path) -> frozenset[str]:
    """Names of packages that a test imports, anywhere in it, and its helpers likewise."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module.partition(".")[0], *([node.module] if node.module.endswith(".torch") else [])}
    if any(name.endswith(".torch") for name in names):
        names.add("torch")
    for name in list(names):
        for helper in (SUPPORT / f"{name}.py", ROOT / "tools" / f"{name}.py"):
            if helper.exists() and helper != path:
                names |= _imports(helper)
    return frozenset(names)
