"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from ._version import __version__
from .archive.discover import discover
from .archive.load import load
from .catalog.read import read
from .errors import BadOption, at
from .lazy import Checkpoint, parse_dtype
from .plan.build import Cost, ModelPlan, build, sources
from .plan.info import CheckpointInfo, describe
from .plan.layout import INDEX_NAME, parse_size
from .plan.witness import comparisons
from .run.digest import Follower, Span, maker
from .run.execute import BLOCK_BYTES, execute
from .run.inputs import Inputs
from .run.outputs import OutputFile
from .write.assets import Assets, choose
from .write.check import check as check_file
from .write.config import with_dtype
from .write.fingerprint import fingerprint
from .write.manifest import MANIFEST_NAME, manifest
from .write.report import Report
from .write.stage import Stage, refuse_inside

if TYPE_CHECKING:
    from .catalog.facts import Catalog
    from .plan.layout import FilePlan

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
    original model, for config, tokenizer and the like where the checkpoint has none. `ties`: "drop" writes a
    tied parameter once, "copy" under all its names. `include` and `exclude`: globs of names. `check`: compare
    masters with the 16-bit copies of stages 1 and 2: "sample", "all" or "none". `digest`: "sha256" or "xxh3" to
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
        "ties": ties,
        "exclude_frozen": exclude_frozen,
        "include": list(include),
        "exclude": list(exclude),
    }
    plan = _plan(catalog, **chosen)
    assets = _assets(catalog, base)
    written = parse_dtype(dtype, catalog.origin.training_dtype)
    if digest is not None:
        maker(digest)
    cost = plan.cost(BLOCK_BYTES)
    traits = fingerprint(
        version=__version__,
        options=chosen | {"base": None if base is None else os.path.realpath(base), "digest": digest},
        sources=[*catalog.files, *assets.copies.values()],
        layout=plan.files,
    )
    with Inputs() as inputs, Stage(output, overwrite=overwrite, restart=restart, fingerprint=traits) as stage:
        resumed_bytes = stage.resumed_bytes
        if stage.is_publishing:
            sizes = stage.finish()
        else:
            stage.need(cost.output_bytes)
            if stage.checked is None:
                stage.note_checked(_check(catalog, inputs, check))
            _weights(plan, inputs, stage, digest, progress, cost.output_bytes)
            beside = _beside(plan, assets, stage, written.torch_name)
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
        warnings=(*catalog.notes, *_warnings(plan, assets, overflows)),
    )


def estimate(
    src: Path,
    *,
    tag: str | None = None,
    dtype: str = "fp32",
    max_shard_size: str | int | None = None,
    exclude_frozen: bool = False,
    ties: str = "drop",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written."""
    plan = _plan(
        _open(src, tag),
        dtype=dtype,
        max_shard_size=max_shard_size,
        ties=ties,
        exclude_frozen=exclude_frozen,
        include=include,
        exclude=exclude,
    )
    return plan.cost(BLOCK_BYTES)


def _open(src: Path, tag: str | None) -> Catalog:
    return read(discover(src, tag), load)


def _plan(
    catalog: Catalog,
    *,
    dtype: str,
    max_shard_size: str | int | None,
    ties: str,
    exclude_frozen: bool,
    include: Sequence[str],
    exclude: Sequence[str],
) -> ModelPlan:
    if ties not in ("drop", "copy"):
        raise BadOption(f"ties are dropped or copied; expected 'drop' or 'copy', got {ties!r}")

    def wanted(name: str) -> bool:
        included = not include or any(fnmatchcase(name, glob) for glob in include)
        return included and not any(fnmatchcase(name, glob) for glob in exclude)

    return build(
        catalog,
        dtype=parse_dtype(dtype, catalog.origin.training_dtype),
        max_shard_bytes=None if max_shard_size is None else parse_size(max_shard_size),
        copy_ties=ties == "copy",
        exclude_frozen=exclude_frozen,
        wanted=wanted,
    )


def _assets(catalog: Catalog, base: Path | None) -> Assets:
    directory = None if base is None else os.fspath(base)
    if directory is not None and not os.path.isdir(directory):
        raise BadOption(f"the base model must be a directory; got {directory}")
    return choose(catalog.origin.root, directory, tags=catalog.origin.tags)


def _check(catalog: Catalog, inputs: Inputs, check: str) -> int:
    if check not in ("sample", "all", "none"):
        raise BadOption(f"the check is 'sample', 'all' or 'none'; got {check!r}")
    if check == "none" or not catalog.module:
        return 0
    from .run.witness import compare

    return compare(comparisons(catalog, sources(catalog), everything=check == "all"), inputs)


def _weights(
    plan: ModelPlan, inputs: Inputs, stage: Stage, digest: str | None, progress: Progress | None, total_bytes: int
) -> None:
    """Make all weights that an earlier run has not made."""
    before = 0
    for file in plan.files:
        if stage.facts(file.name) is not None:
            stage.keep(file.name)
        else:
            with at(file.name):
                _file(file, inputs, stage, digest, _shifted(progress, before, total_bytes))
        before += file.size_bytes


def _file(file: FilePlan, inputs: Inputs, stage: Stage, digest: str | None, progress: Callable[[int], None]) -> None:
    with ExitStack() as stack:
        part = stack.enter_context(stage.weights(file.name, file.size_bytes))
        listeners = [part.reached, progress]
        follower = None
        if digest is not None:
            follower = stack.enter_context(Follower(stage.path(file.name), _spans(file), digest))
            listeners.append(follower.reached)
            follower.reached(part.start)

        def reached(upto: int) -> None:
            for listener in listeners:
                listener(upto)

        overflows = part.facts.setdefault("overflows", {})
        path = os.path.join(stage.output, file.name)
        output = OutputFile(path, part.fd, start=part.start, reached=reached)
        execute(file, inputs, output, start=part.start, overflows=overflows)
        check_file(stage.path(file.name), file)
        if follower is not None:
            found = follower.result()
            part.facts["digests"] = {"file": found.file, "tensors": found.tensors}


def _spans(file: FilePlan) -> list[Span]:
    spans = [Span(0, len(file.header), None)]
    for tensor, start in zip(file.tensors, file.starts, strict=True):
        spans.append(Span(start, start + tensor.nbytes, tensor.name))
    return spans


def _shifted(progress: Progress | None, before: int, total_bytes: int) -> Callable[[int], None]:
    return lambda upto: None if progress is None else progress(before + upto, total_bytes)


def _beside(plan: ModelPlan, assets: Assets, stage: Stage, torch_name: str) -> dict[str, tuple[int, str]]:
    """Stage everything that is not weights; returns sizes and SHA-256 by name."""
    if plan.index is not None:
        stage.write(INDEX_NAME, plan.index)
    for name, path in assets.copies.items():
        if name == "config.json":
            with at(path), open(path, "rb") as file:
                stage.write(name, with_dtype(file.read(), torch_name))
        else:
            stage.copy(name, path)
    found = {}
    for name in sorted([*assets.copies, *([INDEX_NAME] if plan.index is not None else [])]):
        with open(stage.path(name), "rb") as file:
            data = file.read()
        found[name] = (len(data), hashlib.sha256(data).hexdigest())
    return found


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
