"""What the table says of a config.json: names in memory, names in files, and the way from the one to the other."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..expectation import Expectation
from ..hub_layout import Architecture, Conversion
from .expand import Listing
from .expression import UNDECIDED
from .facts import NUM_LABELS, facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...catalog.facts import Shape

ENTRIES = os.path.join(os.path.dirname(__file__), "entries")
COMMON = "_common"
_MODEL_TYPE = re.compile(r"[a-z0-9][\w-]{0,63}", re.ASCII)
"""It comes from outside, and names a file."""


def looked_up(config: object, *, entries: str = ENTRIES) -> Architecture | None:
    """The architecture of a parsed config.json, None if the table does not know."""
    if not isinstance(config, dict):
        return None
    entry, classes = _entry(entries, config.get("model_type")), config.get("architectures")
    if entry is None or not isinstance(classes, list) or len(classes) != 1:
        return None
    for variant in entry["variants"]:
        if classes[0] in variant["classes"]:
            facts = facts_of(config, variant, _common(entries))
            if facts is not None:
                return answered(classes[0], variant["classes"], facts, entry["transformers"][-1])
    return None


def differing(config: object, *, entries: str = ENTRIES) -> tuple[str, ...]:
    """The major versions of transformers that are known to say something else of the class of such a config."""
    if not isinstance(config, dict):
        return ()
    entry, classes = _entry(entries, config.get("model_type")), config.get("architectures")
    by_major = {} if entry is None else entry.get("differs", {})
    named = classes if isinstance(classes, list) else []
    return tuple(major for major, names in by_major.items() if any(name in names for name in named))


def _entry(entries: str, model_type: object) -> Any:
    """The file of a model type, None if there is none."""
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        return None
    return _read(os.path.join(entries, f"{model_type}.json"))


def _common(entries: str) -> Any:
    return _read(os.path.join(entries, f"{COMMON}.json"))


@lru_cache(maxsize=64)
def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def answered(name: str, classes: Mapping[str, Any], facts: Mapping[str, Any], version: str) -> Architecture | None:
    """What `classes` say of the class `name` for these facts; `version`: of the transformers they were made with."""
    listing = Listing(classes, facts)
    origin = f"{name} (transformers {version}, built-in table)"
    converts = bool(classes[name].get("hub"))
    try:
        names = dict(_shapes(listing, name, "names"))
        ties = dict(_ties(listing, name, "ties"))
        hub = dict(_shapes(listing, name, "hub")) if converts else names
        hub_ties = dict(_ties(listing, name, "hub_ties")) if converts else ties
        conversions = tuple(_conversions(listing, name)) if converts else ()
    except UNDECIDED:
        return None
    return Architecture(
        class_name=name,
        labels=facts[NUM_LABELS],
        expectation=Expectation(origin=origin, shapes=names, ties=ties, exact=True),
        hub=Expectation(origin=f"{origin}, in the hub's layout", shapes=hub, ties=hub_ties, exact=True, layout="hub"),
        conversions=conversions,
    )


def _shapes(listing: Listing, name: str, which: str) -> Iterator[tuple[str, Shape]]:
    for entry, said, _ in listing.entries(name, which):
        yield entry, _shape(listing, said)


def _shape(listing: Listing, said: list[Any]) -> Shape:
    shape = tuple(listing.value(size) for size in said)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a size in the configuration is not a positive integer")
    return shape


def _ties(listing: Listing, name: str, which: str) -> Iterator[tuple[str, str]]:
    for entry, (kept,), base in listing.entries(name, which):
        yield entry, base + listing.named(kept)


def _conversions(listing: Listing, name: str) -> Iterator[Conversion]:
    """Of each entry: shape, inputs, elements in a row, runs (which input, first row, rows)."""
    for entry, (shape, inputs, row_numel, runs), base in listing.entries(name, "conversions"):
        yield Conversion(
            output=entry,
            shape=_shape(listing, shape),
            inputs=tuple(base + listing.named(each) for each in inputs),
            row_numel=listing.value(row_numel),
            runs=tuple((each, listing.value(first), listing.value(count)) for each, first, count in runs),
            opaque=False,
        )
