"""CONTRIBUTING.md: its rooms are those on disk, its links lead to functions, and conversions go the ways it walks."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from typing import Any, NamedTuple

import pytest
import tomllib
from command import REPOSITORY, python
from fixtures import FIXTURES

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
PACKAGE = REPOSITORY / "zeroconsolidate"
LAYERS: list[list[str]] = [
    [module.strip().removeprefix("zeroconsolidate.") for module in layer.split("|")]
    for contract in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
    for layer in contract["layers"]
]
"""From the top to the bottom: rooms that stand side by side."""

CALLS = """
import json, os, sys
import zeroconsolidate
root, calls = os.path.dirname(zeroconsolidate.__file__), []

def note(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(root):
        calls.append((os.path.relpath(code.co_filename, root), code.co_qualname))

sys.setprofile(note)
zeroconsolidate.consolidate(*sys.argv[1:3], **json.loads(sys.argv[3]))
sys.setprofile(None)
print(json.dumps(calls))
"""
"""Prints the functions of the package that a conversion calls, in order."""


class Link(NamedTuple):
    """A link to a function or a class."""

    name: str
    file: str
    """Inside the package."""


class Walk(NamedTuple):
    """The steps of one tensor, and the conversion that takes them."""

    checkpoint: str
    options: dict[str, str]
    steps: list[Link]


def links(text: str) -> list[Link]:
    return [Link(*found) for found in re.findall(r"\[([\w.]+)\]\(zeroconsolidate/([\w/]+\.py)\)", text)]


def walks() -> list[Walk]:
    found = []
    for command, steps in re.findall(r"<!-- walk: (.*?) -->\n\n(.*?)(?=\n\n[^\d ])", TEXT, re.DOTALL):
        checkpoint, *options = command.split()
        found.append(Walk(checkpoint, dict(option.split("=") for option in options), links(steps)))
    return found


@cache
def defined(file: str) -> frozenset[str]:
    """Functions, classes and methods of a file, as Python qualifies their names."""
    names = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{prefix}{node.name}.")

    walk(ast.parse((PACKAGE / file).read_text()).body, "")
    return frozenset(names)


def test_every_link_leads_to_a_function():
    found = links(TEXT)
    assert len(found) > 50
    assert [link for link in found if link.name not in defined(link.file)] == []


def test_the_rooms_are_those_on_disk():
    named = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert named == [room for layer in LAYERS for room in layer]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert folders | files == set(named)


def test_what_a_room_may_import_is_in_the_contract():
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", TEXT, re.MULTILINE))
    for layer, below in zip(LAYERS, [*LAYERS[1:], []], strict=True):
        rooms = ", ".join(f"`{room}`" for room in below) or "nothing of ours"
        expected = rooms + (" and below" if below and below is not LAYERS[-1] else "")
        assert {said[room] for room in layer} == {expected}


def test_places_to_plug_in_have_their_test():
    rows = re.findall(r"^\| an? .*\| `(tests/[^`]+)` \|$", TEXT, re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        file, name = row.split("::")
        body: list[Any] = ast.parse((REPOSITORY / file).read_text()).body
        assert name in [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))], row


@pytest.mark.parametrize("walk", walks(), ids=lambda walk: walk.checkpoint.partition("/checkpoint")[0])
def test_a_conversion_goes_this_way(walk: Walk, tmp_path: Any):
    options = walk.options | ({"base": str(FIXTURES / walk.options["base"])} if "base" in walk.options else {})
    done = python(CALLS, FIXTURES / walk.checkpoint, tmp_path / "out", json.dumps(options), seconds=600)
    assert done.returncode == 0, done.stderr
    calls = [Link(name, file) for file, name in json.loads(done.stdout)]
    here = 0
    for number, step in enumerate(walk.steps, start=1):
        assert step in calls[here:], f"step {number}: {step} is not called after step {number - 1}"
        here = calls.index(step, here) + 1


def test_both_walks_are_there():
    assert [len(walk.steps) > 20 for walk in walks()] == [True, True]
