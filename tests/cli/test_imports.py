"""What a command does not need is not imported: torch costs a second and 220 MB, and nobody asked for deepspeed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from command import python
from fixtures import FIXTURES

import zeroconsolidate

PACKAGE = Path(zeroconsolidate.__file__).parent

RUN = """
import json, sys
from zeroconsolidate.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "deepspeed", "transformers", "numpy", "safetensors", "tqdm", "huggingface_hub", "peft",
         "fsspec", "botocore", "concurrent.futures"}
print(json.dumps([code, sorted(heavy & set(sys.modules))]))
"""


def imported(*arguments: object) -> str:
    done = python(RUN, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("case", ["z2_bf16", "z3_bf16", "trainer_zero3_tied"])
def test_inspect_imports_nothing_heavy(case: str):
    assert imported("inspect", FIXTURES / case / "checkpoint") == "[0, []]"
    assert imported("inspect", FIXTURES / case / "checkpoint", "--tensors", "--json") == "[0, []]"


OPTIONS = [[], ["--dtype", "bf16", "--check", "--max-shard-size", "1KB"], ["--dry-run"]]


@pytest.mark.parametrize(
    ("case", "options"),
    [(case, options) for case in ("z2_bf16", "z3_bf16") for options in OPTIONS] + [("trainer_zero3_tied", [])],
)
def test_a_conversion_imports_neither_torch_nor_the_trainers(case: str, options: list[str], tmp_path: Path):
    found = imported("convert", FIXTURES / case / "checkpoint", tmp_path / "out", *options)
    assert found.startswith("[0, ")
    for heavy in ("torch", "deepspeed", "transformers", "huggingface_hub", "peft", "fsspec"):
        assert heavy not in found


def test_the_package_itself_imports_nothing_heavy():
    done = python(RUN.replace("code = main(sys.argv[1:])", "import zeroconsolidate; code = 0"))
    assert done.stdout == "[0, []]\n", done.stderr


def test_the_package_lists_its_public_names_only():
    """Rooms are imported with it, and are not what a caller is to find."""
    assert dir(zeroconsolidate) == sorted(zeroconsolidate.__all__)
    assert all(hasattr(zeroconsolidate, name) for name in dir(zeroconsolidate))


def test_public_names_are_imported_when_they_are_used():
    code = "import sys, zeroconsolidate; print(len([m for m in sys.modules if m.startswith('zeroconsolidate.')]))"
    assert python(code).stdout == "1\n"  # its version
    tree = ast.parse(Path(zeroconsolidate.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    for_typing = {alias.name: node.module for node in imports for alias in node.names if alias.name != "__version__"}
    assert for_typing == zeroconsolidate._HOMES
    assert sorted([*for_typing, "__version__"]) == zeroconsolidate.__all__
    with pytest.raises(AttributeError, match="no attribute 'consolidat'"):
        _ = zeroconsolidate.consolidat


def test_the_package_names_its_rooms():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    named = {line.split()[0] for line in zeroconsolidate.__doc__.splitlines() if line.startswith("    ")}
    assert named == folders
