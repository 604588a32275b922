"""What a command does not need is not imported: torch costs a second and 220 MB, and nobody asked for deepspeed."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import python
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate import options
from zeroconsolidate.cli.verbs import ABOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

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


LOADED = RUN[: RUN.index("heavy")] + "print(json.dumps(sorted(sys.modules)))"
STANDARD = (
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib.metadata",
    "logging",
    "subprocess",
    "tempfile",
    "urllib",
)
"""Packages of the standard library whose import takes milliseconds, most of them to import others."""
ELSEWHERE = ("answers", "audit", "loading", "mapping", "outputs.recomputed", "outputs.universal", "reports", "training")
"""What neither a plain conversion nor `inspect` has to do with."""
PARTS = {
    "inspect": ("adapters", "options.convert", "outputs", "transforms", "write"),
    "convert": (
        "adapters.merge", "adapters.readers", "opening.rescue", "run.remote", "run.threads", "saves.facts",
        "saves.listing", "saves.run", "transforms.averaging", "transforms.quantizing", "write.remote_journal",
        "write.uploads",
    ),
    "--version": ("adapters", "api", "catalog", "cli.actions", "naming", "opening", "outputs", "plan", "run", "write"),
}  # fmt: skip
"""Command -> what else of this package it does without."""


def test_nothing_is_imported_for_other_commands(tmp_path: Path):
    checkpoint = FIXTURES / "z3_bf16/checkpoint"
    for words in (["inspect", checkpoint], ["convert", checkpoint, tmp_path / "out", "--quiet"]):
        verb = words[0]
        loaded = modules(*words)
        ours = (*ELSEWHERE, *PARTS[verb])
        assert not [name for name in loaded if under(name, STANDARD)], verb
        assert not [name for name in loaded if under(name, [f"zeroconsolidate.{part}" for part in ours])], verb
        for package in ("options", "cli.verbs"):
            others = {f"zeroconsolidate.{package}.{other}" for other in ABOUT if other != verb}
            assert not others & {*loaded}, verb


def test_what_ends_at_once_imports_nothing_of_any_command():
    for word in ("--version", "--help"):
        loaded = modules(word)
        assert not [name for name in loaded if under(name, STANDARD)]
        ours = (*ELSEWHERE, *PARTS["--version"], *(f"cli.verbs.{verb}" for verb in ABOUT))
        assert not [name for name in loaded if under(name, [f"zeroconsolidate.{part}" for part in ours])]


def modules(*words: object) -> list[str]:
    """What is imported when a command ends."""
    done = python(LOADED.replace("code = main(sys.argv[1:])", ENDED), *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ENDED = """
try:
    main(sys.argv[1:])
except SystemExit as ended:  # argparse prints the help
    assert not ended.code
"""


def under(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


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


def test_options_are_imported_when_they_are_used():
    code = "import sys, zeroconsolidate.options; print('zeroconsolidate.options.convert' in sys.modules)"
    assert python(code).stdout == "False\n"
    tree = ast.parse(Path(options.__file__).read_text())
    (for_typing,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in for_typing.body for alias in node.names}
    assert imports == options._HOMES
    assert all(hasattr(options, name) for name in options.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Optoins'"):
        _ = options.Optoins


def test_the_package_names_its_rooms():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    named = {line.split()[0] for line in zeroconsolidate.__doc__.splitlines() if line.startswith("    ")}
    assert named == folders
