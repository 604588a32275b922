"""Collects what people read of this package into one text: help, messages, lines of reports, docstrings.

    python tools/collect_texts.py                    everything, by kind and place
    python tools/collect_texts.py --words            only what uses a word that tools/words.txt rules out
    python tools/collect_texts.py --kind message naming audit

`tests/tools/test_words.py` checks the same texts, and the docs, for these words.

- help: what `--help` prints, for the command and each verb
- message: texts in `raise`, in calls of an error, and in what is added to warnings, notes, problems and checks
- report: all other texts in `cli/printing.py`
- docstring: of public functions, classes, their members and fields
- module: the first line of each module
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zeroconsolidate"
WORDS = ROOT / "tools" / "words.txt"
KINDS = ("help", "message", "report", "docstring", "module")
LISTS = ("warnings", "notes", "problems", "checks", "not_checked", "reasons", "decided", "missing")
"""Variables, attributes and keywords whose texts are printed."""
PARTS = ("message", "expected", "found", "got", "consequence", "remedy", "reason", "change", "unchecked")
"""Keywords with a part of a message."""
ERROR = re.compile(
    r"[A-Z]\w*(?:Error|Exception)|NotACheckpoint|MissingFiles|DamagedFile|Unsafe\w+|Disagreement|WitnessMismatch"
    r"|UnsupportedLayout|WrongNames|BadOption|Output(?:Exists|Failed)|PlanBroken|complaint|is_nowhere"
)


@dataclass(frozen=True, slots=True, order=True)
class Text:
    """Something that people read."""

    kind: str
    place: str
    """The file inside the package and the line, such as `naming/fit.py:12`."""
    text: str

    @property
    def folder(self) -> str:
        """The folder of the package, empty for the root."""
        return self.place.rpartition("/")[0].partition("/")[0]


def texts() -> list[Text]:
    """Everything, by kind and place."""
    found = list(_help())
    for path in sorted(PACKAGE.rglob("*.py")):
        found += _of_module(path)
    return sorted(set(found), key=lambda text: (KINDS.index(text.kind), text.place.partition(":")[0], _line(text)))


def _line(text: Text) -> int:
    line = text.place.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _help() -> Iterator[Text]:
    from zeroconsolidate.cli.arguments import parser

    whole = parser()
    verbs = {name: verb for action in whole._actions if isinstance(action.choices, dict)
             for name, verb in action.choices.items()}  # fmt: skip
    for name, part in {"zeroconsolidate": whole, **verbs}.items():
        yield Text("help", f"cli/{name} --help", part.format_help())


def _of_module(path: Path) -> Iterator[Text]:
    tree, name = ast.parse(path.read_text()), path.relative_to(PACKAGE).as_posix()
    docstring = ast.get_docstring(tree)
    if docstring:
        yield Text("module", f"{name}:1", docstring.splitlines()[0])
    documentation = {id(node) for node in _documentation(tree)}
    for line, text in _docstrings(tree):
        yield Text("docstring", f"{name}:{line}", text)
    kind = "report" if name == "cli/printing.py" else ""
    for node in ast.walk(tree):
        if id(node) in documentation:
            continue
        for value in _message(node):
            for each in _joined(value):
                yield Text("message", f"{name}:{each.lineno}", _written(each))
        if kind and isinstance(node, (ast.JoinedStr, ast.Constant)) and _is_text(node):
            yield Text(kind, f"{name}:{node.lineno}", _written(node))


def _documentation(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of docstrings, and all that is in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of what documents a public function, class, member or field."""

    def walk(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
        for statement, following in zip(body, [*body[1:], None], strict=True):
            match statement:
                case ast.ClassDef() | ast.FunctionDef() if not statement.name.startswith("_"):
                    text = ast.get_docstring(statement)
                    if text:
                        yield statement.lineno, text
                    if isinstance(statement, ast.ClassDef):
                        yield from walk(statement.body)
                case ast.AnnAssign() | ast.Assign():
                    match following:
                        case ast.Expr(value=ast.Constant(value=str(text))):
                            yield statement.lineno, text

    yield from walk(tree.body)


def _message(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in `node` that make a message."""
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            name = _name(func)
            if ERROR.fullmatch(name):
                yield from args
            if isinstance(func, ast.Attribute) and name in ("append", "extend") and _name(func.value) in LISTS:
                yield from args
            yield from (each.value for each in keywords if each.arg in (*LISTS, *PARTS))
        case ast.Assign(targets=targets, value=value) if any(_name(target) in LISTS for target in targets):
            yield value
        case ast.AugAssign(target=target, value=value) if _name(target) in LISTS or _name(target) == "message":
            yield value
        case ast.AnnAssign(target=target, value=ast.expr() as value) if _name(target) in LISTS:
            yield value


def _name(node: ast.expr) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Subscript(value=value):
            return _name(value)
    return ""


def _joined(node: ast.AST) -> Iterator[ast.expr]:
    """The texts in an expression, each as a whole; not those inside the braces of another."""
    if isinstance(node, (ast.JoinedStr, ast.Constant)):
        if _is_text(node):
            yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _joined(child)


def _is_text(node: ast.JoinedStr | ast.Constant) -> bool:
    """Whether this is a phrase: two words at least."""
    return (isinstance(node, ast.JoinedStr) or isinstance(node.value, str)) and " " in _written(node).strip()


def _written(node: ast.expr) -> str:
    """A text as it is written, with names in braces for what is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(_written, values))
        case ast.FormattedValue(value=value):
            return "{" + ast.unparse(value) + "}"
    return ""


def ruled_out() -> dict[str, str]:
    """Word or phrase -> what to write, from tools/words.txt."""
    found = {}
    for line in WORDS.read_text().splitlines():
        if line and not line.startswith("#"):
            words, _, instead = line.partition(":")
            found |= {word.strip(): instead.strip() for word in words.split(",")}
    return found


def words_in(text: str, words: Iterable[str]) -> list[str]:
    """Those of `words` that are in a text outside of `code` and {braces}."""
    plain = re.sub(r"```.*?```|`[^`]*`|\{[^}]*\}|\]\([^)]*\)|https?://\S+", " ", text, flags=re.DOTALL)
    plain = " ".join(plain.split())
    there = [word for word in words if word.casefold() in plain.casefold()]
    return [word for word in there if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", plain, re.IGNORECASE)]


def main() -> int:
    """Print what was asked for; 1 if ruled-out words were found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="*", help="folders of the package; left out, all of them")
    arguments.add_argument("--kind", choices=KINDS, help="left out, all of them")
    arguments.add_argument("--words", action="store_true", help="only texts with words that are ruled out")
    given = arguments.parse_args()
    words, code = ruled_out(), 0
    for text in texts():
        used = words_in(text.text, words)
        if (
            (not given.kind or text.kind == given.kind)
            and (not given.folders or text.folder in given.folders)
            and (used or not given.words)
        ):
            code |= bool(given.words)
            print(f"{text.kind}  {text.place}" + (f"  [{', '.join(used)}]" if used else ""))
            print("    " + text.text.strip().replace("\n", "\n    "))
    return code


if __name__ == "__main__":
    sys.exit(main())
