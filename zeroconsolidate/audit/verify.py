"""The functions that check: they take an output, a checkpoint or both, and give a `Verification` of what is wrong."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..archive.printable import printable
from ..errors import BadOption
from ..integrations.records import record
from ..opening.open import open_catalog
from ..opening.opened import open_whole
from ..options import SourceOptions, VerifyOptions, takes
from ..options.urls import normal
from ..outputs.planned import plan_weights, with_recorded_base
from ..outputs.universal.output import plan_universal
from ..plan.build import sources
from ..run.inputs import Inputs, side_by_side, threads_for
from ..run.local import NOTHING_KNOWN
from ..saves.target import settled
from .findings import Findings, Verification
from .reopened import reopened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..options import Path, Progress, Roots


@takes(VerifyOptions)
def verify(output: Path, options: VerifyOptions) -> Verification:
    """Check a model directory, by itself or byte for byte against a checkpoint.

    By itself: headers, index, sizes, config against shapes, names that the model's class expects, and the digests of
    its manifest. What is wrong is listed in the result, not raised.

    Parameters
    ----------
    output : str or os.PathLike
        The model directory, whatever tool wrote it.

    Returns
    -------
    Verification
        What was checked, what could not be, and what is wrong.

    Raises
    ------
    NotACheckpoint
        If there is no such directory or, with `against`, no weights in it.
    ZeroConsolidateError
        With `against`, what `open_checkpoint` raises.

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.verify("tests/fixtures/models/_bases/llama").ok
    True
    """
    from ..archive.manifest_file import read_manifest
    from ..archive.weights import read_folders
    from ..outputs.modules import modules_in
    from . import against as bytewise
    from . import output as alone
    from .universal import audit_universal_against, is_universal

    began, directory = time.monotonic(), normal(os.fspath(output))
    if options.checkpoint is not None and options.against is None:
        raise BadOption("--checkpoint says which save to compare with", expected="a run directory as well")
    against = options.against
    if against is None:
        options.doing("reading back")
        findings = _findings(options.progress, alone.work_bytes(directory))
        with _several(options) as several:
            alone.audit_output(directory, several, findings, base=options.base_directory, share=options.share)
        return _logged(findings.verification(directory, time.monotonic() - began))
    if is_universal(directory):
        against, options = settled(against, options)
        opened = open_whole(against, options)
        options.doing("comparing values")
        findings = _findings(options.progress, 2 * sum(file.size_bytes for file in plan_universal(opened).plan.files))
        with _several(options, opened.looks) as several:
            audit_universal_against(directory, opened, several, findings, share=options.share)
        return _logged(findings.verification(directory, time.monotonic() - began))
    manifest = read_manifest(directory) or {}
    recorded = manifest.get("options", {})
    opened, chosen = reopened(against, manifest, options)
    options.doing("checking names")
    chosen = with_recorded_base(opened, chosen)
    plan = plan_weights(opened, chosen, modules_in(directory), every_name=True).plan
    options.doing("comparing values")
    planned = {
        os.path.join(os.path.dirname(file.name), tensor.name): tensor
        for file in plan.all_files
        for tensor in file.tensors
    }
    weights = read_folders(directory, [os.path.dirname(file.name) for file in plan.all_files])
    # What is written under several names is of one recipe.
    owners = {name: id(tensor.recipe) for name, tensor in planned.items()}
    written = {owners[name] for name in weights.tensors if name in owners}
    aliases = frozenset(name for name, owner in owners.items() if owner in written)
    findings = _findings(options.progress, bytewise.work_bytes(weights, planned, options.share))
    with _several(options, opened.looks) as (inputs, *others):
        bytewise.audit_against(weights, planned, aliases, inputs, findings, others=others, share=options.share)
    if findings.problems and options.base is None and recorded.get("base"):
        findings.notes.append(
            f"the output was made with the base model {recorded['base']}: name its directory with --base, and compare "
            "again"
        )
    return _logged(findings.verification(directory, time.monotonic() - began))


@takes(SourceOptions)
def verify_source(src: Roots, options: SourceOptions) -> Verification:
    """Check a checkpoint, including all of its values.

    This checks the CRC-32 of every record that is used, whether the ranks agree, every master weight against its 16-bit
    copy (stages 1 and 2), and every value for NaN and infinity. What is wrong is listed in the result, not raised.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks.

    Returns
    -------
    Verification
        What was checked, what could not be, and what is wrong.

    Raises
    ------
    ZeroConsolidateError
        If the checkpoint cannot be read at all: what `open_checkpoint` raises.

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.verify_source("tests/fixtures/z3_bf16/checkpoint").ok
    True
    """
    from .source import audit_source, work_bytes

    began = time.monotonic()
    src, options = settled(src, options)
    catalog = open_catalog(src, options.tag, files_read=options.files_read)
    stored = sources(catalog)
    options.doing("reading all values")
    findings = _findings(options.progress, work_bytes(catalog, stored, options.share))
    with _several(options, catalog.looks) as several:
        audit_source(catalog, stored, several, findings, share=options.share)
    return _logged(findings.verification(os.path.dirname(catalog.files[0]), time.monotonic() - began))


def _logged(found: Verification) -> Verification:
    """What is wrong is a warning, notes are information."""
    subject = printable(found.subject)
    record("warning", map(printable, found.problems), of=subject)
    record("info", map(printable, (*found.checks, *found.notes)), of=subject)
    return found


@contextmanager
def _several(
    options: SourceOptions | VerifyOptions, known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN
) -> Iterator[tuple[Inputs, ...]]:
    """Inputs for each thread. `known`: what files looked like before they were read."""
    with Inputs(known=known) as inputs, side_by_side(inputs, threads_for(options.workers)) as several:
        yield several


def _findings(progress: Progress | None, total_bytes: int) -> Findings:
    done = 0

    def advance(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if progress is not None:
            progress(min(done, total_bytes), total_bytes)

    return Findings(advance=advance)
