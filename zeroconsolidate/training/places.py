"""Where the model of each save is written, and the record of which save it was made of."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..archive.regular import scan
from ..errors import BadOption, ZeroConsolidateError
from ..saves.converted import MODELS, made_of
from ..saves.judge import number_of
from ..saves.removal import hide_and_remove
from ..write.system import system_errors

if TYPE_CHECKING:
    from ..saves.facts import Listing

RECORDS = ".zeroconsolidate-saves"
"""A folder beside the models, with a record of each."""
_PLACEHOLDER = re.compile(r"\{(?:run|name|step)\}")


def checked(pattern: str | None) -> str:
    """The pattern for the directories of models. Raises BadOption if it gives all saves the same one."""
    pattern = MODELS if pattern is None else pattern
    if "{name}" not in pattern and "{step}" not in pattern:
        raise BadOption(
            f"all models would be written to {pattern}", expected="{name} or {step} in it, such as models/{name}"
        )
    return pattern


def output_of(pattern: str, listing: Listing) -> str:
    """The directory for the model of a save."""
    number = number_of(listing.name)
    values = {
        "{run}": run_of(listing),
        "{name}": listing.name,
        "{step}": listing.name if number is None else str(number),
    }
    # At once: a run or a save may have a placeholder in its own name.
    return os.path.normpath(_PLACEHOLDER.sub(lambda found: values[found[0]], pattern))


def refuse_second(output: str, name: str, first: str) -> None:
    """Raise BadOption if the model of one save would replace that of another, which is called `first`."""
    if first != name:
        raise BadOption(
            f"the model of {name} would replace that of {first}, in {output}",
            expected="a directory for each save",
            remedy="{name} in place of {step}",
        )


def run_of(listing: Listing) -> str:
    """The run directory that a save lies in."""
    path = listing.paths[0]
    if listing.is_tag:
        return path
    return os.path.dirname(path) or "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of the model of one save. Signatures say whether the save is still the same."""

    begun: str | None
    """Of the save of which a conversion was begun."""
    made: str | None
    """Of the save of which the model was made."""


_NOTHING = Record(begun=None, made=None)


def signature_of(listing: Listing) -> str:
    """A short text that changes when something writes to the save."""
    return hashlib.sha256(repr(listing.signature).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def record_of(output: str) -> Record:
    """The record of a model; an empty one if there is none that can be read."""
    try:
        found = read_json(_path(output))
    except ZeroConsolidateError:
        return _NOTHING
    begun, made = found.get("begun"), found.get("made")
    return Record(begun=begun if isinstance(begun, str) else None, made=made if isinstance(made, str) else None)


def note(output: str, *, begun: str | None = None, made: str | None = None) -> None:
    """Add to the record of a model. Raises OutputFailed."""
    record = record_of(output)
    record = replace(record, begun=begun or record.begun, made=made or record.made)
    path = _path(output)
    with system_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        staged = f"{path}.{os.getpid()}"
        with open(staged, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
        os.replace(staged, path)


def is_made(output: str, listing: Listing) -> bool:
    """Whether the model of a save was made, and the save has not changed since; also if it was removed since."""
    record = record_of(output)
    if record.begun is not None:
        return record.made == signature_of(listing)
    source = made_of(output)  # made by hand
    return source is not None and source[0] == (listing.tag or listing.name)


def forget_old(output: str, keep: int) -> list[str]:
    """Remove all but the newest `keep` models that were made beside `output`, and never that. Raises OutputFailed.

    Only models with a record of ours are removed, and the record stays: it says that they were made.
    """
    parent = os.path.dirname(output) or "."
    models = []
    with system_errors(parent):
        for entry in scan(os.path.join(parent, RECORDS)):
            name, extension = os.path.splitext(entry.name)
            model = os.path.join(parent, name)
            if extension == ".json" and record_of(model).made and made_of(model) is not None:
                models.append(model)
    models.sort(key=lambda model: (model == output, number_of(os.path.basename(model)) or -1, model))
    removed = models[:-keep]
    for model in removed:
        hide_and_remove(model)
    return removed


def _path(output: str) -> str:
    parent, name = os.path.split(output)
    return os.path.join(parent, RECORDS, f"{name}.json")
