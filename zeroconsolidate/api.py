"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ._version import __version__
from .convert import make_beside, make_weights
from .errors import BadOption
from .lazy import Checkpoint, parse_dtype
from .opening import Path, Roots, open_catalog, open_incomplete, roots_of
from .plan.build import Cost, ModelPlan, Selection, Source, build, padding_bytes, select, sources
from .plan.info import CheckpointInfo, describe
from .plan.layout import INDEX_NAME, parse_size
from .plan.rescue import Patched
from .plan.witness import comparisons
from .rescuing import frozen_of_base, rescued
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .run.inputs import Inputs
from .write.assets import Assets, choose
from .write.fingerprint import fingerprint
from .write.manifest import MANIFEST_NAME, manifest
from .write.report import Report
from .write.rescue_report import RESCUE_REPORT_NAME, RescueReport
from .write.stage import Stage, refuse_inside

if TYPE_CHECKING:
    from .catalog.facts import Catalog
    from .rescuing import Additions

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes written so far, bytes in all)."""


def inspect(src: Roots, *, tag: str | None = None) -> CheckpointInfo:
    """What a checkpoint holds, from metadata alone: a moment, whatever the model's size.

    `src` may be several directories that hold one checkpoint together, `tag` may be "last-complete". Files that are
    missing or damaged are listed with what is lost, not an error. Raises NotACheckpoint, DamagedFile, Disagreement,
    UnsupportedLayout.

    >>> info = inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> info.stage, info.world_size, info.training_dtype, info.missing_files
    (3, 2, 'bfloat16', ())
    """
    left = open_incomplete(src, tag)
    return describe(left.catalog, left.reasons)


def open_checkpoint(src: Roots, *, tag: str | None = None) -> Checkpoint:
    """A lazy mapping from parameter and buffer names to tensors; each is read when its `load()` is called.

    Raises what `inspect` raises, and MissingFiles.

    >>> checkpoint = open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weight = checkpoint["embed.weight"]
    >>> weight.dtype, weight.load().shape == weight.shape
    (torch.float32, True)
    """
    return Checkpoint(open_catalog(src, tag))


def consolidate(
    src: Roots,
    out: Path,
    *,
    tag: str | None = None,
    dtype: str = "fp32",
    max_shard_size: str | int | None = None,
    base: Path | None = None,
    exclude_frozen: bool = False,
    ties: str = "drop",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rescue: bool | Literal["zeros"] = False,
    fill: Path | Sequence[Path] = (),
    overwrite: bool = False,
    restart: bool = False,
    check: str = "sample",
    digest: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Turn the checkpoint `src` into the model directory `out`.

    `src` may be several directories that hold one checkpoint together (node-local disks), `tag` may be
    "last-complete". `dtype`: fp32 (the masters, bit for bit), bf16, fp16, or auto (what the model was trained in);
    applies to parameters, never to buffers. `max_shard_size`: such as "5GB", None for one file. `base`: directory
    of the original model, for config, tokenizer and the like where the checkpoint has none, and for frozen
    parameters that were excluded from the save. `ties`: "drop" writes a tied parameter once, "copy" under all its
    names. `include` and `exclude`: globs of names. `check`: compare masters with the 16-bit copies of stages 1 and
    2: "sample", "all" or "none". `digest`: "sha256" or "xxh3" to put one of every file and tensor into the manifest.

    `rescue`: write what can be had of an incomplete checkpoint, which is an error otherwise: whole tensors, copies in
    16 bits for lost masters, elements of the models in `fill`, and with "zeros" zeros for the rest; tensors that are
    still incomplete are left out. The report's `rescue` says what came from where.

    The output is complete or not there. A conversion that was stopped, killed included, goes on where it was when
    the same call is made again; with `restart` it begins anew. Raises what `open_checkpoint` raises,
    WitnessMismatch, OutputExists (also: in use), OutputFailed, BadOption (also: what is staged is another conversion).
    """
    began = time.monotonic()
    output = os.path.normpath(os.fspath(out))
    ready = _prepare(src, tag, rescue=rescue, fill=fill, base=base)
    catalog = ready.catalog
    for root in {catalog.origin.root, *roots_of(src)}:
        refuse_inside(output, checkpoint=root, tag_directory=os.path.dirname(catalog.files[0]))
    chosen: dict[str, Any] = {
        "dtype": dtype,
        "max_shard_size": max_shard_size,
        "ties": ties,
        "exclude_frozen": exclude_frozen,
        "include": list(include),
        "exclude": list(exclude),
    }
    plan = plan_model(catalog, ready.stored, ready.additions.sources, **chosen)
    assets = _assets(catalog, base)
    written = parse_dtype(dtype, catalog.origin.training_dtype)
    if digest is not None:
        maker(digest)
    cost = plan.cost(BLOCK_BYTES)
    traits = fingerprint(
        version=__version__,
        options=chosen
        | {"base": None if base is None else os.path.realpath(base), "digest": digest}
        | {"rescue": rescue, "fill": list(map(os.path.realpath, roots_of(fill)))},
        sources=[*catalog.files, *assets.copies.values(), *ready.additions.files, *ready.filled_from],
        layout=plan.files,
    )
    with Inputs() as inputs, Stage(output, overwrite=overwrite, restart=restart, fingerprint=traits) as stage:
        resumed_bytes = stage.resumed_bytes
        if stage.is_publishing:
            sizes = stage.finish()
        else:
            stage.need(cost.output_bytes)
            if stage.checked is None:
                stage.note_checked(_check(catalog, ready.whole, inputs, check))
            make_weights(plan, inputs, stage, digest=digest, progress=progress, total_bytes=cost.output_bytes)
            extra = {RESCUE_REPORT_NAME: ready.report.to_json()} if ready.report else {}
            beside = make_beside(plan, assets, stage, written.torch_name, extra)
            digests = {file.name: (stage.facts(file.name) or {}).get("digests", {}) for file in plan.files}
            stage.write(
                MANIFEST_NAME,
                manifest(plan, catalog.origin, options=chosen, digest=digest, weights=digests, beside=beside),
            )
            sizes = stage.publish(last=[INDEX_NAME, "config.json", MANIFEST_NAME])
        checked = stage.checked or 0
        overflows = {
            name: count
            for file in plan.files
            for name, count in (stage.facts(file.name) or {}).get("overflows", {}).items()
        }
    origin = catalog.origin
    return Report(
        output=output,
        files=sizes,
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
        resumed_bytes=resumed_bytes,
        checked=checked,
        overflows=overflows,
        left_out=plan.left_out,
        left_behind=assets.left_behind,
        missing=assets.missing,
        from_base=len(ready.additions.sources),
        rescue=ready.report,
        warnings=(*catalog.notes, *ready.additions.warnings, *_warnings(plan, assets, overflows)),
    )


def estimate(
    src: Roots,
    *,
    tag: str | None = None,
    dtype: str = "fp32",
    max_shard_size: str | int | None = None,
    exclude_frozen: bool = False,
    ties: str = "drop",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    base: Path | None = None,
    rescue: bool | Literal["zeros"] = False,
    fill: Path | Sequence[Path] = (),
) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written."""
    ready = _prepare(src, tag, rescue=rescue, fill=fill, base=base)
    plan = plan_model(
        ready.catalog,
        ready.stored,
        ready.additions.sources,
        dtype=dtype,
        max_shard_size=max_shard_size,
        ties=ties,
        exclude_frozen=exclude_frozen,
        include=include,
        exclude=exclude,
    )
    return plan.cost(BLOCK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A checkpoint with everything that stands in for what it lacks."""

    catalog: Catalog
    stored: Mapping[str, Source]
    whole: Mapping[str, Source]
    """Those of `stored` that are nothing but the checkpoint's own."""
    additions: Additions
    report: RescueReport | None
    filled_from: tuple[str, ...]


def _prepare(
    src: Roots,
    tag: str | None,
    *,
    rescue: bool | Literal["zeros"],
    fill: Path | Sequence[Path],
    base: Path | None,
) -> _Ready:
    if rescue not in (False, True, "zeros"):
        raise BadOption(f"a rescue is True or 'zeros'; got {rescue!r}")
    if not rescue and roots_of(fill):
        raise BadOption("a model to fill with is only used in a rescue; expected --rescue as well")
    incomplete = open_incomplete(src, tag) if rescue else None
    if incomplete is not None and incomplete.catalog.missing:
        catalog = incomplete.catalog
        stored, report, filled_from = rescued(incomplete, roots_of(fill), zeros=rescue == "zeros")
        whole = {name: source for name, source in stored.items() if not isinstance(source.recipe, Patched)}
    else:
        catalog, report, filled_from = open_catalog(src, tag), None, ()
        stored = whole = sources(catalog)
    additions = frozen_of_base(catalog, stored, None if base is None else os.fspath(base))
    return _Ready(
        catalog=catalog, stored=stored, whole=whole, additions=additions, report=report, filled_from=filled_from
    )


def plan_model(
    catalog: Catalog,
    stored: Mapping[str, Source],
    additions: Mapping[str, Source] | None = None,
    *,
    dtype: str,
    max_shard_size: str | int | None,
    ties: str,
    exclude_frozen: bool,
    include: Sequence[str],
    exclude: Sequence[str],
) -> ModelPlan:
    """The plan for `stored`, the checkpoint's tensors, and `additions` from elsewhere. Raises BadOption."""
    if ties not in ("drop", "copy"):
        raise BadOption(f"ties are dropped or copied; expected 'drop' or 'copy', got {ties!r}")

    def wanted(name: str, source: Source) -> bool:
        if exclude_frozen and source.role == "frozen":
            return False
        included = not include or any(fnmatchcase(name, glob) for glob in include)
        return included and not any(fnmatchcase(name, glob) for glob in exclude)

    selection = select(catalog, stored, copy_ties=ties == "copy")
    selection = Selection(named={**selection.named, **(additions or {})}, left_out=selection.left_out)
    return build(
        selection.only(wanted),
        dtype=parse_dtype(dtype, catalog.origin.training_dtype),
        max_shard_bytes=None if max_shard_size is None else parse_size(max_shard_size),
        padding_bytes=padding_bytes(catalog),
    )


def _assets(catalog: Catalog, base: Path | None) -> Assets:
    directory = None if base is None else os.fspath(base)
    if directory is not None and not os.path.isdir(directory):
        raise BadOption(f"the base model must be a directory; got {directory}")
    return choose(catalog.origin.root, directory, tags=catalog.origin.tags)


def _check(catalog: Catalog, stored: Mapping[str, Source], inputs: Inputs, check: str) -> int:
    if check not in ("sample", "all", "none"):
        raise BadOption(f"the check is 'sample', 'all' or 'none'; got {check!r}")
    if check == "none" or not catalog.module:
        return 0
    from .run.witness import compare

    return compare(comparisons(catalog, stored, everything=check == "all"), inputs)


_WRAPPERS = ("module.", "_forward_module.", "_orig_mod.", "base_model.model.", "pretrained_model.")


def _warnings(plan: ModelPlan, assets: Assets, overflows: dict[str, int]) -> list[str]:
    warnings = []
    names = [tensor.name for tensor in plan.tensors() if tensor.is_parameter]
    prefix = next((p for p in _WRAPPERS if names and all(name.startswith(p) for name in names)), None)
    if prefix:
        warnings.append(f"every name carries the wrapper's prefix {prefix!r}: a loader will not find its parameters")
    if overflows:
        warnings.append(f"{sum(overflows.values())} values became infinite, in {', '.join(sorted(overflows)[:4])}")
    if assets.unknown:
        warnings.append(f"not copied, because not known to belong to a model: {', '.join(assets.unknown)}")
    return warnings
