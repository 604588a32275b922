"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from ._version import __version__
from .archive.discover import discover
from .archive.load import load
from .audit.findings import Findings, Verification
from .catalog.read import read
from .convert import make_beside, make_weights
from .errors import BadOption
from .lazy import Checkpoint, parse_dtype
from .lora import Planned, find_adapters, merged, plan_export, plan_merge, prove_base
from .plan.adapter import ADAPTER_CONFIG
from .plan.build import Cost, ModelPlan, Source, build, padding_bytes, select, sources
from .plan.info import CheckpointInfo, describe
from .plan.layout import INDEX_NAME, parse_size
from .plan.witness import comparisons
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .run.inputs import Inputs
from .write.assets import Assets, choose
from .write.fingerprint import fingerprint
from .write.manifest import MANIFEST_NAME, manifest
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
    restart: bool = False,
    check: str = "sample",
    digest: str | None = None,
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
    copies: "sample", "all" or "none". `digest`: "sha256" or "xxh3" to
    put one of every file and tensor into the manifest.

    The output is complete or not there. A conversion that was stopped, killed included, goes on where it was when
    the same call is made again; with `restart` it begins anew. Raises what `open_checkpoint` raises,
    WitnessMismatch, OutputExists (also: in use), OutputFailed, BadOption (also: what is staged is another conversion).
    """
    began = time.monotonic()
    catalog, output = _open(src, tag), os.path.normpath(os.fspath(out))
    refuse_inside(output, checkpoint=catalog.origin.root, tag_directory=os.path.dirname(catalog.files[0]))
    chosen: dict[str, Any] = {
        "dtype": dtype,
        "max_shard_size": max_shard_size,
        "lora": lora,
        "adapters": list(adapters),
        "ties": ties,
        "exclude_frozen": exclude_frozen,
        "include": list(include),
        "exclude": list(exclude),
    }
    planned = _plan(catalog, base=base, **chosen)
    plan = planned.plan
    assets = planned.assets(_assets(catalog, None if planned.is_adapter else base, planned.folders))
    written = parse_dtype(dtype, catalog.origin.training_dtype)
    if digest is not None:
        maker(digest)
    cost = plan.cost(BLOCK_BYTES)
    traits = fingerprint(
        version=__version__,
        options=chosen | {"base": None if base is None else os.path.realpath(base), "digest": digest},
        sources=[*catalog.files, *assets.copies.values(), *planned.files],
        layout=plan.files,
    )
    with Inputs() as inputs, Stage(output, overwrite=overwrite, restart=restart, fingerprint=traits) as stage:
        resumed_bytes = stage.resumed_bytes
        if stage.is_publishing:
            sizes = stage.finish()
        else:
            stage.need(cost.output_bytes)
            if stage.checked is None:
                stage.note_checked(_check(catalog, inputs, check, planned))
            make_weights(plan, inputs, stage, digest=digest, progress=progress, total_bytes=cost.output_bytes)
            beside = make_beside(plan, assets, stage, written.torch_name, untied=planned.untied)
            digests = {file.name: (stage.facts(file.name) or {}).get("digests", {}) for file in plan.files}
            stage.write(
                MANIFEST_NAME,
                manifest(plan, catalog.origin, options=chosen, digest=digest, weights=digests, beside=beside),
            )
            sizes = stage.publish(last=[INDEX_NAME, "config.json", ADAPTER_CONFIG, MANIFEST_NAME])
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


def verify(
    output: Path, *, against: Path | None = None, tag: str | None = None, progress: Progress | None = None
) -> Verification:
    """Check the model directory `output`: by itself and its manifest, or byte for byte with a checkpoint.

    By itself: headers, index, sizes, config against shapes, digests. `against`: the checkpoint (and its `tag`) it
    must be made of, whatever tool made it; a manifest tells which options were used, else every tensor is expected.
    What is wrong is in `.problems`, not raised. Raises NotACheckpoint if there is nothing to check, and with
    `against` what `open_checkpoint` raises.
    """
    from .archive.weights import read_weights
    from .audit import against as bytewise
    from .audit import output as alone

    began, directory = time.monotonic(), os.path.normpath(os.fspath(output))
    if against is None:
        findings = _findings(progress, alone.work_bytes(directory))
        alone.audit_output(directory, findings)
        return findings.verification(directory, time.monotonic() - began)
    catalog, weights = _open(against, tag), read_weights(directory)
    options = (alone.read_manifest(directory) or {}).get("options", {})
    chosen = {key: options.get(key, default) for key, default in _EVERYTHING.items()}
    plan = _plan(catalog, base=None, dtype="fp32", max_shard_size=None, ties="copy", **chosen).plan
    planned = {tensor.name: tensor for tensor in plan.tensors()}
    owners = {name: catalog.ties.get(name, name) for name in planned}
    written = {owners[name] for name in weights.tensors if name in owners}
    aliases = frozenset(name for name, owner in owners.items() if owner in written)
    findings = _findings(progress, bytewise.work_bytes(weights, planned))
    with Inputs() as inputs:
        bytewise.audit_against(weights, planned, aliases, inputs, findings)
    return findings.verification(directory, time.monotonic() - began)


_EVERYTHING: dict[str, Any] = {"lora": "keep", "adapters": (), "exclude_frozen": False, "include": (), "exclude": ()}


def verify_source(src: Path, *, tag: str | None = None, progress: Progress | None = None) -> Verification:
    """Check a checkpoint: CRC-32 of every record used, agreement of ranks, every master weight against its 16-bit
    copy (stages 1 and 2), NaN and infinity counts by tensor.

    What is wrong is in `.problems`, not raised; what keeps the checkpoint from being read at all is raised, as by
    `open_checkpoint`.
    """
    from .audit.source import audit_source, work_bytes

    began = time.monotonic()
    catalog = _open(src, tag)
    stored = sources(catalog)
    findings = _findings(progress, work_bytes(catalog, stored))
    with Inputs() as inputs:
        audit_source(catalog, stored, inputs, findings)
    return findings.verification(os.path.dirname(catalog.files[0]), time.monotonic() - began)


def _findings(progress: Progress | None, total_bytes: int) -> Findings:
    done = 0

    def advance(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if progress is not None:
            progress(min(done, total_bytes), total_bytes)

    return Findings(advance=advance)


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

    directory, target = _directory(base), parse_dtype(dtype, catalog.origin.training_dtype)
    found = find_adapters(catalog, lora=lora, chosen=adapters)
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
