"""Do all ranks tell the same story? Every way in which a folder can hold files of different saves is an error here."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..archive.names import FileKind
from ..errors import Disagreement, MissingFiles, UnsupportedLayout, at

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..archive.raw import CheckpointFiles
    from .model_file import ModelFile
    from .optimizer_file import OptimizerFile

T = TypeVar("T", "ModelFile", "OptimizerFile")

_UNREAD = {
    FileKind.LAYER: "a pipeline (PipelineModule)",
    FileKind.EXPERT: "a mixture of experts (deepspeed.moe)",
    FileKind.EXPERT_OPTIMIZER: "a mixture of experts at stage 0 (deepspeed.moe)",
}


def refuse_unread_kinds(files: CheckpointFiles) -> None:
    """Refuse what the file names alone show to be another layout."""
    for kind, what in _UNREAD.items():
        if files.of(kind):
            with at(files.of(kind)[0].name):
                raise UnsupportedLayout(f"the checkpoint is that of {what}, which is not read yet")


def missing_ranks(files: CheckpointFiles, kind: FileKind, world_size: int) -> list[str]:
    """The names of the files that `world_size` ranks should have and have not.

    Raises Disagreement if a rank has two files or there are more ranks, UnsupportedLayout for model parallelism.
    """
    by_rank: dict[int, str] = {}
    for name in files.of(kind):
        with at(name.name):
            if name.mp_rank:
                raise UnsupportedLayout(f"the checkpoint has model-parallel ranks; got a file of rank {name.mp_rank}")
            if name.dp_rank in by_rank:
                raise Disagreement(
                    f"rank {name.dp_rank} has two files; expected one, also got {by_rank[name.dp_rank]}; "
                    "one of them is left from another save"
                )
            if name.dp_rank >= world_size:
                raise Disagreement(
                    f"the file is left from a save with more ranks; expected ranks 0 to {world_size - 1} of "
                    f"{world_size}, got rank {name.dp_rank}; move it away if that is so"
                )
        by_rank[name.dp_rank] = name.name
    example = next(iter(by_rank.values()), None) or _usual_name(kind)
    return [_of_rank(example, rank) for rank in range(world_size) if rank not in by_rank]


def are_missing(files: list[str], world_size: int) -> MissingFiles:
    """The error for files that are not there."""
    shown = ", ".join(files[:6]) + (f" and {len(files) - 6} more" if len(files) > 6 else "")
    ranks = sorted({int(name.partition("pp_rank_")[2].partition("_")[0]) for name in files})
    many = f"ranks {', '.join(map(str, ranks[:16]))}{', …' if len(ranks) > 16 else ''} have"
    return MissingFiles(
        f"{f'rank {ranks[0]} has' if len(ranks) == 1 else many} no complete set of files; "
        f"expected those of {world_size} ranks, missing {shown}",
        files=tuple(files),
    )


def same(
    facts: list[T], what: str, value: Callable[[T], object], *, reference: tuple[str, object] | None = None
) -> None:
    """All ranks must state the same `value`, and that of `reference` (a file's name and its value) if given."""
    expected = reference or (_base(facts[0].file), value(facts[0]))
    for fact in facts:
        got = value(fact)
        if got != expected[1] and got is not None and expected[1] is not None:
            with at(_base(fact.file)):
                raise Disagreement(
                    f"the files are of different saves: {what} differs; "
                    f"expected {_short(expected[1])} as in {expected[0]}, got {_short(got)}"
                )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _usual_name(kind: FileKind) -> str:
    suffix = "optim" if kind is FileKind.OPTIMIZER else "model"
    return f"zero_pp_rank_0_mp_rank_00_{suffix}_states.pt"


def _of_rank(name: str, rank: int) -> str:
    head, _, tail = name.partition("pp_rank_")
    return f"{head}pp_rank_{rank}_{tail.partition('_')[2]}"
