"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

from .archive.discover import discover
from .archive.load import load
from .archive.regular import read_small
from .catalog.read import read
from .errors import BadOption, at
from .lazy import Checkpoint, parse_dtype
from .lora import Planned, find_adapters, merged, plan_export, plan_merge, prove_base
from .plan.adapter import ADAPTER_CONFIG
from .plan.build import Cost, ModelPlan, Source, build, padding_bytes, select, sources
from .plan.info import CheckpointInfo, describe
from .plan.layout import INDEX_NAME, parse_size
from .plan.witness import comparisons
from .run.execute import BLOCK_BYTES, execute
from .run.inputs import Inputs
from .run.outputs import OutputFile
from .write.assets import Assets, choose
from .write.check import check as check_file
from .write.config import MAX_CONFIG_BYTES, with_dtype, without_ties
from .write.report import Report
from .write.stage import Stage, refuse_inside

if TYPE_CHECKING:
    from .catalog.facts import Catalog

Path: TypeAlias = "str | os.PathLike[str]"
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes written so far, bytes in all)."""


def inspect(src: Path, *, tag: str | None = None) -> CheckpointInfo:
    """What a checkpoint holds, from metadata alone: a moment, whatever the model's size.

    Missing files of ranks are listed, not an error. Raises NotACheckpoint, DamagedFile, Disagreement,
    UnsupportedLayout.

    >>> info = inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> info.stage, info.world_size, info.training_dtype, info.missing_files
    (3, 2, 'bfloat16', ())
    """
    return describe(read(discover(src, tag), load, incomplete=True))


def open_checkpoint(src: Path, *, tag: str | None = None) -> Checkpoint:
    """A lazy mapping from parameter and buffer names to tensors; each is read when its `load()` is called.

    Raises what `inspect` raises, and MissingFiles.

    >>> checkpoint = open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weight = checkpoint["embed.weight"]
    >>> weight.dtype, weight.load().shape == weight.shape
    (torch.float32, True)
    """
    return Checkpoint(read(discover(src, tag), load))


def consolidate(
    src: Path,
    out: Path,
    *,
    tag: str | None = None,
    dtype: str = "fp32",
    max_shard_size: str | int | None = None,
    base: Path | None = None,
    lora: str | None = None,
    adapters: Sequence[str] = (),
    exclude_frozen: bool = False,
    ties: str = "drop",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    check: str = "sample",
    progress: Progress | None = None,
) -> Report:
    """Turn the checkpoint `src` into the model directory `out`.

    `dtype`: fp32 (the masters, bit for bit), bf16, fp16, or auto (what the model was trained in); applies to
    parameters, never to buffers. `max_shard_size`: such as "5GB", None for one file. `base`: directory of the
    original model, for config, tokenizer and the like where the checkpoint has none, and for the weights that
    adapters are merged into. `lora`: of a run with PEFT adapters, write the "adapter" (the default) as a directory
    PEFT loads, "merge" it into the full model, or "keep" the raw names. `adapters`: which of several, in the order
    of merging. `ties`: "drop" writes a tied parameter once, "copy" under all its names. `include` and `exclude`:
    globs of names. `check`: compare masters with the 16-bit copies of stages 1 and 2, and `base` with the frozen
    copies: "sample", "all" or "none".

    The output is complete or not there. Raises what `open_checkpoint` raises, WitnessMismatch, OutputExists,
    OutputFailed, BadOption.
    """
    began = time.monotonic()
    catalog, output = _open(src, tag), os.path.normpath(os.fspath(out))
    refuse_inside(output, checkpoint=catalog.origin.root, tag_directory=os.path.dirname(catalog.files[0]))
    planned = _plan(
        catalog,
        dtype=dtype,
        max_shard_size=max_shard_size,
        base=base,
        lora=lora,
        adapters=adapters,
        ties=ties,
        exclude_frozen=exclude_frozen,
        include=include,
        exclude=exclude,
    )
    plan = planned.plan
    assets = planned.assets(_assets(catalog, None if planned.is_adapter else base, planned.folders))
    written = parse_dtype(dtype, catalog.origin.training_dtype)
    with Inputs() as inputs:
        checked = _check(catalog, inputs, check, planned)
        with Stage(output, overwrite=overwrite) as stage:
            cost = plan.cost(BLOCK_BYTES)
            stage.need(cost.output_bytes)
            overflows = _weights(plan, inputs, stage, progress, cost.output_bytes)
            files = _beside(plan, assets, stage, written.torch_name, untied=planned.untied)
            stage.publish(last=[INDEX_NAME, "config.json", ADAPTER_CONFIG])
    origin = catalog.origin
    return Report(
        output=output,
        files={file.name: file.size_bytes for file in plan.files} | files,
        tensors=cost.tensors,
        parameters=sum(tensor.numel for tensor in plan.tensors() if tensor.is_parameter),
        dtype=written.torch_name,
        tag=origin.tag,
        step=origin.step,
        stage=origin.stage,
        world_size=origin.world_size,
        ds_version=origin.ds_version,
        seconds=time.monotonic() - began,
        bytes_read=cost.input_bytes,
        bytes_written=cost.output_bytes,
        checked=checked,
        overflows=overflows,
        left_out=plan.left_out,
        left_behind=assets.left_behind,
        missing=assets.missing,
        decided=planned.decided,
        warnings=(*catalog.notes, *planned.warnings, *_warnings(plan, assets, overflows, planned)),
    )


def estimate(
    src: Path,
    *,
    tag: str | None = None,
    dtype: str = "fp32",
    max_shard_size: str | int | None = None,
    base: Path | None = None,
    lora: str | None = None,
    adapters: Sequence[str] = (),
    exclude_frozen: bool = False,
    ties: str = "drop",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written."""
    planned = _plan(
        _open(src, tag),
        dtype=dtype,
        max_shard_size=max_shard_size,
        base=base,
        lora=lora,
        adapters=adapters,
        ties=ties,
        exclude_frozen=exclude_frozen,
        include=include,
        exclude=exclude,
    )
    return planned.plan.cost(BLOCK_BYTES)


def _open(src: Path, tag: str | None) -> Catalog:
    return read(discover(src, tag), load)


def _plan(
    catalog: Catalog,
    *,
    dtype: str,
    max_shard_size: str | int | None,
    base: Path | None,
    lora: str | None,
    adapters: Sequence[str],
    ties: str,
    exclude_frozen: bool,
    include: Sequence[str],
    exclude: Sequence[str],
) -> Planned:
    if ties not in ("drop", "copy"):
        raise BadOption(f"ties are dropped or copied; expected 'drop' or 'copy', got {ties!r}")

    def wanted(name: str, source: Source) -> bool:
        if exclude_frozen and source.role == "frozen":
            return False
        included = not include or any(fnmatchcase(name, glob) for glob in include)
        return included and not any(fnmatchcase(name, glob) for glob in exclude)

    directory = _directory(base)
    found = find_adapters(catalog, lora=lora, chosen=adapters)
    target = parse_dtype(dtype, catalog.origin.training_dtype)
    if found is not None and lora != "merge":
        if include or exclude:
            raise BadOption("an adapter is written whole: --include and --exclude go with --lora keep or merge")
        return plan_export(catalog, found, dtype=target)
    merge = None
    if found is None:
        selection = select(catalog, sources(catalog), copy_ties=ties == "copy")
    else:
        merge = plan_merge(catalog, found, base=directory, dtype=target, copy_ties=ties == "copy")
        selection = merge.selection
    plan = build(
        selection.only(wanted),
        dtype=target,
        max_shard_bytes=None if max_shard_size is None else parse_size(max_shard_size),
        padding_bytes=padding_bytes(catalog),
    )
    return Planned(plan=plan) if merge is None or found is None else merged(plan, merge, found)


def _directory(base: Path | None) -> str | None:
    directory = None if base is None else os.fspath(base)
    if directory is not None and not os.path.isdir(directory):
        raise BadOption(f"the base model must be a directory; got {directory}")
    return directory


def _assets(catalog: Catalog, base: Path | None, folders: Sequence[str]) -> Assets:
    return choose(catalog.origin.root, _directory(base), tags=(*catalog.origin.tags, *folders))


def _check(catalog: Catalog, inputs: Inputs, check: str, planned: Planned) -> int:
    if check not in ("sample", "all", "none"):
        raise BadOption(f"the check is 'sample', 'all' or 'none'; got {check!r}")
    if check == "none":
        return 0
    checked = prove_base(planned.comparisons, inputs) if planned.comparisons else 0
    if catalog.module:
        from .run.witness import compare

        checked += compare(comparisons(catalog, sources(catalog), everything=check == "all"), inputs)
    return checked


def _weights(
    plan: ModelPlan, inputs: Inputs, stage: Stage, progress: Progress | None, total_bytes: int
) -> dict[str, int]:
    """Write all weights; returns the overflows by tensor."""
    done, overflows = 0, {}

    def advance(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if progress is not None:
            progress(done, total_bytes)

    for file in plan.files:
        with at(file.name):
            with stage.create(file.name) as fd:
                tally = execute(file, inputs, OutputFile(os.path.join(stage.output, file.name), fd), progress=advance)
            check_file(stage.path(file.name), file)
            overflows.update(tally.overflows)
    return overflows


def _beside(plan: ModelPlan, assets: Assets, stage: Stage, torch_name: str, *, untied: bool) -> dict[str, int]:
    """Stage everything that is not weights; returns sizes by name."""
    if plan.index is not None:
        stage.write(INDEX_NAME, plan.index)
    for name, path in assets.copies.items():
        if name == "config.json":
            with at(path):
                config = with_dtype(read_small(path, MAX_CONFIG_BYTES), torch_name)
                stage.write(name, without_ties(config) if untied else config)
        else:
            stage.copy(name, path)
    names = [*assets.copies, *([INDEX_NAME] if plan.index is not None else [])]
    return {name: os.path.getsize(stage.path(name)) for name in sorted(names)}


_WRAPPERS = ("module.", "_forward_module.", "_orig_mod.", "base_model.model.", "pretrained_model.")


def _warnings(plan: ModelPlan, assets: Assets, overflows: dict[str, int], planned: Planned) -> list[str]:
    warnings = []
    names = [tensor.name for tensor in plan.tensors() if tensor.is_parameter]
    prefix = next((p for p in _WRAPPERS if names and all(name.startswith(p) for name in names)), None)
    if prefix and not planned.is_adapter:
        warnings.append(f"every name carries the wrapper's prefix {prefix!r}: a loader will not find its parameters")
    if overflows:
        warnings.append(f"{sum(overflows.values())} values became infinite, in {', '.join(sorted(overflows)[:4])}")
    if assets.unknown:
        warnings.append(f"not copied, because not known to belong to a model: {', '.join(assets.unknown)}")
    return warnings
