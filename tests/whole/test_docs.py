"""The commands in the docs do what the docs show.

PYTHONPATH=tests/support:tools python tests/whole/test_docs.py      writes anew what they print
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from pages import PAGES, README, ROOT, clone, shell

from zeroconsolidate import consolidate, inspect

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ .*(?:\n> .*)*", re.MULTILINE)
"""A command, with the lines that continue it."""
# What differs from run to run: times and dates, and sizes of files that have our version in them.
_CHANGES = re.compile(
    r"^  (time|read) .*|(?<=transformers )5[.\d]+|\d{4}-\d\d-\d\d \d\d:\d\d|(?<= in )[\d.]+ s$", re.MULTILINE
)


def run(page: Path, folder: Path) -> str:
    """The page as it would be if its commands were run now, one after the other, in `folder`."""

    def printed(block: re.Match[str]) -> str:
        text, code = "", 0
        for command in _COMMAND.findall(block[1]):
            spelled = re.sub(r"^[$>] ", "", command, flags=re.MULTILINE)
            done = shell(f"(exit {code}); {spelled}", folder)
            code = done.returncode
            text += f"{command}\n{done.stdout}"
        return f"```console\n{text}```"

    return _BLOCK.sub(printed, page.read_text())


@pytest.mark.pages
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_shows_what_is_printed(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="5")
    assert _CHANGES.sub("", run(page, clone(tmp_path))) == _CHANGES.sub("", page.read_text())


@pytest.mark.pages
def test_pages_can_be_read_one_after_the_other(tmp_path: Path) -> None:
    """In one clone: what a page makes is in no other's way."""
    pytest.importorskip("transformers", minversion="5")
    folder = clone(tmp_path)
    for page in PAGES:
        assert _CHANGES.sub("", run(page, folder)) == _CHANGES.sub("", page.read_text()), page.name


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(\w+/test_\w+\.py)((?:::\w+)+)`", (ROOT / "docs/guarantees-tests.md").read_text())
    assert len(named) > 40
    for file, path in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        for name in path.split("::")[1:]:
            found = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
            assert found, f"{file}{path}"
            tree = found[0]


LAYOUTS = [path.name for path in (ROOT / "tests/fixtures/layouts").iterdir()]
MEASURED = json.loads((ROOT / "tools/incumbents.json").read_text())["cases"]
"""Written by `tools/measure_incumbents.py --json`."""


def layout_rows(page: str) -> dict[str, list[str]]:
    """The table of layouts on a page: the other cells by the first."""
    table = [cells for header, cells in rows(page) if header.startswith("| layout |")]
    assert len({cells[0] for cells in table}) == len(table)
    return {first: rest for first, *rest in table}


def test_every_layout_is_in_one_row() -> None:
    found = Counter[str]()
    described = layout_rows("layouts.md")
    tested = layout_rows("layouts-tests.md")
    assert list(described) == list(tested)
    for layout, (where, fixtures) in tested.items():
        assert where and all(described[layout]), layout
        globs = re.findall(r"`([^`]+)`", fixtures)
        matched = [name for glob in globs for name in LAYOUTS if fnmatchcase(name, glob)]
        assert all(any(fnmatchcase(name, glob) for name in LAYOUTS) for glob in globs), layout
        stated = re.match(r"([0-9]+) fixtures: ", fixtures)
        assert len(matched) == (int(stated[1]) if stated else len(globs)), layout
        found.update(matched)
    assert found == Counter(LAYOUTS)


def test_what_other_converters_do_is_what_was_measured() -> None:
    assert sorted(MEASURED) == sorted(LAYOUTS)
    described = layout_rows("layouts.md")
    for layout, (_, fixtures) in layout_rows("layouts-tests.md").items():
        globs = re.findall(r"`([^`]+)`", fixtures)
        names = [name for name in LAYOUTS if any(fnmatchcase(name, glob) for glob in globs)]
        for column, stated in zip(("zero_to_fp32", "ds_to_universal"), described[layout][2:], strict=True):
            counts = Counter(MEASURED[name][column]["result"] for name in names)
            expected = {"—": len(names)} if stated == "—" else counts_of(stated, len(names))
            assert {("—" if result == "-" else result): n for result, n in counts.items()} == expected, layout


def test_the_readme_counts_what_was_measured() -> None:
    """The table beside DeepSpeed's converters."""
    table = README.read_text().partition("<!-- others -->")[2].partition("<!-- /others -->")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    by_row = {row[0]: row[1:] for row in cells}
    judged = {
        converter: Counter(case[converter]["result"] for case in MEASURED.values())
        for converter in ("zero_to_fp32", "ds_to_universal")
    }
    (right,) = (row for row in by_row if row.startswith("of 132 checkpoints"))
    assert all(counts.total() - counts["-"] == 132 for counts in judged.values())
    assert by_row[right] == ["131", *(str(counts["right"]) for counts in judged.values())]
    assert by_row["gets wrong, or incomplete, without a word"] == [
        "0", *(str(counts["wrong"] + counts["incomplete"]) for counts in judged.values())
    ]  # fmt: skip
    measured = (ROOT / "docs/measured.md").read_text()
    times = [cell for row in cells for cell in row[1:] if " s, " in cell and cell.endswith("MiB")]
    assert len(times) == 4
    for cell in times:
        seconds, memory = cell.split(", ")
        assert re.search(rf"^\| .* \| {re.escape(seconds)} \| .* \| {memory} \|$", measured, re.MULTILINE), cell


def counts_of(stated: str, total: int) -> dict[str, int]:
    """`right 4, wrong 2` -> {"right": 4, "wrong": 2}; a single word is the result of all fixtures."""
    parts = [part.split() for part in stated.split(", ")]
    return {part[0]: int(part[1]) if len(part) > 1 else total for part in parts}


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
    promises = [cells for header, cells in rows("guarantees-tests.md") if "tested by" in header]
    assert len(promises) > 35
    assert [cells[0] for cells in promises if not re.search(r"`\w+/test_\w+\.py(::\w+)+`", cells[-1])] == []


def test_versions_are_those_of_the_environments() -> None:
    stated = [cells for header, cells in rows("names.md") if "tested with transformers" in header]
    assert len(stated) == 3
    for version, _, environment in stated:
        assert f"transformers=={version}\n" in (ROOT / environment.strip("`")).read_text(), environment


UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6}


def amount(text: str) -> int:
    """`16 MiB`, `1,000`, `2^17`, `300 s`."""
    number, _, unit = text.strip().partition(" ")
    base, _, power = number.replace(",", "").partition("^")
    return int(base) ** int(power or 1) * UNITS[unit]


def test_limits_are_set_where_the_guarantees_say() -> None:
    places = [cells[2] for header, cells in rows("guarantees-tests.md") if "where it is set" in header]
    assert len(places) > 10
    for place in places:
        file, *constants = re.findall(r"`([^`]+)`", place)
        module = importlib.import_module(f"zeroconsolidate.{file.removesuffix('.py').replace('/', '.')}")
        assert [constant for constant in constants if not hasattr(module, constant)] == [], place


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
    with tempfile.TemporaryDirectory() as name:
        # As slow as for a reader, who has to wait for transformers.
        os.environ["XDG_CACHE_HOME"] = os.devnull
        clone(Path(name), sys.executable)
        for each in PAGES:
            made, before = run(each, Path(name)), each.read_text()
            if _CHANGES.sub("", made) != _CHANGES.sub("", before):
                each.write_text(made)
