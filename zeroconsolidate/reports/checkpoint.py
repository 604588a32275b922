"""What a checkpoint holds -> its page: ranks by files, parameters by layer, what is missing, every tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.names import FileKind, parse
from ..archive.phrases import counted, listed
from ..audit.kinds import KINDS, kind_of, layer_of
from ..options import size_text
from .charts import Slice, Square, figure, legend, squares, stacks
from .markup import tag
from .page import facts, findings, page, section, texts
from .table import Column, table

if TYPE_CHECKING:
    from ..opening.info import CheckpointInfo, TensorInfo
    from ..opening.losses import Loss
    from .markup import Markup
    from .table import Cell

OUTSIDE = "outside"
_ROWS = {
    FileKind.MODEL: "model",
    FileKind.PARTITIONED_MODEL: "model",
    FileKind.OPTIMIZER: "optimizer",
    FileKind.LAYER: "layers",
    FileKind.EXPERT: "experts",
    FileKind.EXPERT_OPTIMIZER: "experts' optimizer",
}


def checkpoint_page(info: CheckpointInfo) -> str:
    """The page."""
    lost = [loss for loss in info.losses if loss.lost_numel]
    whole = not info.missing_files
    words = (
        f"{info.tag}: complete. Step {_known(info.step)}, {info.layout}."
        if whole
        else f"{info.tag}: incomplete. {counted(len(info.missing_files), 'file')} cannot be used; "
        f"{counted(len(lost), 'tensor')} of {len(info.tensors)} {'has' if len(lost) == 1 else 'have'} lost something."
    )
    return page(
        f"Checkpoint {info.root}",
        tag("p", words, class_=f"lead {'good' if whole else 'bad'}"),
        section("Missing", findings([f"{name}: {why}" for name, why in info.reasons.items()])),
        section("Files by rank", _files(info)),
        section("Parameters by layer", _layers(info)),
        section("Facts", facts(_facts(info))),
        section(
            "Tensors",
            table(f"{counted(len(info.tensors), 'tensor')} in the order of the module", _COLUMNS, _rows(info)),
            id_="tensors",
        ),
        section("Parameters without values", texts([f"{name}: {why}" for name, why in info.not_saved.items()])),
        section("Notes", texts(info.notes)),
    )


def _files(info: CheckpointInfo) -> Markup:
    """A square for each file: its kind and rank."""
    found: dict[tuple[str, int], list[tuple[str, bool]]] = {}
    for name in dict.fromkeys((*info.files, *info.missing_files)):
        parsed = parse(name.rpartition("/")[2])
        row = None if parsed is None else _ROWS.get(parsed[0])
        if parsed is not None and row is not None:
            _, file = parsed
            rank = file.layer if row == "layers" else file.expert if row == "experts" else _rank(info, parsed[0], file)
            found.setdefault((row, rank), []).append((name, name in info.missing_files))
    if not found:
        return tag("p", "The files of this checkpoint do not belong to ranks.", class_="soft")
    rows = list(dict.fromkeys(row for row, _ in found))
    columns = sorted({rank for _, rank in found})
    place = {rank: n for n, rank in enumerate(columns)}
    cells = [
        Square(
            style="lost" if any(missing for _, missing in files) else "h4",
            title=", ".join(f"{name} ({'cannot be used' if missing else 'there'})" for name, missing in files),
            row=rows.index(row),
            column=place[rank],
        )
        for (row, rank), files in found.items()
    ]
    many, gone = len(info.files), len(info.missing_files)
    description = f"{counted(many, 'file')} of {counted(len(columns), 'rank')}; {gone} cannot be used."
    return figure(
        squares("Files by rank", description, rows, [str(rank) for rank in columns], cells, "rank"),
        "Each square is a file. The numbers are ranks; of files of layers and experts, those of the layer or expert.",
        legend([("h4", "there"), ("lost", "missing or damaged")]),
    )


def _rank(info: CheckpointInfo, kind: FileKind, file: object) -> int:
    """The rank of a file among all: data-parallel ranks of each model-parallel rank after one another."""
    dp, mp = getattr(file, "dp_rank", 0), getattr(file, "mp_rank", 0)
    return int(mp) if kind is FileKind.MODEL else int(mp) * info.world_size + int(dp)


def _layers(info: CheckpointInfo) -> Markup:
    """Stacked bars of parameters; what is lost is in another colour."""
    lost = {loss.name: loss for loss in info.losses}
    sums: dict[str, dict[str, list[int]]] = {}
    for tensor in info.tensors:
        if tensor.role != "tie":
            place = sums.setdefault(layer_of(tensor.name) or OUTSIDE, {}).setdefault(kind_of(tensor.name), [0, 0])
            place[0] += tensor.numel
            place[1] += lost[tensor.name].lost_numel if tensor.name in lost else 0
    sums.setdefault(OUTSIDE, {})
    layers = sorted(sums, key=lambda layer: layer == OUTSIDE)
    stacked = []
    for layer in layers:
        parts: list[Slice] = []
        for kind in KINDS:
            numel, gone = sums[layer].get(kind, (0, 0))
            if numel > gone:
                parts.append(
                    Slice(
                        f"k{KINDS.index(kind)}", f"{layer}, {kind}: {counted(numel - gone, 'parameter')}", numel - gone
                    )
                )
        gone = sum(gone for _, gone in sums[layer].values())
        if gone:
            parts.append(Slice("lost", f"{layer}: {counted(gone, 'parameter')} lost", gone))
        stacked.append(parts)
    highest = max((sum(numel for numel, _ in kinds.values()) for kinds in sums.values()), default=0)
    used = [kind for kind in KINDS if any(kind in kinds for kinds in sums.values())]
    entries = [(f"k{KINDS.index(kind)}", kind) for kind in used]
    columns = [layer.rpartition(".")[2] for layer in layers]
    description = (
        f"Parameters of {counted(len(layers) - 1, 'layer')} by kind; {OUTSIDE} are those that belong "
        f"to none. The tallest bar has {highest:,}."
    )
    return figure(
        stacks("Parameters by layer", description, columns, stacked, "layer", short(highest), apart=True),
        f"Parameters of each numbered layer, by kind of module; {OUTSIDE}: embeddings, head and what else belongs to "
        "no layer.",
        legend([*entries, *([("lost", "lost")] if info.losses else [])]),
    )


def _facts(info: CheckpointInfo) -> list[tuple[str, str]]:
    return [
        *([("Resume", info.resume.text)] if info.resume else []),
        ("Step", _known(info.step)),
        ("Saved by", f"DeepSpeed {_known(info.ds_version)}, {counted(info.world_size, 'rank')}, {info.writer}"),
        ("Layout", info.layout),
        ("Trained in", info.training_dtype),
        ("Optimizer", f"{info.optimizer or 'made by the training script'}, "
                      f"state: {listed(info.optimizer_state) or 'none'}"),
        *((role.capitalize(), f"{counted(info.parameters[role], 'element')} in {counted(info.counts[role], 'tensor')}")
          for role in ("trainable", "frozen", "buffer") if info.counts[role]),
        ("Output", ", ".join(f"{size_text(size)} as {dtype}" for dtype, size in info.output_bytes.items())),
    ]  # fmt: skip


_COLUMNS = (
    Column("tensor"), Column("kind"), Column("role"), Column("dtype"), Column("shape"), Column("elements", True),
    Column("lost", True),
)  # fmt: skip


def _rows(info: CheckpointInfo) -> list[list[Cell]]:
    lost = {loss.name: loss for loss in info.losses}
    return [_row(tensor, lost.get(tensor.tied_to or tensor.name)) for tensor in info.tensors]


def _row(tensor: TensorInfo, loss: Loss | None) -> list[Cell]:
    share = 0.0 if loss is None else loss.lost_numel / max(loss.numel, 1)
    role = f"tied to {tensor.tied_to}" if tensor.tied_to else tensor.role
    return [
        tensor.name,
        kind_of(tensor.name),
        role,
        tensor.dtype,
        str(list(tensor.shape)),
        (f"{tensor.numel:,}", tensor.numel),
        (f"{100 * share:.1f} %" if share else "", share),
    ]


def short(count: int) -> str:
    """A count with three digits.

    >>> short(950), short(13_380), short(7_241_732_096)
    ('950', '13.4 K', '7.24 G')
    """
    for unit, one in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return str(count)


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)
