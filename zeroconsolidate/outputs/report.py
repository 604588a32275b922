"""What was planned, made and checked -> the report of a conversion."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..opening.opened import Opened
    from ..opening.rescue_report import RescueReport
    from .make import Made
    from .output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a conversion wrote, what was checked, and what deserves attention.

    :func:`zeroconsolidate.consolidate` returns it. Sizes are bytes, counts are elements.

    Attributes
    ----------
    output : str
        The directory that was written.
    files : dict[str, int]
        Size of every file that was written, by name; weights first.
    tensors : int
        Tensors that were written.
    parameters : int
        Elements of all parameters that were written; buffers are not counted. A tied parameter counts once for each
        name it is written under.
    dtype : str
        The dtype of floating-point parameters in the output, as torch spells it.
    names : str
        What was decided about names, and how they compare with those that a loader expects.
    names_change : str
        How the names of the checkpoint were changed; empty if they were not.
    tag : str
        The folder of the checkpoint that was read, such as `global_step500`.
    step : int | None
        The training step, None if the checkpoint does not say.
    stage : int
        The ZeRO stage.
    world_size : int
        Data-parallel ranks that saved the checkpoint.
    ds_version : str | None
        The release of DeepSpeed that saved it.
    seconds : float
        How long the conversion took.
    bytes_read : int
        Tensor data that was read from the checkpoint. What was cloned was not.
    bytes_written : int
        Size of the weights: all of their files, and the index.
    cloned_bytes : int
        Those of `bytes_written` that were not copied: they share the blocks of the checkpoint's files on the disk. The
        others take room on it.
    resumed_bytes : int
        Those of `bytes_written` that an earlier, interrupted run had written.
    parts : int
        In how many parts the weights were made, each by a command of its own; 1 without parts. `seconds` are then those
        of the command that finished them.
    checked : int
        Elements that were compared with their second copy before writing.
    checks : tuple[str, ...]
        What was checked and found right, in words.
    not_checked : tuple[str, ...]
        What could not be checked, and why.
    overflows : dict[str, int]
        Finite elements that became infinite in the cast, by tensor.
    differing : dict[str, int]
        Elements of which the checkpoint's copy in 16 bits is not the rounded master weight, by tensor. The master
        weights were written. They are counted only where copies can be cloned.
    left_out : tuple[str, ...]
        Names of the checkpoint that were not written: second names of tied weights, and excluded tensors.
    ties : dict[str, str]
        Names that were not written because their tensor is written under another name: second name to written name.
    left_behind : tuple[str, ...]
        Entries of the checkpoint's folder that were not copied.
    not_copied : tuple[str, ...]
        Those of `left_behind` that someone could miss: neither training state nor weights, and not written again.
    missing : tuple[str, ...]
        What a loader will not find in the output.
    notes : tuple[str, ...]
        What was changed or decided on the way.
    from_base : int
        Tensors that were taken from the base model: frozen parameters that the checkpoint does not have.
    rescue : RescueReport | None
        Where every value came from, if the checkpoint was incomplete and rescued.
    warnings : tuple[str, ...]
        What may be wrong with the output.
    load_line : str
        The line of Python that loads the output.
    gb_per_second

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = zeroconsolidate.consolidate("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model")
    >>> report.step, report.dtype, "model.safetensors" in report.files
    (2, 'float32', True)
    """

    output: str
    files: dict[str, int]
    tensors: int
    parameters: int
    dtype: str
    names: str
    names_change: str
    tag: str
    step: int | None
    stage: int
    world_size: int
    ds_version: str | None
    seconds: float
    bytes_read: int
    bytes_written: int
    cloned_bytes: int
    resumed_bytes: int
    parts: int
    checked: int
    checks: tuple[str, ...]
    not_checked: tuple[str, ...]
    overflows: dict[str, int]
    differing: dict[str, int]
    left_out: tuple[str, ...]
    ties: dict[str, str]
    left_behind: tuple[str, ...]
    not_copied: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    from_base: int
    rescue: RescueReport | None
    warnings: tuple[str, ...]
    load_line: str

    @property
    def gb_per_second(self) -> float:
        """Gigabytes (10**9 bytes) of weights per second."""
        return self.bytes_written / max(self.seconds, 1e-9) / 1e9

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        rescue = {"rescue": self.rescue.to_dict() if self.rescue else None}
        return asdict(self) | rescue | {"gb_per_second": round(self.gb_per_second, 3)}


def report_of(output: Output, opened: Opened, made: Made, *, directory: str, seconds: float, check: str) -> Report:
    """The report, from what the stages returned. `check`: what the caller asked to be compared."""
    origin, cost, counts = opened.catalog.origin, made.cost, made.counts
    infinite: tuple[str, ...] = ()
    if counts.overflows:
        many = counted(sum(counts.overflows.values()), "value")
        infinite = (f"{many} became infinite in {output.dtype.torch_name}, in {listed(sorted(counts.overflows), 4)}",)
    checks, not_checked = _checks(output, opened, made, check)
    return Report(
        output=directory,
        files=dict(made.sizes),
        tensors=cost.tensors,
        parameters=sum(tensor.numel for tensor in output.plan.tensors() if tensor.is_parameter),
        dtype=output.dtype.torch_name,
        names=output.names,
        names_change=output.names_change,
        tag=origin.tag,
        step=origin.step,
        stage=origin.stage,
        world_size=origin.world_size,
        ds_version=origin.ds_version,
        seconds=seconds,
        # What was to be cloned and was not is read, unless it was read anyway.
        bytes_read=cost.input_bytes
        + min(cost.cloned_bytes - made.cloned_bytes, output.plan.cloned_bytes - output.plan.compared_bytes),
        bytes_written=cost.output_bytes,
        cloned_bytes=made.cloned_bytes,
        resumed_bytes=made.resumed_bytes,
        parts=made.parts,
        checked=made.checks.numel,
        checks=checks,
        not_checked=not_checked,
        overflows=counts.overflows,
        differing=counts.differing,
        left_out=output.plan.left_out,
        ties=dict(output.ties),
        left_behind=output.left_behind,
        not_copied=tuple(e for e in _could_be_missed(output.left_behind, origin.tags) if e not in made.sizes),
        missing=output.missing,
        from_base=output.from_base,
        rescue=opened.report,
        notes=(*opened.catalog.notes, *output.notes, *made.side_files.notes),
        warnings=(
            *made.checks.warnings,
            *output.warnings,
            *made.side_files.warnings,
            *infinite,
            *_unlike(counts.differing),
            *made.excused_warnings,
        ),
        load_line=output.load_line(directory, made.side_files),
    )


def _unlike(differing: Mapping[str, int]) -> tuple[str, ...]:
    """The warning about copies that are not what training should have left there."""
    if not differing:
        return ()
    many = counted(sum(differing.values()), "value")
    return (
        "the checkpoint's copy in 16 bits differs from the rounded master weights, which were written, in "
        f"{many}: {listed(sorted(differing), 4)}",
    )


def _checks(output: Output, opened: Opened, made: Made, check: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what was checked, what could not be): what the program that loads the output expects, and values."""
    checks = [*made.gate.checked, *made.recomputed.checks]
    not_checked = [*made.gate.unchecked, *output.not_checked, *made.recomputed.not_checked]
    compared, witnessed = made.checks.numel, sum(t.numel for t in output.plan.tensors() if t.witness is not None)
    if witnessed and not made.counts.differing:
        checks.append(f"{counted(witnessed, 'value')} against the copy in 16 bits that was cloned: equal")
    if compared:
        extent = "all that have one" if check == "all" else "a sample"
        checks.append(f"{counted(compared, 'value')} against their second copy in the checkpoint ({extent}): equal")
    elif check == "none":
        not_checked.append("values: not compared (--no-check)")
    elif not opened.catalog.origin.saves_copies:
        not_checked.append("values: ZeRO stage 3 saves no second copy of the weights")
    else:
        not_checked.append("values: the checkpoint has no second copy of the weights")
    return tuple(checks), tuple(not_checked)


_NEVER_MISSED = (
    "global_step*", "latest*", "zero_to_fp32.py", "zero_to_torch.py", "optimizer*", "scheduler*", "scaler*",
    "rng_state*", "random_states_*", "trainer_state.json", "training_args.bin", "dataloader*", "sampler*",
    "model*.safetensors", "model*.safetensors.index.json", "pytorch_model*", "adapter_model.*", "adapter_config.json",
    "colbert_linear.pt", "sparse_linear.pt",
)  # fmt: skip
"""Training state, and what is written again."""


def _could_be_missed(left_behind: Iterable[str], tags: Iterable[str]) -> tuple[str, ...]:
    known = {f"{tag}/" for tag in tags}
    return tuple(
        entry
        for entry in left_behind
        if entry not in known and not any(fnmatchcase(entry.rstrip("/"), pattern) for pattern in _NEVER_MISSED)
    )
