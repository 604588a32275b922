"""What the command prints, as text: rows of a label and what there is to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..audit.findings import Verification
    from ..opening.info import CheckpointInfo
    from ..opening.losses import Loss
    from ..opening.rescue_report import RescueReport
    from ..outputs.report import Report
    from ..plan.build import Cost


def printable(text: str, keep: str = "") -> str:
    """`text` without what steers a terminal: names in it come from files that others made.

    >>> printable("global_step1\\x1b[2J")
    'global_step1\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def _size(size_bytes: int) -> str:
    """Bytes in decimal units, as Hugging Face and disks count."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size_bytes >= one:
            return f"{size_bytes / one:.2f} {unit}"
    return f"{size_bytes} B"


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {text}" for label, text in rows)


def _some(items: Sequence[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def cost_text(cost: Cost) -> str:
    """What a conversion would take."""
    return _rows(
        [
            ("reads", _size(cost.input_bytes)),
            ("writes", f"{_size(cost.output_bytes)}, {cost.tensors} tensors in {cost.files} files"),
            ("memory", f"{_size(cost.peak_memory_bytes)} beside the interpreter"),
        ]
    )


def report_text(report: Report) -> str:
    """What a conversion did."""
    rows = [
        ("from", f"{report.tag}: step {report.step}, ZeRO stage {report.stage}, {report.world_size} ranks, "
                 f"DeepSpeed {report.ds_version or 'unknown'}"),
        ("weights", f"{report.parameters:,} parameters in {report.tensors} tensors, {report.dtype}"),
        ("files", _some([f"{name} ({_size(size)})" for name, size in report.files.items()], 8)),
        ("time", f"{report.seconds:.2f} s, {report.gb_per_second:.2f} GB/s"),
    ]  # fmt: skip
    if report.resumed_bytes:
        rows.append(("resumed", f"{_size(report.resumed_bytes)} were there already"))
    if report.checked:
        rows.append(("checked", f"{report.checked:,} master weights against the copies saved beside them: equal"))
    rows.append(("names", report.names))
    if report.from_base:
        rows.append(("from base", f"{report.from_base} frozen tensors that the checkpoint has not"))
    if report.rescue:
        rows += _rescue_rows(report.rescue)
    if report.left_out:
        rows.append(("left out", _some(report.left_out)))
    if report.left_behind:
        rows.append(("left behind", _some(report.left_behind, 12)))
    rows += [("note", text) for text in report.notes]
    return f"{report.output}\n{_rows(rows)}"


_SOURCES = {
    "checkpoint": "exactly, from the checkpoint",
    "module": "in 16 bits, from the copy beside the masters",
    "fill": "from the models given to fill with",
    "zeros": "as zeros",
    "nowhere": "not at all: not written",
}


def _rescue_rows(rescue: RescueReport) -> list[tuple[str, str]]:
    rows = [("lost file", f"{name}: {reason}") for name, reason in list(rescue.lost_files.items())[:8]]
    rows += [
        ("rescued", f"{rescue.percent(source):6.2f} %  {text} ({rescue.by_source[source]:,} elements)")
        for source, text in _SOURCES.items()
        if rescue.by_source[source]
    ]
    if rescue.not_written:
        rows.append(("not written", f"{len(rescue.not_written)} tensors: {_some(rescue.not_written)}"))
    return rows


def losses_text(losses: Sequence[Loss], most: int = 12) -> str:
    """The worst losses first, a tensor a line."""
    hit = sorted((loss for loss in losses if loss.lost_numel), key=lambda loss: -loss.lost_bytes)
    width = max((len(loss.name) for loss in hit[:most]), default=0)
    lines = [
        f"  {loss.name:<{width}}  {loss.fate:<11}  {100 * loss.lost_numel / loss.numel:5.1f} %  "
        f"{_size(loss.lost_bytes)} of {_size(loss.nbytes)}"
        for loss in hit[:most]
    ]
    if len(hit) > most:
        lines.append(f"  and {len(hit) - most} more: `zeroconsolidate inspect --tensors` lists them all")
    return "\n".join(lines)


def verification_text(found: Verification) -> str:
    """What a verification found."""
    rows = [("checked", text) for text in found.checks]
    rows.append(("read", f"{_size(found.bytes_read)} in {found.seconds:.2f} s, {found.gb_per_second:.2f} GB/s"))
    rows += [("note", text) for text in found.notes[:20]]
    if len(found.notes) > 20:
        rows.append(("note", f"and {len(found.notes) - 20} more"))
    rows += [("WRONG", text) for text in found.problems[:50]]
    if len(found.problems) > 50:
        rows.append(("WRONG", f"and {len(found.problems) - 50} more"))
    many = f"{len(found.problems)} problem{'s' * (len(found.problems) != 1)}"
    return f"{found.subject}: {'all is well' if found.ok else many}\n{_rows(rows)}"


def info_text(info: CheckpointInfo, *, tensors: bool) -> str:
    """What a checkpoint holds."""
    ranks = f"{info.world_size} ranks" + (f", missing: {_some(info.missing_files)}" if info.missing_files else "")
    names, numels = info.counts, info.parameters
    rows = [
        ("tag", f"{info.tag}" + (f" (latest: {info.latest})" if info.latest not in (None, info.tag) else "")),
        *([("tags", _tags_text(info))] if len(info.tags) > 1 else []),
        ("step", f"{info.step}"),
        ("saved by", f"DeepSpeed {info.ds_version or 'unknown'}, {info.layout}, {info.writer}, {ranks}"),
        ("trained in", info.training_dtype),
        ("optimizer", f"{info.optimizer or 'handed to DeepSpeed'}, keeps {_some(info.optimizer_state) or 'nothing'}"),
        ("trainable", f"{numels['trainable']:,} in {names['trainable']} tensors"),
        ("frozen", f"{numels['frozen']:,} in {names['frozen']} tensors"),
        ("buffers", f"{numels['buffer']:,} in {names['buffer']} tensors"),
        ("ties", _some([f"{t.name} = {t.tied_to}" for t in info.tensors if t.tied_to]) or "none"),
        ("groups", "; ".join(_group_text(g) for g in info.param_groups) or "unknown"),
        ("output", ", ".join(f"{_size(size)} as {dtype}" for dtype, size in info.output_bytes.items())),
    ]  # fmt: skip
    rows += [("lost file", f"{name}: {reason}") for name, reason in info.reasons.items()]
    rows += [("lost", _lost_text(info.losses))] if info.losses else []
    rows += [("note", note) for note in info.notes]
    text = f"{info.root}\n{_rows(rows)}"
    if tensors:
        fates = {
            loss.name: f"{loss.fate} ({100 * loss.lost_numel / loss.numel:.1f} %)"
            for loss in info.losses
            if loss.lost_numel
        }
        width = max((len(t.name) for t in info.tensors), default=0)
        text += "".join(
            f"\n  {t.name:<{width}}  {t.role:<9}  {t.dtype:<8}  {list(t.shape)}"
            + (f"  = {t.tied_to}" if t.tied_to else "")
            + (f"  {fates[t.name]}" if t.name in fates else "")
            for t in info.tensors
        )
    return text


def _tags_text(info: CheckpointInfo) -> str:
    """The tags, newest first, with whether each is complete."""
    words = {True: "complete", False: "INCOMPLETE", None: "not checked"}
    return _some([f"{tag} ({words[info.complete.get(tag)]})" for tag in reversed(info.tags)], 16)


def _lost_text(losses: Sequence[Loss]) -> str:
    lost, held = sum(loss.lost_bytes for loss in losses), sum(loss.nbytes for loss in losses)
    counts = [f"{sum(loss.fate == fate for loss in losses)} {fate}" for fate in ("lost", "partly lost", "whole")]
    return f"{_size(lost)} of {_size(held)} ({100 * lost / max(held, 1):.1f} %); tensors: {', '.join(counts)}"


def _group_text(group: Any) -> str:
    shown = {key: group[key] for key in ("lr", "weight_decay", "betas", "eps") if key in group}
    return ", ".join(f"{key} {value}" for key, value in shown.items()) or "no settings"
