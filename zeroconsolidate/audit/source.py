"""Is a checkpoint sound? Checksums of what is used of it, masters against their copies, values that are no numbers."""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from ..archive.container import ZipContainer
from ..archive.legacy import open_container
from ..dtypes import DType
from ..errors import DamagedFile, Disagreement, WitnessMismatch, ZeroConsolidateError
from ..plan.witness import comparisons, replica_comparisons
from ..run.cast import STORAGE, cast
from ..run.reader import reader
from ..run.witness import compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..catalog.facts import Catalog
    from ..plan.build import Source
    from ..run.inputs import Inputs
    from ..run.reader import Reader
    from .findings import Findings

_BLOCK_BYTES = 1 << 20


def audit_source(catalog: Catalog, stored: Mapping[str, Source], inputs: Inputs, findings: Findings) -> None:
    """All checks; what is wrong goes into `findings`."""
    findings.tensors = len(stored)
    findings.checks.append(f"ranks agree: {len(catalog.files)} files tell the same story")
    _checksums(_used(catalog, stored), findings)
    _finite(stored, inputs, findings)
    _witness(catalog, stored, inputs, findings)
    _replicas(catalog, inputs, findings)


def work_bytes(catalog: Catalog, stored: Mapping[str, Source]) -> int:
    """About how many bytes `audit_source` will look at, for a progress bar."""
    tensors = sum(source.recipe.numel * source.recipe.dtype.itemsize for source in stored.values())
    copies = sum(tensor.numel * tensor.dtype.itemsize for tensor in catalog.module.values())
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
            findings.notes.append(f"{name}: a raw file of NVMe offload has no checksums")
            continue
        try:
            with open_container(path) as container:
                if not isinstance(container, ZipContainer):
                    findings.notes.append(f"{name}: torch's older container has no checksums")
                    continue
                bad, checked = _records(container, starts, findings)
        except (ZeroConsolidateError, OSError) as error:
            findings.problems.append(f"{name}: {error}")
            continue
        records += checked
        if bad and len(bad) == checked:
            findings.problems.append(
                f"{name}: no record has the CRC-32 the file states; either it is damaged all over, or it was saved "
                "with torch.serialization.set_crc32_options(False), which writes none"
            )
        else:
            findings.problems += [f"{name}: the record {record} does not have its CRC-32: damaged" for record in bad]
    findings.checks.append(f"CRC-32 of {records} records")


def _records(container: ZipContainer, starts: array[int], findings: Findings) -> tuple[list[str], int]:
    bad, checked = [], 0
    block = memoryview(bytearray(_BLOCK_BYTES))
    with open(container.path, "rb", buffering=0) as file:
        for record in container.names:
            if record != "data.pkl" and not record.startswith("data/"):
                continue
            start, size_bytes, expected = container.checksum(record)
            first = bisect_left(starts, start)
            if record != "data.pkl" and (first == len(starts) or starts[first] >= start + size_bytes):
                continue
            checked += 1
            file.seek(start)
            crc, left = 0, size_bytes
            while left:
                got = file.readinto(block[: min(left, _BLOCK_BYTES)])
                if not got:
                    raise DamagedFile(f"the file ends too early, within the record {record}")
                crc = zlib.crc32(block[:got], crc)
                left -= got
                findings.read(got)
            if crc != expected:
                bad.append(record)
    return bad, checked


def _finite(stored: Mapping[str, Source], inputs: Inputs, findings: Findings) -> None:
    for name, source in stored.items():
        recipe = source.recipe
        if recipe.dtype.kind not in ("float", "float8") or not recipe.numel:
            continue
        nans = infinities = 0
        block_numel = _BLOCK_BYTES // recipe.dtype.itemsize
        block = np.empty(min(block_numel, recipe.numel), STORAGE[recipe.dtype])
        elements = reader(recipe, inputs)
        for first in range(0, recipe.numel, block_numel):
            last = min(first + block_numel, recipe.numel)
            values = _values(elements, recipe.dtype, first, last, block[: last - first])
            findings.read((last - first) * recipe.dtype.itemsize)
            if not np.isfinite(values).all():
                nans += int(np.count_nonzero(np.isnan(values)))
                infinities += int(np.count_nonzero(np.isinf(values)))
        if nans or infinities:
            findings.nonfinite[name] = (nans, infinities)
            findings.notes.append(f"{name} holds {nans} NaN and {infinities} infinite values of {recipe.numel}")
    findings.checks.append("every value looked at for NaN and infinity")


def _values(elements: Reader, dtype: DType, first: int, last: int, block: NDArray[np.generic]) -> NDArray[np.floating]:
    elements.fill(first, last, block)
    if block.dtype.kind == "f":
        return block.view(f"f{block.itemsize}")
    wide = np.empty(len(block), np.float32)
    cast(block, dtype, DType.F32, wide)
    return wide


def _replicas(catalog: Catalog, inputs: Inputs, findings: Findings) -> None:
    """What several ranks hold. Where DeepSpeed takes the first and does not mind, a difference is worth a note."""
    pairs = replica_comparisons(catalog)
    compared = 0
    for pair in pairs:
        try:
            compared += compare([pair], inputs, progress=findings.read)
        except Disagreement as error:
            told = findings.notes if pair.is_spare else findings.problems
            told.append(f"{pair.name}: {error.finding}")
    if pairs:
        findings.checks.append(f"{compared:,} elements that several ranks hold against one another")


def _witness(catalog: Catalog, stored: Mapping[str, Source], inputs: Inputs, findings: Findings) -> None:
    pairs = comparisons(catalog, stored, everything=True)
    if not pairs:
        findings.notes.append("there is no second copy of the weights to compare with: stage 3 saves none")
        return
    compared = 0
    for pair in pairs:
        try:
            compared += compare([pair], inputs, progress=findings.read)
        except WitnessMismatch as error:
            findings.problems.append(f"{pair.name}: {error.finding}")
    findings.checks.append(f"{compared:,} master weights against the copies saved beside them")
