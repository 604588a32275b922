"""A checkpoint -> what is wrong with it: checksums, second copies of master weights, NaN and infinity."""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..archive.container import ZipContainer
from ..archive.legacy import open_container
from ..archive.phrases import counted
from ..errors import StoreFailed, ZeroConsolidateError
from ..plan.sources import replicas
from ..plan.witness import comparisons, replica_comparisons
from ..run.cast import AT_ONCE_NUMEL, STORAGE, to_single
from ..run.digest import file_blocks
from ..run.elements import extents_of
from ..run.execute import BLOCK_BYTES, PIECE_BYTES, cuts_of
from ..run.reader import reader
from ..run.together import in_order
from ..run.witness import compared
from .subset import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ..catalog.facts import Catalog
    from ..options.share import Share
    from ..plan.build import Source
    from ..plan.pieces import Recipe
    from ..run.inputs import Inputs
    from .findings import Findings
    from .subset import Subset


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a file of torch, `[start, start + size_bytes)`, and the CRC-32 that the zip directory states."""

    path: str
    name: str
    start: int
    size_bytes: int
    stated: int


def audit_source(
    catalog: Catalog,
    stored: Mapping[str, Source],
    several: Sequence[Inputs],
    findings: Findings,
    *,
    share: Share | None = None,
) -> None:
    """All checks; what is wrong goes into `findings`. `several`: inputs for a thread each. `share`: how much of the
    tensors is to be read."""
    inputs, *others = several
    findings.tensors = len(stored)
    files = len(catalog.files)
    findings.checks.append(f"metadata of all {files} files agrees" if files > 1 else "metadata of the one file")
    subset = choose({name: each.recipe.numel * each.recipe.dtype.itemsize for name, each in stored.items()}, share)
    if share is None:
        _checksums(_used(catalog, stored), inputs, others, findings)
    else:
        findings.files = files
        findings.notes.append("CRC-32 not checked, with --subset: records of all ranks would have to be read whole")
    _finite({name: source for name, source in stored.items() if name in subset}, inputs, others, findings)
    count = f"{len(subset.chosen):,} of {counted(len(stored), 'tensor')}"
    findings.checks.append(f"every value {f'of {count} ' if subset.unread else ''}for NaN and infinity")
    _witness(catalog, stored, subset, inputs, others, findings)
    _replicas(catalog, subset, inputs, others, findings)
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


def _checksums(used: Mapping[str, array[int]], inputs: Inputs, others: Sequence[Inputs], findings: Findings) -> None:
    """CRC-32 of the pickle and of every record that holds something used, as the zip directory states it."""
    records: dict[str, list[Record]] = {}
    problems: dict[str, list[str]] = {}
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
                records[path] = records_of(container, starts)
        except StoreFailed:
            raise
        except (ZeroConsolidateError, OSError) as error:
            problems[path] = [str(error)]
    checked = [record for found in records.values() for record in found]
    bad = damaged(checked, inputs, others, findings)
    read = 0
    for path, found in records.items():
        wrong = [record.name for record in found if record in bad]
        unreadable = [reason for record in found if (reason := bad.get(record)) is not None]
        if unreadable:
            problems[path] = [str(unreadable[0])]
            continue
        read += len(found)
        if wrong and len(wrong) == len(found):
            problems[path] = [
                "no record has the CRC-32 that the file states; either all of it is damaged, or it was saved with "
                "torch.serialization.set_crc32_options(False), which writes none"
            ]
        else:
            problems[path] = [f"record {record} is damaged: its CRC-32 is wrong" for record in wrong]
    findings.problems += [f"{os.path.basename(path)}: {text}" for path in used for text in problems.get(path, [])]
    findings.checks.append(f"CRC-32 of {counted(read, 'record')}")


def records_of(container: ZipContainer, starts: array[int]) -> list[Record]:
    """The records to check: the pickle, and those in which one of the extents `starts` begins."""
    found = []
    for record in container.names:
        if record != "data.pkl" and not record.startswith("data/"):
            continue
        start, size_bytes, stated = container.checksum(record)
        first = bisect_left(starts, start)
        if record == "data.pkl" or (first < len(starts) and starts[first] < start + size_bytes):
            found.append(Record(container.path, record, start, size_bytes, stated))
    return found


def damaged(
    records: Iterable[Record], inputs: Inputs, others: Sequence[Inputs], findings: Findings
) -> dict[Record, ZeroConsolidateError | None]:
    """The records whose CRC-32 is wrong, and those that cannot be read, with the error."""
    bad: dict[Record, ZeroConsolidateError | None] = {}
    with in_order(_crc32, records, inputs, others=others, progress=findings.read) as results:
        for record, crc in results:
            if isinstance(crc, ZeroConsolidateError):
                bad[record] = crc
            elif crc != record.stated:
                bad[record] = None
    return bad


def _crc32(inputs: Inputs, record: Record, advance: Callable[[int], None]) -> tuple[Record, int | ZeroConsolidateError]:
    crc = 0
    try:
        for part in file_blocks(inputs.files, record.path, record.start, record.start + record.size_bytes):
            crc = zlib.crc32(part, crc)
            advance(len(part))
    except StoreFailed:
        raise
    except ZeroConsolidateError as error:
        return record, error
    return record, crc


def _finite(stored: Mapping[str, Source], inputs: Inputs, others: Sequence[Inputs], findings: Findings) -> None:
    found: dict[str, tuple[int, int]] = {}
    coming = (extent for _, recipe, start, stop in _pieces(stored) for extent in extents_of(recipe, [(start, stop)]))
    with (
        inputs.files.expecting(coming),
        in_order(_nonfinite, _pieces(stored), inputs, others=others, progress=findings.read) as results,
    ):
        for name, nans, infinities in results:
            if nans or infinities:
                before = found.get(name, (0, 0))
                found[name] = (before[0] + nans, before[1] + infinities)
    for name, (nans, infinities) in found.items():
        numel = stored[name].recipe.numel
        findings.nonfinite[name] = (nans, infinities)
        findings.notes.append(f"{name}: {nans:,} NaN and {infinities:,} infinite of {numel:,} values")


def _pieces(stored: Mapping[str, Source]) -> Iterator[tuple[str, Recipe, int, int]]:
    """Elements `[start, stop)` of all tensors that can have such values."""
    for name, source in stored.items():
        recipe = source.recipe
        if recipe.dtype.kind in ("float", "float8") and recipe.numel:
            ends = cuts_of(recipe, PIECE_BYTES // recipe.dtype.itemsize)
            yield from ((name, recipe, start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True))


def _nonfinite(
    inputs: Inputs, piece: tuple[str, Recipe, int, int], advance: Callable[[int], None]
) -> tuple[str, int, int]:
    name, recipe, start, stop = piece
    nans = infinities = 0
    elements, most = reader(recipe, inputs), BLOCK_BYTES // recipe.dtype.itemsize
    whole = np.empty(min(most, stop - start), STORAGE[recipe.dtype])
    for first in range(start, stop, most):
        block = whole[: stop - first]
        elements.fill(first, first + len(block), block)
        for begin in range(0, len(block), AT_ONCE_NUMEL):
            some = block[begin : begin + AT_ONCE_NUMEL]
            # numpy knows the types that are called f; what it does not know fits into float32.
            values = some if some.dtype.kind == "f" else to_single(some, recipe.dtype)
            if not np.isfinite(values).all():
                nans += int(np.count_nonzero(np.isnan(values)))
                infinities += int(np.count_nonzero(np.isinf(values)))
        advance(block.nbytes)
    return name, nans, infinities


def _replicas(catalog: Catalog, subset: Subset, inputs: Inputs, others: Sequence[Inputs], findings: Findings) -> None:
    """What several ranks hold. Where DeepSpeed takes the first and does not mind, a difference is worth a note."""
    pairs = [pair for pair in replica_comparisons(replicas(catalog)) if pair.name in subset]
    numel = 0
    for pair, error in compared(pairs, inputs, others=others, progress=findings.read):
        if error is None:
            numel += pair.numel
        else:
            found = findings.notes if pair.is_spare else findings.problems
            found.append(f"{pair.name}: {error.finding}")
    if pairs:
        findings.checks.append(f"{counted(numel, 'value')} that several ranks hold, against one another")


def _witness(
    catalog: Catalog,
    stored: Mapping[str, Source],
    subset: Subset,
    inputs: Inputs,
    others: Sequence[Inputs],
    findings: Findings,
) -> None:
    every = comparisons(catalog, stored, everything=True)
    pairs = [pair for pair in every if pair.name in subset]
    if not every:
        findings.notes.append("values not compared: the checkpoint has no second copy of the weights")
        return
    numel = 0
    for pair, error in compared(pairs, inputs, others=others, progress=findings.read):
        if error is None:
            numel += pair.numel
        else:
            findings.problems.append(f"{pair.name}: {error.finding}")
    findings.checks.append(f"{counted(numel, 'master weight')} against their second copy")
