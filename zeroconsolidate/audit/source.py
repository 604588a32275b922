"""A checkpoint -> what is wrong with it: checksums, second copies of master weights, NaN and infinity."""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from ..archive.container import ZipContainer
from ..archive.legacy import open_container
from ..archive.phrases import counted
from ..errors import Disagreement, StoreFailed, WitnessMismatch, ZeroConsolidateError
from ..plan.sources import replicas
from ..plan.witness import comparisons, replica_comparisons
from ..run.cast import to_single
from ..run.digest import file_blocks
from ..run.elements import blocks
from ..run.files import Files
from ..run.witness import compare
from .subset import choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Catalog
    from ..options.share import Share
    from ..plan.build import Source
    from ..run.inputs import Inputs
    from .findings import Findings
    from .subset import Subset


def audit_source(
    catalog: Catalog, stored: Mapping[str, Source], inputs: Inputs, findings: Findings, *, share: Share | None = None
) -> None:
    """All checks; what is wrong goes into `findings`. `share`: how much of the tensors is to be read."""
    findings.tensors = len(stored)
    files = len(catalog.files)
    findings.checks.append(f"metadata of all {files} files agrees" if files > 1 else "metadata of the one file")
    subset = choose({name: each.recipe.numel * each.recipe.dtype.itemsize for name, each in stored.items()}, share)
    if share is None:
        _checksums(_used(catalog, stored), findings)
    else:
        findings.files = files
        findings.notes.append("CRC-32 not checked, with --subset: records of all ranks would have to be read whole")
    _finite({name: source for name, source in stored.items() if name in subset}, inputs, findings)
    _witness(catalog, stored, subset, inputs, findings)
    _replicas(catalog, subset, inputs, findings)
    subset.tell(findings, "tensor")


def work_bytes(catalog: Catalog, stored: Mapping[str, Source], share: Share | None = None) -> int:
    """About how many bytes `audit_source` will read, for a progress bar."""
    tensors = sum(source.recipe.numel * source.recipe.dtype.itemsize for source in stored.values())
    copies = sum(tensor.numel * tensor.dtype.itemsize for tensor in catalog.module.values())
    if share is not None:
        return share.of(tensors + (tensors + 2 * copies if catalog.module else 0))
    return 2 * tensors + (tensors + 2 * copies if catalog.module else 0)


def _used(catalog: Catalog, stored: Mapping[str, Source]) -> dict[str, array[int]]:
    """File -> where the extents begin that some tensor is made of, sorted."""
    starts: dict[str, array[int]] = {path: array("q") for path in catalog.files}
    for source in stored.values():
        for copy in source.recipe.copies():
            starts.setdefault(copy.file, array("q")).append(copy.file_start)
    for tensor in catalog.module.values():
        starts[tensor.file].append(tensor.start)
    return {path: array("q", sorted(found)) for path, found in starts.items()}


def _checksums(used: Mapping[str, array[int]], findings: Findings) -> None:
    """CRC-32 of the pickle and of every record that holds something used, as the zip directory states it."""
    records = 0
    for path, starts in used.items():
        name = os.path.basename(path)
        findings.files += 1
        if not name.endswith(".pt"):
            findings.notes.append(f"{name}: not checked, a raw file of NVMe offload has no checksums")
            continue
        try:
            with open_container(path) as container:
                if not isinstance(container, ZipContainer):
                    findings.notes.append(f"{name}: not checked, the file format of torch before 1.6 has no checksums")
                    continue
                bad, checked = damaged_records(container, starts, findings)
        except StoreFailed:
            raise
        except (ZeroConsolidateError, OSError) as error:
            findings.problems.append(f"{name}: {error}")
            continue
        records += checked
        if bad and len(bad) == checked:
            findings.problems.append(
                f"{name}: no record has the CRC-32 that the file states; either all of it is damaged, or it was saved "
                "with torch.serialization.set_crc32_options(False), which writes none"
            )
        else:
            findings.problems += [f"{name}: record {record} is damaged: its CRC-32 is wrong" for record in bad]
    findings.checks.append(f"CRC-32 of {counted(records, 'record')}")


def damaged_records(container: ZipContainer, starts: array[int], findings: Findings) -> tuple[list[str], int]:
    """(the records whose CRC-32 is wrong, how many were read): the pickle, and those in which one of the extents
    `starts` begins."""
    bad, checked = [], 0
    with Files() as files:
        for record in container.names:
            if record != "data.pkl" and not record.startswith("data/"):
                continue
            start, size_bytes, expected = container.checksum(record)
            first = bisect_left(starts, start)
            if record != "data.pkl" and (first == len(starts) or starts[first] >= start + size_bytes):
                continue
            checked += 1
            crc = 0
            for part in file_blocks(files, container.path, start, start + size_bytes):
                crc = zlib.crc32(part, crc)
                findings.read(len(part))
            if crc != expected:
                bad.append(record)
    return bad, checked


def _finite(stored: Mapping[str, Source], inputs: Inputs, findings: Findings) -> None:
    for name, source in stored.items():
        recipe = source.recipe
        if recipe.dtype.kind not in ("float", "float8") or not recipe.numel:
            continue
        nans = infinities = 0
        for block in blocks(recipe, [(0, recipe.numel)], inputs):
            # numpy knows the types that are called f; what it does not know fits into float32.
            values = block if block.dtype.kind == "f" else to_single(block, recipe.dtype)
            findings.read(block.nbytes)
            if not np.isfinite(values).all():
                nans += int(np.count_nonzero(np.isnan(values)))
                infinities += int(np.count_nonzero(np.isinf(values)))
        if nans or infinities:
            findings.nonfinite[name] = (nans, infinities)
            findings.notes.append(f"{name}: {nans:,} NaN and {infinities:,} infinite of {recipe.numel:,} values")
    findings.checks.append("every value for NaN and infinity")


def _replicas(catalog: Catalog, subset: Subset, inputs: Inputs, findings: Findings) -> None:
    """What several ranks hold. Where DeepSpeed takes the first and does not mind, a difference is worth a note."""
    pairs = [pair for pair in replica_comparisons(replicas(catalog)) if pair.name in subset]
    compared = 0
    for pair in pairs:
        try:
            compared += compare([pair], inputs, progress=findings.read)
        except Disagreement as error:
            found = findings.notes if pair.is_spare else findings.problems
            found.append(f"{pair.name}: {error.finding}")
    if pairs:
        findings.checks.append(f"{counted(compared, 'value')} that several ranks hold, against one another")


def _witness(
    catalog: Catalog, stored: Mapping[str, Source], subset: Subset, inputs: Inputs, findings: Findings
) -> None:
    every = comparisons(catalog, stored, everything=True)
    pairs = [pair for pair in every if pair.name in subset]
    if not every:
        findings.notes.append("values not compared: the checkpoint has no second copy of the weights")
        return
    compared = 0
    for pair in pairs:
        try:
            compared += compare([pair], inputs, progress=findings.read)
        except WitnessMismatch as error:
            findings.problems.append(f"{pair.name}: {error.finding}")
    findings.checks.append(f"{counted(compared, 'master weight')} against their second copy")
