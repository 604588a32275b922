"""The pages in docs/: all are on the site, links lead somewhere, and the reference lacks nothing."""

from __future__ import annotations

import argparse
import ast
import builtins
import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import reference
from collect_texts import PACKAGE
from command import REPOSITORY
from pages import INDEX, LISTED, PAGES, WRITTEN
from website import built, stage
from website.index import sections
from website.llms import llms

import zeroconsolidate
from zeroconsolidate import errors
from zeroconsolidate.cli.arguments import parser

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = REPOSITORY / "docs/reference-python.md"
COMMANDS = next(action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
"""Each command with its parser."""


def test_every_page_is_in_the_index() -> None:
    """docs/index.md makes the site's sidebar, and says in which order tests run the commands of the pages.

    A page that is new gets one line there: `- [Title](page.md): what it is about`.
    """
    listed = Counter(LISTED)
    assert {*WRITTEN} - {*listed} - {INDEX} == set(), "give these a line in docs/index.md"
    assert {page for page in listed if not page.exists()} == set()
    assert {page: times for page, times in listed.items() if times > 1} == {}
    assert len(PAGES) > 20


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """To a page, and where they name a heading, to one that is there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`- \[.*?`", "", page.read_text())):
        path, _, heading = link.partition("#")
        if not re.match(r"\w+://", link):
            target = (page.parent / path) if path else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub spells them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found}


def test_every_public_name_has_an_entry() -> None:
    entries = re.findall(r"^- `zeroconsolidate\.(\w+)`: ", REFERENCE.read_text(), re.MULTILINE)
    same = {name for name in zeroconsolidate.__all__ if name.islower() and _is_alias(name)}
    assert same == {"convert"}
    assert sorted(entries) == sorted({*zeroconsolidate.__all__} - same - {"__version__"})


def _is_alias(name: str) -> bool:
    value = getattr(zeroconsolidate, name)
    return callable(value) and value.__name__ != name


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_is_in_the_reference(verb: str) -> None:
    """As the parser of the command has them, however they came to it."""
    listed = [action for action in COMMANDS[verb]._actions if action.help != argparse.SUPPRESS]
    flags = {flag for action in listed for flag in action.option_strings} - {"-h", "--help"}
    parts = re.split(r"^## ", reference.PAGE.read_text(), flags=re.MULTILINE)
    section = next((part for part in parts if part.startswith(f"`zeroconsolidate {verb}`")), "")
    assert {flag for flag in flags if not re.search(rf"`{re.escape(flag)}[ `]", section)} == set()
    assert section or not flags


class TestTroubleshooting:
    """Every error has its entry, and messages are quoted as they are."""

    PAGE = (REPOSITORY / "docs/troubleshooting.md").read_text()

    def test_every_error_has_an_entry(self) -> None:
        entries = re.findall(r"^### `(\w+)`(?: \((\w+)\))?$", self.PAGE, re.MULTILINE)
        classes = {name: kind for name, kind in vars(errors).items() if _is_error(kind)}
        assert sorted(name for name, _ in entries) == sorted(classes)
        for name, builtin in entries:
            assert not builtin or issubclass(classes[name], getattr(builtins, builtin)), name

    def test_our_messages_are_ours(self) -> None:
        """A message in a table is one of the package, with `…` for what varies."""
        ours = "\n".join(spelled for path in PACKAGE.rglob("*.py") for spelled in _texts(path))
        tables = self.PAGE.partition("## zeroconsolidate\n")[2]
        quoted = re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE)
        assert len(quoted) > 30
        for message in quoted:
            parts = [part.strip(" ;:,") for part in message.split("…")]
            assert all(part in ours for part in parts), message

    def test_messages_of_others_are_theirs(self) -> None:
        quoted = re.findall(r"^<!-- said by (\S+): (.*) -->$", self.PAGE, re.MULTILINE)
        assert len(quoted) > 10
        packages = Path(sysconfig.get_path("purelib"))
        for file, words in quoted:
            if (packages / file.partition("/")[0]).is_dir():
                assert words in (packages / file).read_text(), words


def _texts(path: Path) -> Iterator[str]:
    """The texts in a module, with `{}` for what an f-string puts in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, errors.ZeroConsolidateError) and kind.__name__[0] != "_"


class TestSite:
    """What the pages become, as text. `sh tools/site.sh` builds the site, and checks every link in it."""

    def test_the_index_becomes_the_sidebar(self) -> None:
        made = stage.with_sidebar("# T\n\n## How to\n\n- [A `b`](a.md): so\n- [C](../CHANGELOG.md): what\n  changed\n")
        assert made.startswith("# T\n\n## How to\n\n- [A `b`](a.md): so\n")
        assert made.endswith("```{toctree}\n:hidden:\n:caption: How to\n\nA b <a>\nC <changelog>\n```\n")

    def test_names_become_their_documentation(self) -> None:
        made = stage.with_objects(
            "## X\n\n- `zeroconsolidate.convert`: makes\n  it\n- `zeroconsolidate.Report`: said\n\nEnd"
        )
        assert ".. autofunction:: zeroconsolidate.convert\n```" in made
        assert ".. autoclass:: zeroconsolidate.Report\n   :members:\n```" in made
        assert made.endswith("\n\nEnd")
        assert "it" not in made.replace("zeroconsolidate", "")

    @pytest.mark.parametrize(
        ("path", "link", "there"),
        [
            ("docs/a.md", "[b](b.md#c)", "[b](b.md#c)"),
            ("docs/a.md", "[b](#c)", "[b](#c)"),
            ("docs/a.md", "[b](https://example.org/b.md)", "[b](https://example.org/b.md)"),
            ("docs/a.md", "![b](b.svg)", "![b](b.svg)"),
            ("docs/a.md", "[b](../CHANGELOG.md#x)", "[b](changelog.md#x)"),
            ("docs/a.md", "[b](../README.md#x)", "[b](index.md)"),
            ("docs/a.md", "[`b`](../tools/README.md)", "`b`"),
            ("docs/zh/a.md", "[b](../b.md)", "[b](../b.md)"),
            ("docs/zh/a.md", "[b](../../CHANGELOG.md)", "[b](../changelog.md)"),
            ("CONTRIBUTING.md", "[b](docs/b.md)", "[b](b.md)"),
            ("CONTRIBUTING.md", "[b](zeroconsolidate/b.py)", "b"),
            ("docs/a.md", "```sh\n[b](../x.py)\n```", "```sh\n[b](../x.py)\n```"),
        ],
    )
    def test_links_stay_on_the_site(self, path: str, link: str, there: str) -> None:
        assert stage.with_links(link, path) == there

    def test_llms_txt_lists_every_page(self) -> None:
        text = llms(INDEX.read_text())
        assert text.startswith("# zeroconsolidate\n\n> Training with DeepSpeed leaves a folder")
        assert "zeroconsolidate convert checkpoint-500 my-model" in text
        pages = re.findall(r"^- \[.*?\]\(([\w/-]+\.md)\): \w", text, re.MULTILINE)
        assert sorted(pages) == sorted({*stage.pages()} - {"index.md"})
        assert [heading for heading, _ in sections(INDEX.read_text())] == re.findall(r"^## (.*)$", text, re.MULTILINE)

    def test_what_leads_nowhere_is_found(self, tmp_path: Path) -> None:
        good = '<p id="x"></p><a href="b.html#y">b</a><a href="#x">x</a><a href="https://example.org">far</a>'
        (tmp_path / "a.html").write_text(good)
        (tmp_path / "b.html").write_text('<p id="y"></p><a href="a.html">a</a>')
        assert built.broken(tmp_path) == []
        (tmp_path / "b.html").write_text('<a href="c.html">c</a><script src="https://example.org/x.js"></script>')
        assert built.broken(tmp_path) == [
            "a.html: there is no anchor b.html#y",
            "b.html: there is no c.html",
            "b.html: fetches https://example.org/x.js",
        ]
