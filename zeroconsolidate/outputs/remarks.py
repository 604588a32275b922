"""Options and what they left out -> notes and warnings for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.model_config import read_config
from ..archive.phrases import counted
from ..errors import BadOption, DamagedFile
from ..options import Options, matches, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..opening.opened import Opened
    from ..plan.build import ModelPlan


def refuse_unsized(options: Options, copies: Mapping[str, str]) -> None:
    """Pooling needs the size of an embedding, which config.json must state. Raises BadOption."""
    if options.sentence_transformers is None:
        return
    try:
        config = read_config(copies["config.json"]) if "config.json" in copies else {}
    except DamagedFile:
        return  # said when the config is written
    if not isinstance(config, dict) or not str(config.get("hidden_size")).isdigit():
        raise BadOption(
            "sentence-transformers needs the size of an embedding",
            found="a config.json without hidden_size" if "config.json" in copies else "no config.json",
            remedy=None if "config.json" in copies else "add one with --base DIR",
        )


def refuse_fieldless(options: Options, copies: Mapping[str, str]) -> None:
    """There must be a config.json to set fields of. Raises BadOption."""
    if options.set_config and "config.json" not in copies:
        raise BadOption("there is no config.json to set fields of", remedy="add one with --base DIR")


def warnings(
    opened: Opened, options: Options, plan: ModelPlan, copies: Mapping[str, str], *, complete: bool
) -> tuple[str, ...]:
    """Notes and warnings about tensors that were left out: whether a loader would use random values for them.

    `complete`: every parameter that the model's class expects is written anyway: it is one of several models.
    """
    names = list(opened.catalog.order)
    found = [
        f"--exclude {glob!r} matches no tensor of the checkpoint"
        for glob in options.exclude
        if not matches(glob, names)
    ]
    flags = {
        "--include": options.include,
        "--exclude": options.exclude,
        "--exclude-frozen": options.exclude_frozen,
    }
    written, held = sum(1 for _ in plan.tensors()), len(opened.stored)
    if options.partial and "config.json" in copies and written < held and not complete:
        used = " and ".join(flag for flag, value in flags.items() if value)
        found.append(
            f"only part of the model: {written} of {counted(held, 'tensor')} are written, because of {used}: "
            "from_pretrained will give the others random values"
        )
    return tuple(found)


def notes(options: Options, plan: ModelPlan) -> tuple[str, ...]:
    """A note that a model was split without being asked to: because it is large, or so that it can be cloned."""
    if plan.index is None or options.max_shard_size != Options.max_shard_size:
        return ()
    total, most = size_text(sum(file.size_bytes for file in plan.files)), options.max_shard_size
    if plan.sharing is not None:
        return (f"{total} in {len(plan.files)} files, so that they can be cloned; --reflink never writes copies",)
    return (f"{total} in {len(plan.files)} files of at most {most}; --max-shard-size none writes one file",)
