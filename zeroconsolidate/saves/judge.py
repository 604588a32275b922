"""The names and sizes of a save's files, and what its metadata says -> what is missing from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..archive.model_files import is_weights
from ..archive.names import FileKind, parse
from ..catalog.agree import MISSING, of_rank
from .facts import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .facts import Examined, Listing

_TRAINER_STATE = "trainer_state.json"
_TRAINERS_OWN = (_TRAINER_STATE, "training_args.bin")
_NUMBERED = re.compile(r"step[=_-]?([0-9]+)|([0-9]+)(?:\.ckpt)?$")


def number_of(name: str) -> int | None:
    """The number by which a save is called.

    >>> number_of("checkpoint-500"), number_of("epoch=1-step=40.ckpt"), number_of("last.ckpt")
    (500, 40, None)
    """
    match = _NUMBERED.search(name)
    return int(match[1] or match[2]) if match else None


def is_a_step(name: str) -> bool:
    """Whether a folder is called as trainers call saves of one training. Folders beside each other with other names may
    be of several trainings.

    >>> [is_a_step(name) for name in ("checkpoint-500", "global_step7", "epoch=1-step=40.ckpt", "500", "run2")]
    [True, True, True, True, False]
    """
    return name.isdecimal() or _STEP.search(name) is not None


_STEP = re.compile(r"(?:^|[^a-z])(?:checkpoint|ckpt|steps?|epoch|iter|iteration)[=_-]?[0-9]+")


def writer_of(listing: Listing, examined: Examined | None) -> Writer:
    """What saved it, by the files that only that writes."""
    if any(name in listing.beside for name in _TRAINERS_OWN) or re.fullmatch(r"(tmp-)?checkpoint-[0-9]+", listing.name):
        return Writer.TRAINER
    if re.fullmatch(r"pytorch_model(_[0-9]+)?", listing.tag or "") or _random_states(listing):
        return Writer.ACCELERATE
    if examined.is_lightning if examined else listing.name.endswith(".ckpt"):
        return Writer.LIGHTNING
    return Writer.DEEPSPEED


def sizes(listing: Listing) -> tuple[int, int]:
    """Bytes of DeepSpeed's model files, and of its optimizer files."""
    model = optimizer = 0
    for name, size_bytes in listing.states.items():
        parsed = parse(name)
        if parsed is not None and parsed[0] in _OPTIMIZERS:
            optimizer += size_bytes
        else:
            model += size_bytes
    return model, optimizer


_OPTIMIZERS = (FileKind.OPTIMIZER, FileKind.EXPERT_OPTIMIZER)


def is_optimizer(name: str) -> bool:
    """Whether a file of this name has the optimizer state, with the master weights, of a rank."""
    parsed = parse(name)
    return parsed is not None and parsed[0] in _OPTIMIZERS


def ranks_of(listing: Listing) -> int:
    """Data-parallel ranks, as far as the names of the files tell."""
    return 1 + max((parsed[1].dp_rank for parsed in map(parse, listing.states) if parsed), default=-1)


def missing_by_name(listing: Listing) -> dict[str, str]:
    """File of DeepSpeed -> why it cannot be used, as far as names and sizes tell."""
    missing = {name: "empty" for name, size_bytes in listing.states.items() if not size_bytes}
    if not listing.states:
        return {"the files of DeepSpeed": MISSING}
    kinds: dict[FileKind, dict[tuple[int, int], str]] = {}
    for name in listing.states:
        parsed = parse(name)
        if parsed is not None:
            kinds.setdefault(parsed[0], {})[parsed[1].mp_rank, parsed[1].dp_rank] = name
    by_rank = [kinds.get(kind, {}) for kind in (FileKind.OPTIMIZER, FileKind.PARTITIONED_MODEL)]
    expected = {
        (mp, dp)
        for mp in range(1 + max((mp for files in by_rank for mp, _ in files), default=-1))
        for dp in range(1 + max((dp for files in by_rank for _, dp in files), default=-1))
    }
    for files in filter(None, by_rank):
        example = next(iter(files.values()))
        missing |= {of_rank(example, dp, mp): MISSING for mp, dp in sorted(expected - files.keys())}
    if FileKind.PARTITIONED_MODEL in kinds and FileKind.OPTIMIZER not in kinds:
        missing["the optimizer files"] = MISSING
    if FileKind.PARTITIONED_MODEL not in kinds and FileKind.MODEL not in kinds:
        missing["the model files"] = MISSING
    return missing


def has_hub_weights(listing: Listing) -> bool:
    """Whether weights that a loader would take lie beside the tag. Under ZeRO-3 these may be empty: the smallest model
    takes more than their header."""
    return any(is_weights(name) and size_bytes > _EMPTY_BYTES for name, size_bytes in listing.beside.items())


_EMPTY_BYTES = 1 << 14


def lacking(
    listing: Listing, writer: Writer, examined: Examined | None, usual: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what a training needs to resume at all, what it needs to resume exactly) and is not there, beside DeepSpeed's
    files. `usual`: files that other saves of the run have beside the tag."""
    needed: list[str] = []
    exact: list[str] = []
    there = listing.beside
    if writer in (Writer.TRAINER, Writer.LIGHTNING) and listing.states and listing.latest != listing.tag:
        # Both have DeepSpeed look there for the tag.
        needed.append("latest" if listing.latest is None else f"latest names {listing.latest}, which is not there")
    ranks = (examined.ranks if examined else None) or ranks_of(listing)
    if writer is Writer.TRAINER:
        needed += [name for name in (_TRAINER_STATE,) if name not in there]
        # Without DeepSpeed's, the Trainer has a scheduler of its own.
        own_scheduler = not examined.has_scheduler if examined else "scheduler.pt" in usual
        needed += ["scheduler.pt"] if own_scheduler and "scheduler.pt" not in there else []
        wanted = [f"rng_state_{rank}.pth" for rank in range(ranks)] if ranks > 1 else ["rng_state.pth"]
        exact += _absent(wanted, there)
    elif writer is Writer.ACCELERATE:
        needed += [name for name in ("scheduler.bin",) if name in set(usual) and name not in there]
        exact += _absent([f"random_states_{rank}.pkl" for rank in range(ranks)], there)
    elif writer is Writer.LIGHTNING and examined is not None and not examined.is_lightning:
        needed.append("Lightning's state")
    return tuple(needed), tuple(exact)


def _absent(wanted: list[str], there: Mapping[str, int]) -> list[str]:
    return [name for name in wanted if name not in there]


def _random_states(listing: Listing) -> bool:
    return any(re.fullmatch(r"random_states_[0-9]+\.pkl", name) for name in listing.beside)


def by_rank(name: str) -> tuple[int, int, str]:
    """A key that sorts DeepSpeed's files by rank, as numbers."""
    parsed = parse(name)
    return (parsed[1].dp_rank, parsed[1].mp_rank, name) if parsed else (-1, -1, name)
