"""Fields of config.json against the weights: the rules that set them, and which of them disagree.

Takes the text of a config.json and rules `FIELD=VALUE`, or a comparison of names and shapes that does not fit. Gives
the edited text, or the rules that would make it fit.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from ..archive.model_config import parse
from ..errors import BadOption, DamagedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..catalog.facts import Shape
    from .expectation import Naming

Path: TypeAlias = "tuple[str, ...]"
"""A field, and the fields that it is in, outermost first."""

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers")
"""What architectures call their number of layers."""
_NUMBERED = re.compile(r"^(.*?\.)?([0-9]+)\.")
_LABELS = ("id2label", "label2id")
_MOST_CANDIDATES = 4
"""Each costs a question to transformers."""


def with_fields(text: bytes, rules: Sequence[str]) -> bytes:
    """config.json with the fields of `rules` set, each `FIELD=VALUE` or `OUTER.FIELD=VALUE`.

    VALUE is JSON; what is none is a string. Labels of another number than `num_labels` go. Without rules not a byte
    changes. Raises BadOption for a rule that cannot be followed, DamagedFile if `text` is not JSON.

    >>> with_fields(b'{"vocab_size": 64, "text_config": {"n": 1}}', ["vocab_size=70", "text_config.n=2"])
    b'{\\n  "vocab_size": 70,\\n  "text_config": {\\n    "n": 2\\n  }\\n}\\n'
    """
    if not rules:
        return text
    parse(text)
    try:
        config = json.loads(text)
    except ValueError as error:  # a number of thousands of digits
        raise DamagedFile(f"config.json cannot be edited: {error}") from None
    if not isinstance(config, dict):
        raise BadOption("config.json is not a JSON object, so it has no fields to set")
    for rule in rules:
        path, value = _parsed(rule)
        _set(config, path, value)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _parsed(rule: str) -> tuple[Path, Any]:
    field, equals, written = rule.partition("=")
    path = tuple(field.split("."))
    if not equals or not all(path):
        raise BadOption(
            "a field of config.json is set by FIELD=VALUE", expected="vocab_size=70, for example", found=rule
        )
    try:
        return path, json.loads(written)
    except (ValueError, RecursionError):
        return path, written


def _set(config: dict[str, Any], path: Path, value: Any) -> None:
    holder = config
    for part in path[:-1]:
        if not isinstance(holder.get(part), dict):
            raise BadOption(f"config.json has no {part!r} with fields in it", found=f"--set-config {'.'.join(path)}")
        holder = holder[part]
    name = path[-1]
    if name not in holder and (near := _nearest(name, holder)):
        raise BadOption(f"config.json has no field {name!r}", remedy=f"did you mean {near!r}?")
    holder[name] = value
    if name == "num_labels":
        for labels in _LABELS:
            if isinstance(holder.get(labels), dict) and len(holder[labels]) != value:
                del holder[labels]


def _nearest(name: str, known: Mapping[str, object]) -> str | None:
    from difflib import get_close_matches  # which only who mistypes waits for

    return next(iter(get_close_matches(name, known, n=1, cutoff=0.8)), None)


def rules_to_try(config: Any, naming: Naming, stored: Mapping[str, Shape]) -> Iterator[tuple[str, ...]]:
    """Rules under which the expected names and shapes may be those of the weights, likeliest first.

    A field is a candidate if it has the size that was expected where the weights have another one, or the number of
    layers that were expected. `stored`: stored name -> shape.
    """
    if naming.expectation is None or not isinstance(config, dict):
        return
    shapes = {new: stored[name] for name, new in naming.mapping.items() if name in stored}
    sizes = _sizes(naming, shapes)
    if sizes is None or len(sizes) > 2:
        return
    of_layers = _of_layers(config, naming, shapes)
    choices: list[list[str]] = [
        _of_labels(naming, now) + [f"{'.'.join(path)}={now}" for path in _with_value(config, before)]
        for before, now in sizes
    ]
    choices += [of_layers] if of_layers else []
    if not choices or not all(choices):
        return
    combined: list[tuple[str, ...]] = [()]
    for several in choices:
        combined = [(*chosen, one) for chosen in combined for one in several]
    yield from combined[:_MOST_CANDIDATES]


def _sizes(naming: Naming, shapes: Mapping[str, Shape]) -> list[tuple[int, int]] | None:
    """(expected, found) of every dimension that differs; None if numbers of dimensions do."""
    expected = naming.expectation.shapes if naming.expectation else {}
    found: dict[tuple[int, int], None] = {}
    for name in filter(shapes.__contains__, naming.mismatched):  # an alias has its owner's
        wanted = expected[name] or ()
        if len(wanted) != len(shapes[name]):
            return None
        found |= {(e, s): None for e, s in zip(wanted, shapes[name], strict=True) if e != s}
    return list(found)


def _of_layers(config: Mapping[str, Any], naming: Naming, shapes: Mapping[str, Shape]) -> list[str]:
    """Rules for the number of layers, if what is missing or unknown are the last layers of one tower, and no more."""
    wrong = [_NUMBERED.match(name) for name in (*naming.missing, *naming.unexpected)]
    towers = {match[1] for match in wrong if match}
    if None in wrong or len(towers) != 1 or naming.expectation is None:
        return []
    tower = towers.pop() or ""
    before, now = _depth(naming.expectation.shapes, tower), _depth(shapes, tower)
    if before == now or min(int(match[2]) for match in wrong if match) < min(before, now):
        return []
    return [f"{'.'.join(path)}={now}" for path in _with_value(config, before) if path[-1] in LAYERS]


def _depth(names: Mapping[str, object], tower: str) -> int:
    """How many layers the tower has: one more than the highest number."""
    found = [match for match in map(_NUMBERED.match, names) if match and (match[1] or "") == tower]
    return max((int(match[2]) + 1 for match in found), default=0)


def _of_labels(naming: Naming, now: int) -> list[str]:
    """The number of labels stands nowhere in a config that has the default of two, or that lists them by name."""
    heads = (".score.", ".classifier.", ".qa_outputs.")
    is_head = all(any(head in f".{name}" for head in heads) for name in naming.mismatched)
    return [f"num_labels={now}"] if is_head else []


def _with_value(config: Mapping[str, Any], value: int) -> list[Path]:
    """The fields that have this value: `vocab_size` first, those of sub-configs last."""
    found = [path for path, held in _leaves(config, ()) if held == str(value)]
    return sorted(found, key=lambda path: (path[-1] != "vocab_size", path[-1] not in LAYERS, len(path)))


def _leaves(config: Mapping[str, Any], at: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and len(at) < 2:
            yield from _leaves(value, (*at, key))
        elif isinstance(value, str) and not isinstance(key, int) and "." not in key:
            yield (*at, key), value
