"""Every block of code on the pages does something, by a test.

`console` is run by test_docs.py. Here, page by page in a clone of this repository:

* `python` runs, block after block, and prints what the comments behind `print` say.
* `sh` runs, each line by itself, where `checkpoint-500`, `CHECKPOINT` and `RUN` are a checkpoint; `my-model`
  is a model for `verify`.
* `json` is parsed.

A comment in front of a block says of others why they are not run, `<!-- not run: it needs a cluster -->`, or what runs
them, `<!-- run by tools/resume_in_programs.py -->`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest
from command import REPOSITORY
from fixtures import FIXTURES
from pages import PAGES, clone, shell

from zeroconsolidate import consolidate

if TYPE_CHECKING:
    from pathlib import Path

TRAINER = FIXTURES / "trainer_zero3_tied/checkpoint"
STAND_INS = ("checkpoint-500", "CHECKPOINT", "RUN")
_BLOCK = re.compile(
    r"^(?:<!-- (?P<said>[^\n]*?) -->\n\n?)?```(?P<kind>[\w{}-]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of code on a page."""

    page: Path
    kind: str
    text: str
    said: str | None

    @property
    def is_run_here(self) -> bool:
        return not (self.said or "").startswith(("not run: ", "run by "))


BLOCKS = [
    Block(page, match["kind"], match["text"], match["said"])
    for page in PAGES
    for match in _BLOCK.finditer(page.read_text())
]
LINES = [
    (block.page.stem, line)
    for block in BLOCKS
    if block.kind == "sh" and block.is_run_here
    for line in re.sub(r"\\\n *", "", block.text).splitlines()
    if line and not line.startswith("#")
]
PYTHON = sorted({block.page for block in BLOCKS if block.kind == "python" and block.is_run_here})


def test_every_block_is_of_a_kind_that_is_run() -> None:
    for block in BLOCKS:
        if block.is_run_here:
            assert block.kind in ("console", "python", "sh", "json"), (block.page.name, block.text)
        else:
            by = re.match(r"run by (\S+)", block.said or "")
            assert not by or _mentions(REPOSITORY / by[1], block.page.name), (block.said, block.page.name)
            assert by or re.match(r"not run: .{10}", block.said or ""), block


def _mentions(path: Path, page: str) -> bool:
    """Whether a file that is said to run blocks of a page knows the page, itself or by a module that it imports."""
    return path.is_file() and any(
        page in each.read_text() for each in (path, *path.parent.glob("*.py"), *path.parent.glob("*/*.py"))
    )


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.kind == "json"], ids=lambda block: block.page.stem
)
def test_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", minversion="5")
    (tmp_path / "tests").symlink_to(REPOSITORY / "tests")
    for name in STAND_INS:
        (tmp_path / name).symlink_to(TRAINER)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for block in BLOCKS:
        if block.page == page and block.kind == "python" and block.is_run_here:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, str(page), "exec"), names)
            stated = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE)
            assert printed.getvalue().splitlines() == stated, block.text


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}-{number}" for number, (page, _) in enumerate(LINES)])
def test_sh(page: str, line: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="5")
    clone(tmp_path)
    for name in STAND_INS:
        (tmp_path / name).symlink_to(TRAINER)
    if " verify " in f" {line} ":
        consolidate(TRAINER, tmp_path / "my-model")
    done = shell(line, tmp_path)
    assert done.returncode == 0, (line, done.stdout)
