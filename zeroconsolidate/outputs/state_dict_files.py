"""A state dict in DeepSpeed's order -> files of it, as DeepSpeed's zero_to_fp32 writes them: no config, no manifest.

Each file is written aside, synced and renamed: under its own name it is never half made.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.model_files import INDEX_NAME, PICKLE_INDEX_NAME, PICKLE_NAME, WEIGHTS, is_weights
from ..errors import at
from ..plan.layout import FilePlan, TensorPlan, grouped, lay_out, numbered
from ..plan.torch_file import TorchFilePlan, stored, torch_file
from ..run.checksum import Checksummed
from ..run.counts import Counts
from ..run.execute import execute
from ..run.inputs import Inputs
from ..run.local import NOTHING_KNOWN
from ..run.local_output import LocalOutput
from ..write.check import check
from ..write.system import remove, sync_directory, system_errors, write_all
from .named import ties_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from ..plan.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDictFiles:
    """Files of a state dict, planned."""

    files: tuple[FilePlan, ...]
    index: tuple[str, bytes] | None
    """Name and content of the index, for several files."""
    old_index: str | None
    """Name of the index that an earlier output has left where these are written: it is of other files."""
    left_out: Mapping[str, str]
    """Second names of tied weights that a safetensors file cannot have, and under which they are written."""


def in_deepspeeds_order(catalog: Catalog, stored: Mapping[str, Source], *, frozen: bool) -> dict[str, Source]:
    """The names in the order in which zero_to_fp32 has them: buffers, frozen parameters, then the others by flat group,
    then second names of tied weights. `frozen`: whether frozen parameters are wanted."""
    by_role: dict[str, list[str]] = {"buffer": [], "frozen": [], "trainable": []}
    trained = dict.fromkeys(member.name for group in catalog.groups for member in group.members)
    first = dict.fromkeys([*catalog.buffers, *catalog.frozen, *trained])
    for name in dict.fromkeys([*(name for name in first if name in stored), *stored]):
        by_role[stored[name].role].append(name)
    names = [*by_role["buffer"], *(by_role["frozen"] if frozen else ()), *by_role["trainable"]]
    found = {name: stored[name] for name in names}
    found |= {alias: found[owner] for alias, owner in catalog.ties.items() if owner in found}
    return found


def tensor_plan(name: str, source: Source, dtype: DType | None) -> TensorPlan:
    """One tensor; whatever is a floating-point number as `dtype`, buffers too, as zero_to_fp32 casts them."""
    is_floating = source.recipe.dtype.kind in ("float", "float8")
    return TensorPlan(
        name=name,
        dtype=dtype if is_floating and dtype is not None else source.recipe.dtype,
        shape=source.shape,
        recipe=source.recipe,
        is_parameter=source.role != "buffer",
    )


def plan_files(
    named: Mapping[str, Source],
    dtype: DType | None,
    *,
    max_shard_bytes: int | None,
    safe: bool,
    name: str | None = None,
) -> StateDictFiles:
    """`safe`: safetensors, instead of torch's own format; `name`: of the one file there is to be."""
    ties = ties_of(named)
    tensors = [tensor_plan(each, source, dtype) for each, source in named.items() if each not in ties]
    shards = grouped(tensors, max_shard_bytes)
    names = numbered(name or (WEIGHTS if safe else PICKLE_NAME), len(shards))
    weight_map = {tensor.name: file for file, shard in zip(names, shards, strict=True) for tensor in shard}
    if safe:
        files: list[FilePlan] = [lay_out(file, shard) for file, shard in zip(names, shards, strict=True)]
    else:
        weight_map |= {alias: weight_map[owner] for alias, owner in ties.items()}
        files = [_pickled(file, shard, named, ties) for file, shard in zip(names, shards, strict=True)]
    index, index_name = None, INDEX_NAME if safe else PICKLE_INDEX_NAME
    if len(files) > 1:
        metadata = {"total_size": sum(tensor.nbytes for tensor in tensors)}
        text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
        index = (index_name, text.encode())
    return StateDictFiles(
        files=tuple(files),
        index=index,
        old_index=index_name if name is None else None,
        left_out=ties if safe else {},
    )


def _pickled(
    file: str, shard: Sequence[TensorPlan], named: Mapping[str, Source], ties: Mapping[str, str]
) -> TorchFilePlan:
    return torch_file(file, state_dict_content(shard, named, ties), shard)


def state_dict_content(
    shard: Sequence[TensorPlan], names: Mapping[str, object], ties: Mapping[str, str]
) -> dict[str, object]:
    """Name -> what stands for the tensor in a file of torch, in the order of `names`, aliases included."""
    held = {tensor.name: stored(key, tensor) for key, tensor in enumerate(shard)}
    return {name: held[ties.get(name, name)] for name in names if ties.get(name, name) in held}


def write_files(
    directory: str, planned: StateDictFiles, *, known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN
) -> None:
    """Write the files, the index last. `known`: what the files of the checkpoint looked like before they were read.
    Raises OutputFailed, and DamagedFile if the checkpoint cannot be read or has changed."""
    with system_errors(directory):
        os.makedirs(directory or ".", exist_ok=True)
        if planned.old_index is not None:
            # Of shards with the same names it would name some that are new and some that are old, if this is cut off.
            remove(os.path.join(directory, planned.old_index))
    with Inputs(known=known) as inputs:
        for file in planned.files:
            write_file(os.path.join(directory, file.name), file, inputs)
    if planned.index is not None:
        name, data = planned.index
        with _written(os.path.join(directory, name)) as (_, fd):
            write_all(fd, data)


def older_weights(directory: str, planned: StateDictFiles) -> list[str]:
    """Files of weights beside those that were planned, which a loader may take in their place: transformers takes
    safetensors first, and one file before shards with an index."""
    ours = {file.name for file in planned.files}
    if planned.old_index is None:
        return []
    with system_errors(directory):
        return sorted(name for name in os.listdir(directory or ".") if is_weights(name) and name not in ours)


def write_file(path: str, plan: FilePlan, inputs: Inputs) -> None:
    """Write one file. Raises what `write_files` raises."""
    with _written(path) as (aside, fd):
        output = LocalOutput(path, fd, start=0)
        if isinstance(plan, TorchFilePlan):
            _tensor_by_tensor(plan, inputs, output)
        else:
            execute(plan, inputs, output, start=0, counts=Counts(), reached=lambda _: None)
            check(aside, plan)


def _tensor_by_tensor(plan: TorchFilePlan, inputs: Inputs, output: LocalOutput) -> None:
    """A file of torch: behind the data of each tensor stands their checksum."""
    output.write(plan.header, 0)
    checksums = []
    for index, (tensor, start) in enumerate(zip(plan.tensors, plan.starts, strict=True)):
        stop = start + tensor.nbytes
        data = Checksummed(output, start=start, stop=stop, written=start)
        alone = FilePlan(name=plan.name, header=b"", tensors=(tensor,), starts=(start,), size_bytes=stop)
        execute(alone, inputs, data, start=start, counts=Counts(), reached=lambda _: None)
        checksums.append(data.value)
        output.write(plan.behind(index, data.value), stop)
    output.write(plan.tail(checksums), plan.tail_start)


@contextmanager
def _written(path: str) -> Iterator[tuple[str, int]]:
    """A file beside `path` and its descriptor; `path` is its name when the block ends, and if it fails it is gone."""
    aside = f"{path}.{os.getpid()}.part"
    with at(path), system_errors(path):
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            try:
                yield aside, fd
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                remove(aside)
            raise
        sync_directory(os.path.dirname(path))
