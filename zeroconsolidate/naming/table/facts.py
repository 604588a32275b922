"""What a config.json says, in the words of the table; nothing, if it says something the table was not proven with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .expression import UNDECIDED, evaluate
from .kinds import accepts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kinds import Kind

NUM_LABELS = "num_labels"
_LABELS = "id2label"


def facts_of(config: Mapping[str, Any], variant: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any] | None:
    """The value of every field; None if the table was not tested with such a config.

    `variant` is an entry of the table:

    - `fields`: what values each key can have, and its default. A key can also be another name of a second key, or
      hold a config of its own.
    - `requires`: conditions that the values must meet together.
    - `derived`: the values that classes compute where the config has null.
    - `labels`: the number of labels if the config does not say it.

    `common` has the keys that no model's names depend on, and the kinds of values that several entries use.
    """
    found: dict[str, Any] = {}
    if not _gathered(config, variant["fields"], common["fields"], common["kinds"], "", found):
        return None
    labels = _labels(config, variant["labels"])
    if labels is None:
        return None
    found[NUM_LABELS] = labels
    try:
        for name, text in variant["derived"].items():
            found[name] = evaluate(text, found)
        return found if all(evaluate(condition, found) for condition in variant["requires"]) else None
    except UNDECIDED:
        return None


def _gathered(
    config: Mapping[str, Any],
    fields: Mapping[str, Any],
    harmless: Mapping[str, Kind],
    kinds: Mapping[str, Kind],
    prefix: str,
    found: dict[str, Any],
) -> bool:
    """Put the values of `config` and the defaults of what it leaves out into `found`; false if any is unknown."""
    for said, value in config.items():
        key, declared = said, fields.get(said)
        if isinstance(declared, str):
            if declared in config:
                if config[declared] != value:
                    return False  # which of the two counts depends on which comes first
                continue
            key, declared = declared, fields[declared]
        if isinstance(declared, dict):
            if not isinstance(value, dict) or not _gathered(value, declared, harmless, kinds, f"{prefix}{key}.", found):
                return False
        elif declared is not None:
            if not accepts(declared[0], value, kinds):
                return False
            found[prefix + key] = value
        elif key not in harmless or not accepts(harmless[key], value, kinds):
            return False
    for key, declared in fields.items():
        if key in config or prefix + key in found or isinstance(declared, str):
            continue
        if isinstance(declared, dict):
            return False
        if len(declared) > 1:
            found[prefix + key] = declared[1]
    return True


def _labels(config: Mapping[str, Any], default: int) -> int | None:
    """How many labels a classifier has, which a config may say in two ways."""
    labels, number = config.get(_LABELS), config.get(NUM_LABELS)
    if labels is None:
        return default if number is None else number
    return len(labels) if labels and number in (None, len(labels)) else None
