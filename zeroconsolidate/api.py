"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, Unpack

from ._version import __version__
from .archive.discover import discover
from .archive.load import load
from .audit.findings import Findings, Verification
from .beside import prepare
from .catalog.read import read
from .convert import make_beside, make_weights
from .errors import BadOption
from .lazy import Checkpoint
from .lora import prove_base
from .options import OptionKeywords, Options
from .plan.adapter import ADAPTER_CONFIG
from .plan.build import Cost, sources
from .plan.info import CheckpointInfo, describe
from .plan.layout import INDEX_NAME
from .plan.witness import comparisons
from .planning import plan_model
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .run.inputs import Inputs
from .write.assets import Assets, choose
from .write.fingerprint import fingerprint, refuse_changed
from .write.manifest import MANIFEST_NAME, manifest
from .write.report import Report
from .write.stage import Stage, refuse_inside

if TYPE_CHECKING:
    from .catalog.facts import Catalog
    from .planning import Planned

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
    overwrite: bool = False,
    restart: bool = False,
    check: str = "sample",
    digest: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[OptionKeywords],
) -> Report:
    """Turn the checkpoint `src` into the model directory `out`.

    What is written:

    - `dtype`: "fp32" (the masters, bit for bit), "bf16", "fp16", or "auto" (what the model was trained in); applies to
      parameters, never to buffers. Default "fp32".
    - `max_shard_size`: such as "5GB". Default None: one file.
    - `base`: directory of the original model: config, tokenizer and the like where the checkpoint has none, a witness
      of names, and the weights that adapters are merged into.
    - `lora`: of a run with PEFT adapters, write the "adapter" (the default) as a directory PEFT loads, "merge" it into
      the full model, or "keep" the raw names. `adapters`: which of several, in the order of merging.
    - `exclude_frozen`, `include` and `exclude` (globs of names): which tensors.
    - `ties`: "drop" writes a tied parameter once, "copy" under all its names.
    - `names`: "hub" undoes wrappers by evidence and writes the hub's layout, "in-memory" keeps the layout that
      transformers 5 has in memory, "stored" changes nothing.
    - `rename`: `FROM=TO` rules, or a function from stored to output names. `allow_missing`: write even if a loader
      would miss parameters.
    - `sentence_transformers`: "cls", "mean" or "last" writes what SentenceTransformer needs, with that pooling.

    How: `tag` chooses among several. `check` compares masters with the 16-bit copies of stages 1 and 2, and `base`
    with the frozen copies of an adapter run: "sample", "all" or "none". `digest`: "sha256" or "xxh3" puts one of every
    file and tensor into the manifest. `overwrite` replaces the model in `out` once the new one is complete.

    The output is complete or not there. A conversion that was stopped, killed included, goes on where it was when
    the same call is made again; with `restart` it begins anew. Raises what `open_checkpoint` raises, WitnessMismatch,
    WrongNames, OutputExists (also: in use), OutputFailed, BadOption (also: what is staged is another conversion).
    """
    began = time.monotonic()
    chosen = Options(**options)
    catalog, output = _open(src, tag), os.path.normpath(os.fspath(out))
    refuse_inside(output, checkpoint=catalog.origin.root, tag_directory=os.path.dirname(catalog.files[0]))
    if digest is not None:
        maker(digest)
    assets = _assets(catalog, chosen)
    planned = plan_model(catalog, chosen)
    if planned.adapted is not None:
        assets = planned.adapted.assets(assets)
    plan, cost = planned.plan, planned.plan.cost(BLOCK_BYTES)
    with Inputs() as inputs:
        beside = prepare(planned, assets, chosen, inputs)
        traits = fingerprint(
            version=__version__,
            options=chosen.plain() | {"digest": digest},
            sources=[*catalog.files, *beside.copies.values(), *(planned.adapted.files if planned.adapted else ())],
            layout=plan.files,
        )
        with Stage(output, overwrite=overwrite, restart=restart, fingerprint=traits) as stage:
            resumed_bytes = stage.resumed_bytes
            if stage.is_publishing:
                sizes = stage.finish()
            else:
                stage.need(cost.output_bytes)
                if stage.checked is None:
                    stage.note_checked(_check(catalog, inputs, check, planned))
                make_weights(plan, inputs, stage, digest=digest, progress=progress, total_bytes=cost.output_bytes)
                around = make_beside(beside.made, beside.copies, stage)
                digests = {file.name: (stage.facts(file.name) or {}).get("digests", {}) for file in plan.files}
                recorded = chosen.plain()
                text = manifest(plan, catalog.origin, options=recorded, digest=digest, weights=digests, beside=around)
                stage.write(MANIFEST_NAME, text)
                refuse_changed(traits)
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
        dtype=planned.dtype.torch_name,
        names=planned.target.reason,
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
        notes=(*catalog.notes, *(planned.adapted.decided if planned.adapted else ()), *beside.notes),
        warnings=(*planned.target.warnings, *_warnings(assets, overflows)),
    )


def estimate(src: Path, *, tag: str | None = None, **options: Unpack[OptionKeywords]) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written."""
    return plan_model(_open(src, tag), Options(**options)).plan.cost(BLOCK_BYTES)


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
    options = Options.recorded((alone.read_manifest(directory) or {}).get("options", {}))
    plan = plan_model(catalog, options).plan
    planned = {tensor.name: tensor for tensor in plan.tensors()}
    owners = {name: catalog.ties.get(name, name) for name in planned}
    written = {owners[name] for name in weights.tensors if name in owners}
    aliases = frozenset(name for name, owner in owners.items() if owner in written)
    findings = _findings(progress, bytewise.work_bytes(weights, planned))
    with Inputs() as inputs:
        bytewise.audit_against(weights, planned, aliases, inputs, findings)
    return findings.verification(directory, time.monotonic() - began)


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


def _assets(catalog: Catalog, options: Options) -> Assets:
    try:
        return choose(catalog.origin.root, options.base_directory, tags=catalog.origin.tags)
    except OSError as error:
        raise BadOption(f"a directory cannot be read: {error.strerror} (at {error.filename})") from None


def _check(catalog: Catalog, inputs: Inputs, check: str, planned: Planned) -> int:
    if check not in ("sample", "all", "none"):
        raise BadOption(f"the check is 'sample', 'all' or 'none'; got {check!r}")
    if check == "none":
        return 0
    checked = prove_base(planned.adapted.comparisons, inputs) if planned.adapted is not None else 0
    if catalog.module:
        from .run.witness import compare

        checked += compare(comparisons(catalog, sources(catalog), everything=check == "all"), inputs)
    return checked


def _warnings(assets: Assets, overflows: dict[str, int]) -> list[str]:
    warnings = []
    if overflows:
        warnings.append(f"{sum(overflows.values())} values became infinite, in {', '.join(sorted(overflows)[:4])}")
    if assets.unknown:
        warnings.append(f"not copied, because not known to belong to a model: {', '.join(assets.unknown)}")
    return warnings
