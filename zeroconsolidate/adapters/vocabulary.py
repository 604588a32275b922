"""The rows of embedding and head in a merged model: a run may have resized them, and saved only what it trained."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.json_file import parse_object
from ..archive.model_config import MAX_CONFIG_BYTES, parse, short_int
from ..archive.model_files import CONFIG
from ..archive.regular import read_small
from ..errors import Disagreement, ZeroConsolidateError
from .additions import has_row_per_token
from .base_agreement import MAX_TOKENIZER_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Shape
    from ..plan.build import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """How many rows a merged model has."""

    rows: int | None
    """What config.json must say; None if it says so, or nothing is known."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def vocabulary(
    named: Mapping[str, Source], checkpoint: str, base: str | None, of_base: Mapping[str, LocatedTensor]
) -> Vocabulary:
    """Compare the rows of a merged model with what the config.json beside it says: the checkpoint's, or the base's.

    `of_base`: the base's own tensors, empty without one. Raises Disagreement where rows that the run added are neither
    trained nor saved, so that nobody has them.
    """
    found = {name: source for name, source in named.items() if has_row_per_token(name) and len(source.shape) == 2}
    own, at_base = _stated(checkpoint), None if base is None else _stated(base)
    stated = at_base if own is None else own
    counts = sorted({source.shape[0] for source in found.values()})
    is_resized = any(name in of_base and of_base[name].shape != source.shape for name, source in found.items())
    if len(counts) > 1 and is_resized:
        _refuse_parted(found)
    if len(counts) != 1 or stated is None:
        return Vocabulary(rows=None, notes=(), warnings=())
    (rows,) = counts
    if own is not None and at_base == rows < own and not is_resized:
        raise Disagreement(
            f"config.json beside the checkpoint says {own} tokens, the base model has {rows}",
            consequence="the added rows were frozen and not saved, so their values are lost",
            remedy="write the adapter (--lora adapter), and load it on a base model resized as for the training",
        )
    if rows == stated:
        return Vocabulary(rows=None, notes=(), warnings=_lost(checkpoint, rows, found))
    name = next(iter(found))
    note = f"config.json: vocab_size set to {rows}, the rows of {name} (it was {stated})"
    return Vocabulary(rows=rows, notes=(note,), warnings=())


def resize_first(shapes: Mapping[str, Shape], base: str | None) -> tuple[str, ...]:
    """That an adapter belongs to a resized base. `shapes`: of its tensors, by their names in the file."""
    rows = {
        shape[0 if name.endswith(".weight") else 1]: name
        for name, shape in shapes.items()
        if len(shape) == 2 and (has_row_per_token(name) or name.endswith("lora_embedding_A"))
    }
    if len(rows) != 1:
        return ()
    ((count, name),) = rows.items()
    stated = None if base is None else _stated(base)
    if stated == count:
        return ()
    other = f"the base has {stated}" if stated is not None else "if the base has another number"
    return (f"{name} has {count} tokens; {other}: resize it first, with base_model.resize_token_embeddings({count})",)


def _stated(directory: str) -> int | None:
    try:
        config = parse(read_small(os.path.join(directory, CONFIG), MAX_CONFIG_BYTES), parse_int=short_int)
    except (OSError, ZeroConsolidateError):
        return None  # said when the config is written
    text = config.get("text_config") if isinstance(config, dict) else None
    held = [each.get("vocab_size") for each in (text, config) if isinstance(each, dict)]
    return next((size for size in held if isinstance(size, int)), None)


def _refuse_parted(found: Mapping[str, Source]) -> None:
    by_rows: dict[int, list[str]] = {}
    for name, source in found.items():
        by_rows.setdefault(source.shape[0], []).append(name)
    told = ", ".join(f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} {rows}" for rows, names in
                     sorted(by_rows.items(), reverse=True))  # fmt: skip
    most = max(by_rows)
    fewer = [name for rows, names in by_rows.items() if rows != most for name in names]
    raise Disagreement(
        f"embedding and head have different numbers of rows: {told}",
        consequence=f"the run resized both; the rows added to {' and '.join(fewer)} were frozen and not saved, so "
        "their values are lost",
        remedy="write the adapter (--lora adapter), and load it on a base model resized as for the training",
    )


def _lost(checkpoint: str, rows: int, found: Mapping[str, Source]) -> tuple[str, ...]:
    """That the checkpoint's tokenizer has tokens without a row: a run added them, and did not save theirs."""
    try:
        content = parse_object(
            read_small(os.path.join(checkpoint, "tokenizer.json"), MAX_TOKENIZER_BYTES), "tokenizer.json"
        )
    except (OSError, ZeroConsolidateError):
        return ()
    last = _last_token(content)
    if last is None or last < rows:
        return ()
    return (
        f"the tokenizer has tokens up to number {last}, and {next(iter(found))} {rows} rows: rows that the run added "
        "were frozen and left out of the save, so they are lost",
    )


def _last_token(content: Mapping[str, Any]) -> int | None:
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    numbers += [len(vocabulary) - 1] if isinstance(vocabulary, list) else []
    numbers += [each.get("id") for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    return max((number for number in numbers if isinstance(number, int)), default=None)
