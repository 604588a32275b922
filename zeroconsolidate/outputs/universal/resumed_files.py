"""What lies beside a checkpoint -> which program saved it, and the files and names with which it resumes.

- The Trainer asks for a folder `global_step*`, and reads trainer_state.json, scheduler.pt and rng_state_RANK.pth
  (`_prepare_for_training`, `_load_rng_state` in transformers `trainer.py`).
- accelerate asks DeepSpeed for the tag `pytorch_model`, and reads random_states_RANK.pkl, schedulers, samplers and
  custom_checkpoint_*.pkl (`load_state` in accelerate `accelerator.py`, `load_accelerator_state` in `checkpointing.py`).
- Lightning asks for a folder `checkpoint`; all that it keeps is client state, in the model file
  (`_validate_checkpoint_directory` in lightning `fabric/strategies/deepspeed.py`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...archive.names import file_name, parse
from ...archive.phrases import counted
from ...archive.regular import Fence, opened, read_errors, scan
from ...errors import BadOption, at, reason
from ..assets import is_tag_itself

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...catalog.facts import Catalog

_N = r"(?:0|[1-9][0-9]{0,6})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that trains with DeepSpeed, and keeps files of its own beside the tag."""

    name: str
    files: re.Pattern[str]
    """Names of what it reads when it resumes."""
    random_states: re.Pattern[str]
    """Names of those that are one rank's."""
    resume: str
    """The line of Python that resumes; `{path}` is the directory, quoted."""


TRAINER = Program(
    name="the Trainer",
    files=re.compile(r"trainer_state\.json|training_args\.bin|scheduler\.pt"),
    random_states=re.compile(rf"rng_state(?:_{_N})?\.pth"),
    resume="trainer.train(resume_from_checkpoint={path})",
)
ACCELERATE = Program(
    name="accelerate",
    files=re.compile(rf"(?:scheduler|sampler|dl_state_dict)(?:_{_N})?\.bin|custom_checkpoint_{_N}\.pkl"),
    random_states=re.compile(rf"random_states_{_N}\.pkl"),
    resume="accelerator.load_state({path})",
)
_MODEL_OF_ACCELERATE = re.compile(r"pytorch_model(?:_[0-9]{1,6})?")
_TAG_OF_LIGHTNING = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a program keeps beside the tag."""

    program: Program | None
    files: dict[str, str]
    """Name -> path."""
    notes: tuple[str, ...]


def tag_of_copy(tag: str) -> str:
    """The name of the folder that holds the universal checkpoint of `tag`: one that its program finds.

    >>> tag_of_copy("global_step500"), tag_of_copy("pytorch_model"), tag_of_copy("checkpoint")
    ('global_step500_universal', 'pytorch_model', 'checkpoint')
    """
    is_fixed = tag == _TAG_OF_LIGHTNING or _MODEL_OF_ACCELERATE.fullmatch(tag)
    return tag if is_fixed else f"{tag}_universal"


def files_beside(catalog: Catalog) -> Beside:
    """The files with which the program that saved the checkpoint resumes. If several directories have one, the first's.

    Raises UnsafePath for a link out of its directory and for what is no regular file, DamagedFile for a file that
    cannot be read, BadOption for a directory that cannot be listed.
    """
    found: dict[str, str] = {}
    program = None
    for root in _roots(catalog):
        entries = _entries(root)
        program = program or _program(catalog.origin.tag, entries)
        if program is not None:
            fence = Fence(root)
            for name in entries:
                if program.files.fullmatch(name) or program.random_states.fullmatch(name):
                    path = os.path.join(root, name)
                    with at(name), read_errors():
                        fence.check(path)
                        opened(path).close()
                    found.setdefault(name, path)
    return Beside(program=program, files=found, notes=tuple(_notes(program, found)))


def _program(tag: str, entries: list[str]) -> Program | None:
    if "trainer_state.json" in entries:
        return TRAINER
    if _MODEL_OF_ACCELERATE.fullmatch(tag) and any(map(ACCELERATE.random_states.fullmatch, entries)):
        return ACCELERATE
    return None


def _roots(catalog: Catalog) -> list[str]:
    """The directories that hold the tag's folder. A tag that was moved out of its checkpoint lies in none."""
    if is_tag_itself(catalog.origin):
        return []
    inside = (os.path.dirname(path) for path in catalog.files if parse(file_name(path)))
    return list(dict.fromkeys([catalog.origin.root, *(os.path.dirname(tag) or "." for tag in inside)]))


def _entries(root: str) -> list[str]:
    try:
        return sorted(entry.name for entry in scan(root))
    except OSError as error:
        raise BadOption(f"the directory cannot be read: {reason(error)}", address=(root,)) from None


def _notes(program: Program | None, found: dict[str, str]) -> Iterator[str]:
    if program is None:
        return
    ranks = sum(program.random_states.fullmatch(name) is not None for name in found)
    yield f"{counted(len(found), 'file')} with which {program.name} resumes: copied as well"
    if ranks:
        yield (
            f"random states of {counted(ranks, 'rank')}: resumed on another number of ranks, {program.name} leaves "
            "those that have none as the program has seeded them"
        )
