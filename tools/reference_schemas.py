"""Makes docs/schemas/output-*.json: JSON schemas of what `--json` prints, from the dataclasses that are printed.

Run by tools/reference.py, which writes them. The schemas of `zeroconsolidate.json` and of the journal are written by
hand: these files are made of dicts.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field, fields
from typing import Any

from reference_json import PARTS, documented, plain

from zeroconsolidate.answers.agreement import AnswersComparison
from zeroconsolidate.audit.comparison import ModelComparison
from zeroconsolidate.audit.findings import Verification
from zeroconsolidate.integrations.surroundings import Surroundings
from zeroconsolidate.opening.info import CheckpointInfo
from zeroconsolidate.opening.rescue_report import RescueReport
from zeroconsolidate.outputs.parts import PartReport
from zeroconsolidate.outputs.report import Report
from zeroconsolidate.plan.build import Cost
from zeroconsolidate.saves.facts import RunInfo
from zeroconsolidate.saves.pruning import Pruning
from zeroconsolidate.training.watching import Watched

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS: dict[str, type] = {
    "conversion": Report,
    "part": PartReport,
    "dry run": Cost,
    "checkpoint": CheckpointInfo,
    "run": RunInfo,
    "verification": Verification,
    "comparison": ModelComparison,
    "answers": AnswersComparison,
    "watched": Watched,
    "pruning": Pruning,
    "environment": Surroundings,
}
"""What an object says that it is -> what is printed."""

_TYPED = {kind: more for _, _, kind, more in PARTS}
"""Dataclass -> keys that are properties of it, with type and meaning in words."""
_CLASSES = {kind.__name__: kind for kind in _TYPED}
_SIMPLE: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {},
    "None": {"type": "null"},
}
_WORDS = {
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "text": {"type": "string"},
    "true or false": {"type": "boolean"},
    "object: text → number": {"type": "object", "additionalProperties": {"type": "number"}},
}


def schemas() -> dict[str, str]:
    """File name in docs/schemas/ -> its text, for every kind of output, and for `rescue-report.json`."""
    made = {"rescue-report.json": _of(RescueReport, "rescue-report.json", {})}
    for kind, what in KINDS.items():
        head = {"ok": {"type": "boolean", "description": "Whether the exit code is 0."}, "kind": {"const": kind}}
        made[f"output-{kind.replace(' ', '-')}.json"] = _of(what, f"what --json prints: {kind}", head)
    made["output-error.json"] = _error()
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in made.items()}


@dataclass
class _Definitions:
    """Dataclasses inside of the one that is described: each once, by name."""

    made: dict[str, dict[str, Any]] = field(default_factory=dict)

    def object(self, kind: type, head: dict[str, Any]) -> dict[str, Any]:
        """The schema of a dataclass, with `head` as its first keys."""
        described = {key: (plain(text)) for key, _, text in documented(kind)}
        properties = dict(head)
        for each in fields(kind):
            annotation = ast.parse(str(each.type)).body[0].value  # type: ignore[attr-defined]
            properties[each.name] = self.value(annotation) | {"description": described[each.name]}
        for key, (words, text) in _TYPED.get(kind, {}).items():
            properties.setdefault(key, _WORDS[words] | {"description": text})
        return {"type": "object", "properties": properties, "required": list(properties)}

    def value(self, annotation: ast.expr) -> dict[str, Any]:
        """The schema of a type as it is annotated."""
        match annotation:
            case ast.BinOp(left=left, right=right):
                return {"anyOf": [self.value(left), self.value(right)]}
            case ast.Constant(value=None):
                return _SIMPLE["None"]
            case ast.Name(id=name) if name in _SIMPLE:
                return _SIMPLE[name]
            case ast.Name(id=name):
                if name not in self.made:
                    self.made[name] = {}
                    self.made[name] = self.object(_CLASSES[name], {})
                return {"$ref": f"#/$defs/{name}"}
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[each, ast.Constant()])):
                return {"type": "array", "items": self.value(each)}
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=several)):
                return {"type": "array", "prefixItems": [self.value(each) for each in several], "items": False}
            case ast.Subscript(slice=ast.Tuple(elts=[_, value])):
                return {"type": "object", "additionalProperties": self.value(value)}
        raise TypeError(ast.unparse(annotation))


def _of(kind: type, title: str, head: dict[str, Any]) -> dict[str, Any]:
    definitions = _Definitions()
    made = definitions.object(kind, head)
    return {"$schema": DIALECT, "title": title, **made} | ({"$defs": definitions.made} if definitions.made else {})


def _error() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    texts = {"type": "array", "items": {"type": "string"}}
    parts = {
        "kind": {"type": "string", "description": "The class, such as `MissingFiles`."},
        "message": {"type": "string", "description": "What is wrong."},
        "expected": text | {"description": "What should be there."},
        "found": text | {"description": "What is there."},
        "consequence": text | {"description": "What follows from it."},
        "remedy": text | {"description": "What to do."},
        "address": texts | {"description": "Where: file, rank, tensor."},
        "files": texts | {"description": "Files that are missing or cannot be used."},
        "exit_code": {"type": "integer"},
    }
    error = {"type": "object", "properties": parts, "required": list(parts)}
    properties = {"ok": {"const": False}, "kind": {"const": "error"}, "error": error}
    title = "what --json prints: error"
    return {
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
