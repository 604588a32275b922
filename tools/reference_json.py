"""Makes docs/reference-json.md: every key that `--json` prints, from the dataclasses that are printed.

Run by tools/reference.py, which writes it.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields

from zeroconsolidate.answers.agreement import AnswersComparison, TextAgreement
from zeroconsolidate.audit.comparison import ComparedSide, ComparedTensor, ModelComparison
from zeroconsolidate.audit.figures import Figures
from zeroconsolidate.audit.findings import Verification
from zeroconsolidate.integrations.surroundings import Surroundings
from zeroconsolidate.naming.several import Part
from zeroconsolidate.opening.info import CheckpointInfo, TensorInfo
from zeroconsolidate.opening.losses import Loss
from zeroconsolidate.opening.rescue_report import Extent, RescuedState, RescueReport
from zeroconsolidate.opening.resume import Resume
from zeroconsolidate.outputs.parts import PartReport
from zeroconsolidate.outputs.report import Report
from zeroconsolidate.plan.build import Cost
from zeroconsolidate.saves.facts import RunInfo, SaveInfo
from zeroconsolidate.saves.pruning import PrunedSave, Pruning
from zeroconsolidate.training.watching import Watched

HEAD = """\
# Fields of `--json`

With `--json` each command prints one JSON object on stdout, in one line. It has the fields below, and two more: `ok`
says whether the exit code is 0, and `kind` says what the object is: `conversion`, `dry run`, `part`, `checkpoint`,
`run`, `verification`, `comparison`, `answers`, `watched`, `pruning`, `environment` or `error`. In Python the fields are
attributes of what the functions return, and `to_dict()` gives them all. Warnings go to stderr.

An error is printed twice: as a sentence on stderr, for people, and as this object on stdout, which has one object
however the command ends. It has one field, `error`, with an object in it: `kind` (the class, such as `MissingFiles`),
`message`, `expected`, `found`, `consequence`, `remedy` (what to do; null where there is nothing), `address` (a list:
file, rank, tensor), `files` (those that are missing) and `exit_code`.

Keys change only where they must, and the [changelog](../CHANGELOG.md) says so. New ones may be added. Sizes are bytes
and counts are elements, unless a line says otherwise. Written by `python tools/reference.py` from the code.
"""

RATE = "Gigabytes (10^9 bytes) per second."
PARTS: tuple[tuple[str, str, type, dict[str, tuple[str, str]]], ...] = (
    ("`convert --json`", "Python: `consolidate`.", Report, {"gb_per_second": ("number", RATE)}),
    ("`convert --dry-run --json`", "Python: `estimate`.", Cost, {}),
    ("`inspect --json`", "Python: `inspect`.", CheckpointInfo, {}),
    ("An entry of `tensors`", "Of `inspect`.", TensorInfo, {}),
    ("`inspect RUN_DIR --json`", "The `kind` is `run`. Python: `inspect_run`.", RunInfo, {}),
    (
        "An entry of `saves`",
        "Of `inspect RUN_DIR`.",
        SaveInfo,
        {"use": ("text", "What it is good for: `resume`, `weights` or `nothing`.")},
    ),
    ("`resume`", "Of `inspect`.", Resume, {"text": ("text", "The answer in one line.")}),
    (
        "`convert --part --json`",
        "The `kind` is `part`. Python: `consolidate_part`.",
        PartReport,
        {},
    ),
    ("An entry of `modules`", "Of `inspect`, where a checkpoint has several models or towers.", Part, {}),
    ("An entry of `losses`", "Of `inspect`, where files are missing.", Loss, {}),
    (
        "`verify --json`",
        "Python: `verify` and `verify_source`.",
        Verification,
        {
            "ok": ("true or false", "Whether no problem was found."),
            "gb_per_second": ("number", RATE),
        },
    ),
    (
        "`compare --json`",
        "Python: `compare`.",
        ModelComparison,
        {
            "equal": (
                "true or false",
                "Whether both have the same tensors, and none differs by more than `tolerance`.",
            ),
            "gb_per_second": ("number", RATE),
        },
    ),
    ("`a` and `b`", "Of `compare`.", ComparedSide, {}),
    ("An entry of `tensors` of `compare`", "A tensor that both have.", ComparedTensor, {}),
    ("`compare --answers --json`", "The `kind` is `answers`. Python: `compare_answers`.", AnswersComparison, {}),
    ("An entry of `texts`", "Of `compare --answers`.", TextAgreement, {}),
    ("Figures of `compare`", "Of a tensor, a kind, a layer, or the `whole`.", Figures, {}),
    (
        "`watch --json`",
        "A line for each save. The `kind` is `watched`. Python: `watch`.",
        Watched,
        {},
    ),
    (
        "`prune --json`",
        "Python: `prune`.",
        Pruning,
        {"freed_bytes": ("integer", "The space that is freed.")},
    ),
    ("An entry of `saves` of `prune`", "What happens to one save.", PrunedSave, {}),
    ("`env --json`", "The `kind` is `environment`.", Surroundings, {}),
    (
        "`rescue-report.json`",
        "The file that `--rescue` writes next to the weights. The report of the command has the same as `rescue`.",
        RescueReport,
        {"percent": ("object: text → number", "Share of all elements in percent, by source.")},
    ),
    ("An entry of `states` in `rescue-report.json`", "One for each state of the optimizer.", RescuedState, {}),
    ("An entry of `tensors` in `rescue-report.json`", "A list of these for each tensor.", Extent, {}),
)

_WORDS = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "object": "value",
    "None": "null",
    "TensorInfo": "tensor",
    "Loss": "loss",
    "ComparedSide": "side",
    "ComparedTensor": "tensor",
    "Figures": "figures",
    "TextAgreement": "text agreement",
    "Part": "module",
    "Extent": "extent",
    "RescuedState": "state",
    "RescueReport": "rescue report",
    "Resume": "resume",
    "SaveInfo": "save",
    "Report": "report of `convert`",
    "PrunedSave": "save",
}


def page() -> str:
    """docs/reference-json.md as it should be."""
    parts = [HEAD]
    for title, sentence, kind, more in PARTS:
        rows = [*documented(kind), *((key, *described) for key, described in more.items())]
        table = "\n".join(f"| `{key}` | {what} | {plain(text)} |" for key, what, text in rows)
        parts.append(f"## {title}\n\n{sentence}\n\n| key | value | |\n|---|---|---|\n{table}\n")
    return "\n".join(parts)


def plain(docstring: str) -> str:
    """A docstring as a cell of a table, in the words of JSON."""
    return " ".join(docstring.split()).replace("None", "null").replace(":class:", "")


def documented(kind: type) -> list[tuple[str, str, str]]:
    """(name, type in words, description) of each field, from the section `Attributes` of the docstring (numpydoc)."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes\n----------\n")
    found = dict(re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", section.partition("\n\n")[0], re.MULTILINE))
    return [(each.name, _in_words(ast.parse(str(each.type)).body[0].value), found[each.name]) for each in fields(kind)]  # type: ignore[attr-defined]


def _in_words(annotation: ast.expr) -> str:
    """A type as a reader of JSON would call it."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return f"{_in_words(left)} or {_in_words(right)}"
        case ast.Constant(value=None):
            return "null"
        case ast.Name(id=name):
            return _WORDS[name]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[each, ast.Constant()])):
            return f"list of {_in_words(each)}"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=several)):
            return f"list ({', '.join(map(_in_words, several))})"
        case ast.Subscript(slice=ast.Tuple(elts=[key, value])):
            return f"object: {_in_words(key)} → {_in_words(value)}"
    raise TypeError(ast.unparse(annotation))
