"""The facts of all ranks' files -> an error if they are not of one save."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..archive.names import FileKind, file_name
from ..archive.phrases import counted
from ..errors import Disagreement, MissingFiles, at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..archive.raw import CheckpointFiles
    from .model_file import ModelFile
    from .optimizer_file import OptimizerFile

T = TypeVar("T", "ModelFile", "OptimizerFile")

MISSING = "missing"
"""Why a file that is not there cannot be used."""
_RANK = re.compile(r"pp_rank_([0-9]+)")


@dataclass(frozen=True, slots=True)
class Grid:
    """How model-parallel ranks, which file names number through, divide into pipeline stages and tensor ranks."""

    pp: int
    tp: int

    @property
    def size(self) -> int:
        return self.pp * self.tp

    def stage(self, mp_rank: int) -> int:
        """Pipeline stages are the slower axis (`PipelineParallelGrid` in `deepspeed/runtime/pipe/topology.py`)."""
        return mp_rank // self.tp

    def tensor_rank(self, mp_rank: int) -> int:
        return mp_rank % self.tp


def grid_of(files: CheckpointFiles, first: ModelFile) -> Grid:
    """The grid that the first model file states (DeepSpeed >= 0.19.5), or that the layer files' names show.

    Raises MissingFiles if a model-parallel rank has no model file, Disagreement if the statements differ.
    """
    kind = FileKind.PARTITIONED_MODEL if files.of(FileKind.PARTITIONED_MODEL) else FileKind.MODEL
    found = sorted({name.mp_rank for name in files.of(kind)})
    if kind is FileKind.MODEL and len(found) < len(files.of(kind)):
        raise Disagreement(
            "a model-parallel rank has two files: one is left over from another save",
            expected="one of each",
            found=", ".join(name.name for name in files.of(kind)[:6]),
        )
    size = first.mp_world_size or len(found)
    missing = [mp_rank for mp_rank in range(size) if mp_rank not in found]
    if missing:
        names = tuple(f"mp_rank_{mp_rank:02d}_model_states.pt" for mp_rank in missing)
        raise MissingFiles(
            "model-parallel ranks have no model states",
            expected=f"those of {size}",
            consequence=f"missing {', '.join(names[:6])}",
            files=names,
        )
    if found[-1] >= size:
        raise Disagreement(
            "there are files of more model-parallel ranks than the save had",
            expected=size,
            found=f"rank {found[-1]}",
        )
    layers = files.of(FileKind.LAYER)
    stated = first.parallel.get("pp_degree")
    tp = len({layer.mp_rank for layer in layers})
    pp = stated if type(stated) is int and stated > 0 else (size // tp if layers else 1)
    grid = Grid(pp, size // max(pp, 1))
    if grid.size != size or (layers and tp != grid.tp):
        with at(file_name(first.file)):
            raise Disagreement(
                "the model-parallel ranks do not divide into pipeline stages",
                found=f"{size} ranks, {pp} stages" + (f", layer files of {tp} tensor-parallel ranks" if layers else ""),
            )
    return grid


def missing_ranks(files: CheckpointFiles, kind: FileKind, world_size: int, grid: Grid) -> list[str]:
    """The names of the files that `world_size` data-parallel ranks of a grid should have and do not have.

    Raises Disagreement if a rank has two files or there are more ranks.
    """
    by_rank: dict[tuple[int, int], str] = {}
    for name in files.of(kind):
        rank = (name.mp_rank, name.dp_rank)
        with at(name.name):
            if rank in by_rank:
                raise Disagreement(
                    f"rank {name.dp_rank} has two files",
                    expected="one",
                    found=f"{by_rank[rank]} as well",
                    consequence="one of them is left over from another save",
                )
            if name.dp_rank >= world_size or name.mp_rank >= grid.size:
                if name.mp_rank >= grid.size:
                    raise Disagreement(
                        "the file is left over from a save with more model-parallel ranks",
                        expected=grid.size,
                        found=f"rank {name.mp_rank}",
                    )
                raise Disagreement(
                    "the file is left over from a save with more ranks",
                    expected=f"ranks 0 to {world_size - 1} of {world_size}",
                    found=f"rank {name.dp_rank}",
                    remedy="move it away if that is so",
                )
        by_rank[rank] = name.name
    example = next(iter(by_rank.values()), None) or _usual_name(kind)
    return [
        of_rank(example, dp_rank, mp_rank)
        for mp_rank in range(grid.size)
        for dp_rank in range(world_size)
        if (mp_rank, dp_rank) not in by_rank
    ]


def are_missing(files: list[str], world_size: int) -> MissingFiles:
    """The error for files that are not there."""
    return MissingFiles(incomplete_ranks(dict.fromkeys(files, MISSING), world_size), files=tuple(files))


def incomplete_ranks(reasons: Mapping[str, str], world_size: int) -> str:
    """Which ranks lack a file, and why; a reason that several files share appears once. `reasons`: file -> why.

    >>> incomplete_ranks({"zero_pp_rank_2_mp_rank_00_optim_states.pt": MISSING}, 4)
    '1 of 4 ranks is incomplete: zero_pp_rank_2_mp_rank_00_optim_states.pt is missing'
    """
    ranks = sorted({int(match[1]) for name in reasons if (match := _RANK.search(name))})
    numbers = f" ({', '.join(map(str, ranks[:16]))}{', …' if len(ranks) > 16 else ''})" if len(ranks) > 1 else ""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason.partition(";")[0], []).append(name)
    clauses = [_clause(reason, names) for reason, names in list(by_reason.items())[:4]]
    verb = "is" if len(ranks) == 1 else "are"
    return f"{len(ranks)} of {counted(world_size, 'rank')} {verb} incomplete{numbers}: {'; '.join(clauses)}"


def _clause(reason: str, names: list[str]) -> str:
    """`a.pt is missing`, `a.pt and 3 more are missing`, `a.pt and b.pt: the file is empty`."""
    listed = " and ".join(names if len(names) < 3 else [names[0], f"{len(names) - 1} more"])
    if reason.startswith("the file ") and len(names) == 1:
        return f"{listed} {reason.removeprefix('the file ')}"
    if reason == MISSING or reason.startswith("from "):
        return f"{listed} {'is' if len(names) == 1 else 'are'} {reason}"
    return f"{listed}: {reason}"


def same(
    facts: list[T], what: str, value: Callable[[T], object], *, reference: tuple[str, object] | None = None
) -> None:
    """All ranks must state the same `value`, and that of `reference` (a file's name and its value) if given."""
    expected = reference or (file_name(facts[0].file), value(facts[0]))
    for fact in facts:
        got = value(fact)
        if got != expected[1] and got is not None and expected[1] is not None:
            with at(file_name(fact.file)):
                raise Disagreement(
                    f"the files belong to different saves: {what} differs",
                    expected=f"{_short(expected[1])} as in {expected[0]}",
                    found=_short(got),
                )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _usual_name(kind: FileKind) -> str:
    suffix = "optim" if kind is FileKind.OPTIMIZER else "model"
    return f"zero_pp_rank_0_mp_rank_00_{suffix}_states.pt"


def of_rank(name: str, dp_rank: int, mp_rank: int) -> str:
    """The name that the file of another rank has."""
    # What the fast writer adds is not the same for all ranks.
    plain = re.sub(r"\.pt-[0-9.]+$", ".pt", name)
    return re.sub(r"pp_rank_[0-9]+_mp_rank_[0-9]+", f"pp_rank_{dp_rank}_mp_rank_{mp_rank:02d}", plain)
