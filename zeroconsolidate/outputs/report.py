"""What a conversion did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..opening.opened import Opened
    from ..opening.rescue_report import RescueReport
    from .make import Made
    from .output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of :func:`zeroconsolidate.consolidate`. Sizes are bytes, counts are elements."""

    output: str
    """The directory that was written."""
    files: dict[str, int]
    """Name -> size of every file written, weights first."""
    tensors: int
    parameters: int
    """Elements of parameters (buffers not counted), a tied one once a name it is written under."""
    dtype: str
    """What floating-point parameters were written as, in torch's spelling."""
    names: str
    """What was decided about names, and why."""
    tag: str
    step: int | None
    stage: int
    world_size: int
    ds_version: str | None
    seconds: float
    bytes_read: int
    """Tensor data read from the checkpoint."""
    bytes_written: int
    resumed_bytes: int
    """Of the bytes written, those an earlier, interrupted run had written already."""
    checked: int
    """Elements of master weights compared with their 16-bit copies before writing."""
    overflows: dict[str, int]
    """Tensor -> finite elements that became infinite in the cast."""
    left_out: tuple[str, ...]
    """Names of the checkpoint that were not written: dropped ties, excluded tensors."""
    left_behind: tuple[str, ...]
    """Files of the checkpoint that belong to training."""
    missing: tuple[str, ...]
    """What a loader will miss."""
    notes: tuple[str, ...]
    """What was changed or decided on the way."""
    from_base: int
    """Frozen parameters that the checkpoint has not and the base model has: so many tensors are from there."""
    rescue: RescueReport | None
    """What came from where, if the checkpoint was incomplete."""
    loading: tuple[str, ...]
    """What was compared with what the program that loads the output expects."""
    unchecked: tuple[str, ...]
    """What could not be compared with it, and why."""
    warnings: tuple[str, ...]

    @property
    def gb_per_second(self) -> float:
        """Bytes written a second, in units of 10**9."""
        return self.bytes_written / max(self.seconds, 1e-9) / 1e9

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        rescue = {"rescue": self.rescue.to_dict() if self.rescue else None}
        return asdict(self) | rescue | {"gb_per_second": round(self.gb_per_second, 3)}


def report_of(output: Output, opened: Opened, made: Made, *, directory: str, seconds: float) -> Report:
    """The report, from what the stages returned."""
    origin, cost, overflows = opened.catalog.origin, made.cost, made.overflows
    infinite: tuple[str, ...] = ()
    if overflows:
        infinite = (f"{sum(overflows.values())} values became infinite, in {', '.join(sorted(overflows)[:4])}",)
    return Report(
        output=directory,
        files=dict(made.sizes),
        tensors=cost.tensors,
        parameters=sum(tensor.numel for tensor in output.plan.tensors() if tensor.is_parameter),
        dtype=output.dtype.torch_name,
        names=output.names,
        tag=origin.tag,
        step=origin.step,
        stage=origin.stage,
        world_size=origin.world_size,
        ds_version=origin.ds_version,
        seconds=seconds,
        bytes_read=cost.input_bytes,
        bytes_written=cost.output_bytes,
        resumed_bytes=made.resumed_bytes,
        checked=made.checks.numel,
        overflows=dict(overflows),
        left_out=output.plan.left_out,
        left_behind=output.left_behind,
        missing=output.missing,
        from_base=output.from_base,
        rescue=opened.report,
        notes=(*opened.catalog.notes, *output.notes, *made.side_files.notes),
        loading=made.gate.checked,
        unchecked=made.gate.unchecked,
        warnings=(*made.checks.warnings, *output.warnings, *made.side_files.warnings, *infinite, *made.excused),
    )
