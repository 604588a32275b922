"""The commands in the docs do what the docs show. `python tests/test_docs.py` writes anew what they print."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from zeroconsolidate import consolidate, inspect

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs/incomplete-checkpoints.md"]

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What differs from run to run: times, and what depends on our version or on other installed packages.
_CHANGES = re.compile(r"^  (time|files|names) .*", re.MULTILINE)


def run(page: Path, folder: Path) -> str:
    """The page as it would be if its commands were run now, one after the other, in an empty folder."""
    bin_ = folder / ".bin"
    bin_.mkdir()
    (bin_ / "zeroconsolidate").write_text(f'#!/bin/sh\nexec {sys.executable} -m zeroconsolidate "$@"\n')
    (bin_ / "zeroconsolidate").chmod(0o755)
    surroundings = os.environ | {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FIXTURES": str(ROOT / "tests/fixtures"),
    }

    def printed(block: re.Match[str]) -> str:
        commands = [line[2:] for line in block[1].splitlines() if line.startswith("$ ")]
        text, code = "", 0
        for command in commands:
            shell = ["sh", "-c", f"(exit {code}); {command}"]
            done = subprocess.run(
                shell,
                cwd=folder,
                env=surroundings,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            code = done.returncode
            text += f"$ {command}\n{done.stdout}"
        return f"```console\n{text}```"

    return _BLOCK.sub(printed, page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_shows_what_is_printed(page: Path, tmp_path: Path) -> None:
    assert _CHANGES.sub("", run(page, tmp_path)) == _CHANGES.sub("", page.read_text())


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)((?:::\w+)+)`", (ROOT / "docs/guarantees.md").read_text())
    assert len(named) > 40
    for file, path in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        for name in path.split("::")[1:]:
            found = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
            assert found, f"{file}{path}"
            tree = found[0]


def test_the_shares_are_measured(tmp_path: Path) -> None:
    """The table of what a lost rank costs."""
    stated = [cells for header, cells in rows("incomplete-checkpoints.md") if "lost: rank 2 of 4" in header]
    measured: list[list[str]] = [[cells[0]] for cells in stated]
    for stage in (2, 3):
        root = tmp_path / f"z{stage}"
        shutil.copytree(ROOT / f"tests/fixtures/z{stage}_w4/checkpoint", root)
        for path in root.glob("*/*pp_rank_2_*"):
            path.unlink()
        whole = sum(loss.fate == "whole" for loss in inspect(root).losses)
        alone, zeros = (consolidate(root, tmp_path / f"{stage}-{r}", rescue=r).rescue for r in (True, "zeros"))
        assert alone is not None
        assert zeros is not None
        column = [
            *(f"{zeros.percent(source):.1f} %" for source in ("checkpoint", "module", "zeros")),
            f"{whole} of {len(zeros.tensors)}",
            *(f"{alone.percent(source):.1f} %" for source in ("checkpoint", "module", "nowhere")),
        ]
        for cells, value in zip(measured, column, strict=True):
            cells.append("0 %" if value == "0.0 %" else value)
    assert stated == measured


def rows(page: str) -> list[tuple[str, list[str]]]:
    """(header, cells) of every row of every table of a page."""
    found, header = [], ""
    for line, following in itertools.pairwise([*(ROOT / "docs" / page).read_text().splitlines(), ""]):
        if following.startswith("|---"):
            header = line
        elif line.startswith("|") and not line.startswith("|---"):
            found.append((header, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


def test_every_promise_names_a_test() -> None:
    promises = [cells for header, cells in rows("guarantees.md") if "held by" in header]
    assert len(promises) > 35
    assert [cells[0] for cells in promises if not re.search(r"`test_\w+\.py(::\w+)+`", cells[-1])] == []


UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6}


def amount(text: str) -> int:
    """`16 MiB`, `1,000`, `2^17`, `300 s`."""
    number, _, unit = text.strip().partition(" ")
    base, _, power = number.replace(",", "").partition("^")
    return int(base) ** int(power or 1) * UNITS[unit]


def test_limits_are_those_of_the_code() -> None:
    limits = [cells for header, cells in rows("untrusted-checkpoints.md") if "constant" in header]
    assert len(limits) > 12
    for _, values, constants in limits:
        there: list[int] = []
        for word in re.findall(r"`([^`]+)`", constants):
            if word.endswith(".py"):
                module = importlib.import_module(f"zeroconsolidate.{word.removesuffix('.py').replace('/', '.')}")
            elif word == "Limits":
                there += dataclasses.astuple(module.Limits())
            else:
                there.append(getattr(module, word))
        assert list(map(amount, values.split(";"))) == there, constants


if __name__ == "__main__":
    for each in PAGES:
        with tempfile.TemporaryDirectory() as name:
            each.write_text(run(each, Path(name)))
