"""docs/ -> what Sphinx reads: the same pages, with a sidebar, the API, and links that stay on the site.

The pages in docs/ are plain Markdown, to be read on GitHub as they are. Here they get what only a site has:

* The lists of links in `index.md` become the sidebar, a part for each heading.
* A list entry that begins with a name of the API, on the page `reference-python.md`, becomes its docstring.
* CHANGELOG.md and CONTRIBUTING.md become pages. A link to any other file outside of docs/ becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

from website.index import OUTSIDE, page_of, sections
from website.llms import llms

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

API = "reference-python.md"

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_OBJECT = re.compile(r"^- `(?P<name>[\w.]+)`(?:[^\n]*(?:\n  [^\n]*)*)$", re.MULTILINE)


def with_sidebar(index: str) -> str:
    """The index with a hidden table of contents for each of its parts."""
    trees = []
    for heading, entries in sections(index):
        names = "\n".join(f"{title.replace('`', '')} <{page_of(path)}>" for title, path, _ in entries)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{names}\n```\n")
    return "\n".join([index, *trees])


def with_objects(page: str) -> str:
    """The page of the API with the documentation of each object in place of its entry in a list."""

    def directive(entry: re.Match[str]) -> str:
        name = entry["name"]
        kind = "autoclass" if name.rpartition(".")[2][:1].isupper() else "autofunction"
        options = "\n   :members:" if kind == "autoclass" else ""
        return f"```{{eval-rst}}\n.. {kind}:: {name}{options}\n```\n"

    return _OBJECT.sub(directive, page)


def with_links(page: str, path: str) -> str:
    """A page whose links lead to pages of the site. `path`: where the page is, from the root of the repository."""

    def link(match: re.Match[str]) -> str:
        target, hash_, heading = match["target"].partition("#")
        if not target or re.match(r"\w+:", target):
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if there.startswith("docs/"):
            shown = (
                posixpath.relpath(there, posixpath.dirname(path) or "docs") if path.startswith("docs/") else there[5:]
            )
        elif there in OUTSIDE:
            shown = posixpath.relpath(posixpath.join("docs", OUTSIDE[there]), posixpath.dirname(path) or "docs")
        elif there == "README.md":
            shown = posixpath.relpath("docs/index.md", posixpath.dirname(path) or "docs")
            hash_ = heading = ""
        else:
            return match["text"]
        return f"{match['image']}[{match['text']}]({shown}{hash_}{heading})"

    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in _FENCE.split(page))


def pages() -> dict[str, str]:
    """All pages in Markdown, with links that stay on the site, by their paths there."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS).as_posix()
        found[name] = with_links(page.read_text(), f"docs/{name}")
    return found | {name: with_links((ROOT / path).read_text(), path) for path, name in OUTSIDE.items()}


def stage(folder: Path) -> None:
    """Write what Sphinx reads into `folder`, which is made again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    for name, text in pages().items():
        changed = {"index.md": with_sidebar, API: with_objects}.get(name)
        (folder / name).write_text(changed(text) if changed else text)


def beside(folder: Path) -> None:
    """Put the pages in Markdown, llms.txt which lists them, and the JSON schemas beside the HTML in `folder`."""
    for name, text in pages().items():
        (folder / name).write_text(text)
    shutil.copytree(DOCS / "schemas", folder / "schemas", dirs_exist_ok=True)
    (folder / "llms.txt").write_text(llms((DOCS / "index.md").read_text()))
