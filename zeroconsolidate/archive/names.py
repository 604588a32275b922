"""A file name of DeepSpeed -> what it holds, for which ranks (mirrors `deepspeed/runtime/engine.py`, `_get_ckpt_name`).

`pp_rank` in these names is the data-parallel rank; `mp_rank` is the combined model-parallel rank. The prefix
`bf16_` stands in front of optimizer files when bf16 is enabled in the config, whatever the optimizer's class.

The fast writer (`checkpoint: {writer: {type: fast}}`) adds `-WRITER.WRITERS` below stage 3, and each of its writers
leaves a whole copy of what several of them write (`create_writer` in
`deepspeed/runtime/model_checkpointing/writer_factory.py`). DeepSpeed itself does not find these files again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class FileKind(Enum):
    """What a file of a tag holds, by its name."""

    MODEL = "model states of all data-parallel ranks (stages 0-2)"
    PARTITIONED_MODEL = "model states of one data-parallel rank (stage 3)"
    OPTIMIZER = "optimizer states of one data-parallel rank"
    LAYER = "model states of one pipeline layer"
    EXPERT = "model states of one expert"
    EXPERT_OPTIMIZER = "optimizer states of one expert-parallel rank (MoE at stage 0)"
    UNIVERSAL = "one parameter of a universal checkpoint"
    UNIVERSAL_STATE = "what a universal checkpoint says about the optimizer"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FileName:
    """A parsed file name; ranks that the name does not state are 0. Sorts by rank, numerically."""

    mp_rank: int = 0
    dp_rank: int = 0
    layer: int = 0
    expert: int = 0
    writer: int = 0
    """Which of several writers wrote this copy."""
    writers: int = 0
    """How many there were; 0 where the name does not say."""
    name: str


_NUMBER = r"(?:0|[1-9][0-9]{0,6})"
_GRAMMAR: tuple[tuple[FileKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern + rf"\.pt(?:-(?P<writer>{_NUMBER})\.(?P<writers>[1-9][0-9]{{0,6}}))?"))
    for kind, pattern in (
        (FileKind.MODEL, r"mp_rank_(?P<mp_rank>[0-9]{2,7})_model_states"),
        (
            FileKind.PARTITIONED_MODEL,
            rf"(?:bf16_|fp16_)?zero_pp_rank_(?P<dp_rank>{_NUMBER})_mp_rank_(?P<mp_rank>[0-9]{{2,7}})_model_states",
        ),
        (
            # Before DeepSpeed 0.3.14 the underscore in front of `optim` was missing.
            FileKind.OPTIMIZER,
            rf"(?:bf16_|fp16_)?zero_pp_rank_(?P<dp_rank>{_NUMBER})_mp_rank_(?P<mp_rank>[0-9]{{2,7}})_?optim_states",
        ),
        (FileKind.LAYER, r"layer_(?P<layer>[0-9]{2,7})-(?:model_(?P<mp_rank>[0-9]{2,7})-)?model_states"),
        (
            FileKind.EXPERT,
            rf"(?:layer_(?P<layer>{_NUMBER})_)?expert_(?P<expert>{_NUMBER})_mp_rank_(?P<mp_rank>[0-9]{{2,7}})_model_states",
        ),
        (
            FileKind.EXPERT_OPTIMIZER,
            rf"expp_rank_(?P<dp_rank>{_NUMBER})_mp_rank_(?P<mp_rank>[0-9]{{2,7}})_optim_states",
        ),
    )
)


UNIVERSAL_FOLDER = "zero"
UNIVERSAL_WEIGHTS = "fp32.pt"
UNIVERSAL_STATE = "optimizer_state.pt"
"""A universal checkpoint (`ds_to_universal`) is model files and a folder: `zero/<parameter>/fp32.pt` next to its
moments, and one file for state that belongs to no parameter."""


SWAP_FOLDER = "offloaded_tensors"
SWAP_RANK = re.compile(r"rank(?P<rank>[0-9]{1,7})")
SWAP_FILE = re.compile(r"(?:(?P<state>[a-z_]{1,64})-)?(?P<first>[0-9]{1,9})_(?P<last>[0-9]{1,9})\.tensor\.swp")
"""Masters on NVMe; the same name with `exp_avg-` in front is a moment's."""


def parse(name: str) -> tuple[FileKind, FileName] | None:
    """What the file `name` holds and for which ranks, or None if it is not one of DeepSpeed's.

    >>> kind, rank = parse("bf16_zero_pp_rank_10_mp_rank_00_optim_states.pt")
    >>> kind.name, rank.dp_rank, rank.mp_rank
    ('OPTIMIZER', 10, 0)
    """
    for kind, pattern in _GRAMMAR:
        match = pattern.fullmatch(name)
        if match:
            ranks = {key: int(value) for key, value in match.groupdict().items() if value is not None}
            return kind, FileName(name=name, **ranks)
    return None


def file_name(path: str) -> str:
    """The last part of a path: what errors call a file. For modules that do no IO and must not import `os`.

    >>> file_name("checkpoint-500/global_step500/mp_rank_00_model_states.pt")
    'mp_rank_00_model_states.pt'
    """
    return path.rpartition("/")[2]


def one_of_each(found: Iterable[FileName]) -> tuple[FileName, ...]:
    """The files by rank. If several writers each wrote a copy, only the first copy.

    Two files of one rank that are not such copies both stay: they are of two saves, which is an error elsewhere.
    """
    firsts: dict[tuple[int, ...], FileName] = {}
    kept = []
    for file in sorted(found):
        first = firsts.setdefault((file.mp_rank, file.dp_rank, file.layer, file.expert), file)
        if file is first or not file.writers or file.writers != first.writers:
            kept.append(file)
    return tuple(kept)
