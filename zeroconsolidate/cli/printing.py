"""Results -> the text that the command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.model_files import MANIFEST_NAME, RESCUE_REPORT_NAME
from ..archive.phrases import counted, listed
from ..options import size_text
from .rows import at_most, once, rows_text, time_row, time_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..opening.info import CheckpointInfo
    from ..opening.losses import Loss
    from ..opening.rescue_report import RescueReport
    from ..outputs.report import Report
    from ..plan.build import Cost

NOTES = 12
"""No more notes are printed."""


def cost_text(cost: Cost) -> str:
    """What a conversion would take."""
    written = f"{counted(cost.tensors, 'tensor')} in {counted(cost.files, 'file')}"
    return rows_text(
        [
            ("reads", size_text(cost.input_bytes)),
            ("writes", f"{size_text(cost.output_bytes)}, {written}"),
            *([("clones", _cloned_text(cost.cloned_bytes, cost.output_bytes))] if cost.cloned_bytes else []),
            ("memory", f"at most {size_text(cost.peak_memory_bytes)} on top of Python's own"),
        ]
    )


def report_text(report: Report) -> str:
    """What a conversion did: where the output is, whether it is right, what needs attention, details, and as the last
    line what loads it. Warnings are not in it: they go to stderr."""
    rows = [
        *(("checked", text) for text in report.checks),
        *(("not checked", text) for text in report.not_checked),
        *(_rescue_rows(report.rescue) if report.rescue else ()),
    ]
    left_out = [name for name in report.left_out if name not in report.ties]
    if left_out:
        rows.append(("left out", f"{counted(len(left_out), 'tensor')}: {listed(left_out, 4)}"))
    rows += [
        ("from", f"{report.tag}: step {_known(report.step)}, ZeRO stage {report.stage}, "
                 f"{counted(report.world_size, 'rank')}, DeepSpeed {_known(report.ds_version)}"),
        ("weights", _weights_text(report)),
    ]  # fmt: skip
    if report.ties:
        ties = [f"{alias} = {name}" for alias, name in report.ties.items()]
        rows.append(("tied", f"{listed(ties, 2)}, stored once"))
    if report.from_base:
        rows.append(("from base", f"{counted(report.from_base, 'frozen tensor')} that the checkpoint does not have"))
    if report.names_change:
        rows.append(("names", report.names_change))
    rows += [
        ("files", _files_text(report)),
        *(("note", text) for text in at_most(once(report.notes), NOTES)),
    ]
    if report.left_behind:
        rows.append(("not copied", _left_behind_text(report)))
    if report.cloned_bytes:
        rows.append(("cloned", _cloned_text(report.cloned_bytes, report.bytes_written)))
    if report.resumed_bytes:
        rows.append(("resumed", f"{size_text(report.resumed_bytes)} were there already"))
    if report.parts > 1:
        rows.append(("parts", f"{report.parts:,}, each written by a command of its own"))
        rows.append(("time", f"{time_text(report.seconds)} to finish them"))
    else:
        rows.append(("time", time_row(report.seconds, report.gb_per_second)))
    return f"{report.output}\n{rows_text(rows)}\n\n{report.load_line}"


def info_text(info: CheckpointInfo, *, tensors: bool) -> str:
    """What a checkpoint holds: what is lost of it first."""
    ties = [f"{tensor.name} = {tensor.tied_to}" for tensor in info.tensors if tensor.tied_to]
    rows = [
        *(("lost file", f"{name}: {reason}") for name, reason in info.reasons.items()),
        *([("lost", _lost_text(info.losses))] if info.losses else []),
        *([("resume", info.resume.text)] if info.resume else []),
        ("tag", info.tag + (f" (latest names {info.latest})" if info.latest not in (None, info.tag) else "")),
        *([("tags", _tags_text(info))] if len(info.tags) > 1 else []),
        ("step", _known(info.step)),
        ("saved by", f"DeepSpeed {_known(info.ds_version)}, {counted(info.world_size, 'rank')}, {info.writer}"),
        ("layout", info.layout),
        ("trained in", info.training_dtype),
        ("optimizer", f"{info.optimizer or 'made by the training script'}, "
                      f"state: {listed(info.optimizer_state) or 'none'}"),
        *((role, f"{counted(info.parameters[key], 'parameter')} in {counted(info.counts[key], 'tensor')}")
          for role, key in (("trainable", "trainable"), ("frozen", "frozen")) if info.counts[key]),
    ]  # fmt: skip
    rows += [("modules" if not n else "", part.text) for n, part in enumerate(info.modules)]
    if info.counts["buffer"]:
        elements = counted(info.parameters["buffer"], "element")
        rows.append(("buffers", f"{elements} in {counted(info.counts['buffer'], 'tensor')}"))
    if info.not_saved:
        rows.append(("not saved", f"{counted(len(info.not_saved), 'parameter')}: {listed(list(info.not_saved), 4)}"))
    rows += [
        *([("tied", listed(ties, 4))] if ties else []),
        *(("group", _group_text(group)) for group in info.param_groups),
        ("output", ", ".join(f"{size_text(size)} as {dtype}" for dtype, size in info.output_bytes.items())),
        *(("note", note) for note in at_most(once(info.notes), NOTES)),
    ]
    text = f"{info.root}\n{rows_text(rows)}"
    return f"{text}\n{_tensors_text(info)}" if tensors else text


def _tensors_text(info: CheckpointInfo) -> str:
    """A tensor a line."""
    fates = {
        loss.name: f"{loss.fate} ({100 * loss.lost_numel / loss.numel:.1f} %)"
        for loss in info.losses
        if loss.lost_numel
    }
    width = max((len(tensor.name) for tensor in info.tensors), default=0)
    lines = [
        f"  {tensor.name:<{width}}  {tensor.role:<9}  {tensor.dtype:<8}  {list(tensor.shape)}"
        + (f"  = {tensor.tied_to}" if tensor.tied_to else "")
        + (f"  {fates[tensor.name]}" if tensor.name in fates else "")
        for tensor in info.tensors
    ]
    return "\n".join([*lines, *(f"  {name:<{width}}  not saved" for name in info.not_saved)])


def _tags_text(info: CheckpointInfo) -> str:
    """The tags, newest first, with whether each is complete."""
    words = {True: "complete", False: "INCOMPLETE", None: "not checked"}
    return listed([f"{tag} ({words[info.complete.get(tag)]})" for tag in reversed(info.tags)], 16)


def _lost_text(losses: Sequence[Loss]) -> str:
    lost, held = sum(loss.lost_bytes for loss in losses), sum(loss.nbytes for loss in losses)
    counts = [f"{sum(loss.fate == fate for loss in losses)} {fate}" for fate in ("lost", "partly lost", "whole")]
    return (
        f"{size_text(lost)} of {size_text(held)} ({100 * lost / max(held, 1):.1f} %); "
        f"of {counted(len(losses), 'tensor')} {', '.join(counts)}"
    )


def _group_text(group: Mapping[str, object]) -> str:
    known = [f"{key} {group[key]}" for key in ("lr", "weight_decay", "betas", "eps") if key in group]
    return ", ".join(known) or "no settings"


_SOURCES = {
    "checkpoint": "as trained",
    "module": "in 16 bits, from the second copy of the weights",
    "fill": "from what was given with --fill",
    "zeros": "lost, written as zeros",
    "nowhere": "lost, so not written",
}


_STATE_SOURCES = {"checkpoint": "as saved", "fill": "from --fill", "zeros": "zeros"}


def _rescue_rows(rescue: RescueReport) -> list[tuple[str, str]]:
    rows = [
        ("lost file", text) for text in at_most([f"{name}: {reason}" for name, reason in rescue.lost_files.items()], 8)
    ]
    rows += [
        ("rescued", f"{rescue.percent(source):5.1f} % {text} ({counted(rescue.by_source[source], 'element')})")
        for source, text in _SOURCES.items()
        if rescue.by_source[source]
    ]
    for state, found in rescue.states.items():
        shares = [
            f"{100 * numel / max(rescue.numel, 1):.1f} % {_STATE_SOURCES[source]}"
            for source, numel in found.by_source.items()
            if numel
        ]
        rows.append((state, ", ".join(shares)))
    if rescue.not_written:
        some = listed(rescue.not_written, 4, f", see {RESCUE_REPORT_NAME}")
        rows.append(("not written", f"{counted(len(rescue.not_written), 'tensor')}: {some}"))
    return rows


def _cloned_text(cloned_bytes: int, output_bytes: int) -> str:
    """How much of the weights shares the checkpoint's room on the disk."""
    return (
        f"{size_text(cloned_bytes)} share the checkpoint's blocks on the disk; "
        f"{size_text(output_bytes - cloned_bytes)} are new"
    )


_FRAGMENTS = "/zero/"
"""In the names of the files of a universal checkpoint of which there are several a parameter."""


def _files_text(report: Report) -> str:
    """The files; those of a universal checkpoint that each parameter has are only counted."""
    fragments = [name for name in report.files if _FRAGMENTS in name]
    others = [name for name in report.files if _FRAGMENTS not in name]
    if fragments:
        folder = fragments[0].partition(_FRAGMENTS)[0] + _FRAGMENTS
        others = [f"{counted(len(fragments), 'file')} in {folder}", *others]
    return listed(others, 8, f", see {MANIFEST_NAME}")


def _weights_text(report: Report) -> str:
    files = [name for name in report.files if name.endswith(".safetensors") or _FRAGMENTS in name]
    return (
        f"{counted(report.parameters, 'parameter')} in {counted(report.tensors, 'tensor')}, {report.dtype}, "
        f"{size_text(sum(report.files[name] for name in files))} in {counted(len(files), 'file')}"
    )


def _left_behind_text(report: Report) -> str:
    """What someone could miss by name, everything else in one word."""
    named = listed(report.not_copied, 6)
    return "; ".join(
        filter(None, (named, "training state" if len(report.left_behind) > len(report.not_copied) else ""))
    )


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)
