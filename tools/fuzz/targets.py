"""What is fuzzed: each target takes bytes and must end, or raise one of our errors. Anything else is a finding.

`tests/tools/test_fuzz_corpus.py` replays the kept inputs through these functions; `tools/fuzz/run.py` makes new ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING

from draw import Draw

from zeroconsolidate.archive import names
from zeroconsolidate.archive.discover import discover
from zeroconsolidate.archive.legacy import open_container
from zeroconsolidate.archive.located import LocatedTensor
from zeroconsolidate.archive.safetensors import read_file
from zeroconsolidate.archive.unpickle import unpickle
from zeroconsolidate.catalog.read import read
from zeroconsolidate.errors import PlanBroken, ZeroConsolidateError
from zeroconsolidate.opening.incomplete import read_incomplete
from zeroconsolidate.opening.info import describe
from zeroconsolidate.opening.rescue import rescue
from zeroconsolidate.outputs.assets import choose
from zeroconsolidate.outputs.config import with_dtype
from zeroconsolidate.plan.pieces import covers_once
from zeroconsolidate.plan.sources import sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from zeroconsolidate.plan.pieces import Recipe

STORAGE_BYTES = 1 << 12


class Bottomless:
    """Stands in for a container: every storage is there, if it is not larger than STORAGE_BYTES."""

    path = "rank.pt"
    big_endian = False

    def storage(self, key: str, size_bytes: int) -> int:
        if size_bytes > STORAGE_BYTES or not key.isdecimal():
            raise ZeroConsolidateError("no such storage")
        return STORAGE_BYTES * len(key)

    def pread(self, size_bytes: int, start: int) -> bytes:
        assert 0 <= size_bytes <= STORAGE_BYTES
        assert start >= 0
        return bytes(size_bytes)


def pickles(data: bytes) -> None:
    """The machine on raw opcodes. Whatever comes out is bounded and holds tensors that lie in their storages."""
    value = unpickle(data, Bottomless())
    seen, left = set(), [value]
    while left:
        item = left.pop()
        if isinstance(item, (list, tuple, dict)):
            if id(item) not in seen:
                seen.add(id(item))
                left += item.values() if isinstance(item, dict) else item
        elif isinstance(item, LocatedTensor):
            inside(item)
    assert len(seen) <= len(data)


def inside(tensor: LocatedTensor) -> None:
    """The tensor reads no byte that is not its storage's."""
    assert tensor.file in ("", Bottomless.path)
    if tensor.numel:
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
        assert 0 <= tensor.offset <= last < tensor.storage.numel


def containers(data: bytes) -> None:
    """A whole file, zip or legacy. No storage that is handed out lies outside of it."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        path = f"/proc/self/fd/{fd}"
        with open_container(path) as container:
            pickled = container.read_pickle()
            value = unpickle(pickled, container)
            for tensor in _tensors(value):
                assert tensor.numel == 0 or tensor.start + tensor.dtype.itemsize <= len(data)
    finally:
        os.close(fd)


def _tensors(value: object) -> list[LocatedTensor]:
    found, seen, left = [], set(), [value]
    while left:
        item = left.pop()
        if isinstance(item, LocatedTensor):
            found.append(item)
        elif isinstance(item, (list, tuple, dict)) and id(item) not in seen:
            seen.add(id(item))
            left += item.values() if isinstance(item, dict) else item
    return found


def catalogs(data: bytes) -> None:
    """Generated raw files, read, compared, placed, described, rescued. Every byte of a plan is one of some storage."""
    from generate import checkpoint

    files, load = checkpoint(Draw(data))
    try:
        catalog = read(files, load)
    except ZeroConsolidateError:
        files, load = checkpoint(Draw(data))
        catalog = read_incomplete(files, load, {}).catalog
        json.dumps(describe(catalog).to_dict())
        for rescued in rescue(catalog, [], zeros=True):
            if rescued.source is not None:
                _covered(rescued.source.recipe)
        raise
    json.dumps(describe(catalog).to_dict())
    for source in sources(catalog).values():
        _covered(source.recipe)


def _covered(recipe: Recipe) -> None:
    if recipe.numel > 1 << 16:
        return
    numel = 0
    for copy in recipe.copies():
        numel += copy.numel
        end = copy.file_start + ((copy.count - 1) * copy.file_step + copy.run_numel) * copy.dtype.itemsize
        assert 0 <= copy.file_start <= end <= 1 << 40, copy
    assert numel == recipe.numel
    if numel < 4096:
        with contextlib.suppress(PlanBroken):
            covers_once(recipe)


def safetensors(data: bytes) -> None:
    """A safetensors file. No tensor lies outside of it."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        file = read_file(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    for tensor in file.tensors.values():
        end = tensor.start + tensor.numel * tensor.dtype.itemsize
        assert file.data_start <= tensor.start <= end <= len(data)


def folders(data: bytes) -> None:
    """Names of files, `latest`, links, and what is copied beside the weights."""
    draw = Draw(data)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        os.mkdir(f"{root}/c")
        for _ in range(draw.below(6)):
            name = _file_name(draw)
            names.parse(name)
            with contextlib.suppress(OSError, ValueError):
                path = os.path.join(f"{root}/c", draw.one_of(["", "", "t", "global_step1"]), name)
                if os.path.realpath(path).startswith(f"{root}/"):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    kind = draw.below(4)
                    if kind == 0:
                        os.symlink(draw.one_of(["..", "/etc/passwd", ".", "config.json", "../c/latest"]), path)
                    elif kind == 1:
                        os.mkfifo(path)
                    else:
                        with open(path, "xb") as file:
                            file.write(draw.bytes(draw.below(64)))
        with contextlib.suppress(ZeroConsolidateError):
            found = discover(f"{root}/c", None if draw.below(4) else draw.text())
            assert os.path.realpath(found.directory).startswith(f"{root}/c")
        chosen = choose(f"{root}/c", None, tags=())
        for name, path in chosen.copies.items():
            assert not os.path.isabs(name)
            assert ".." not in name.split("/")
            assert os.path.realpath(path).startswith(f"{root}/c")


def _file_name(draw: Draw) -> str:
    return draw.one_of(
        [
            "latest", "config.json", "tokenizer.json", "1_Pooling/config.json", "global_step1", "global_step²",
            "mp_rank_00_model_states.pt", f"zero_pp_rank_{draw.below(12)}_mp_rank_00_optim_states.pt", "modeling.py",
        ]
    ) if draw.below(4) else draw.text()  # fmt: skip


def configs(data: bytes) -> None:
    """config.json: whatever it holds, only its dtypes change."""
    text = with_dtype(data, "float32")
    assert len(text) <= len(data) * 2


TARGETS: dict[str, Callable[[bytes], None]] = {
    "pickles": pickles,
    "containers": containers,
    "catalogs": catalogs,
    "folders": folders,
    "safetensors": safetensors,
    "configs": configs,
}


def run(name: str, data: bytes) -> bool:
    """Run one input; whether it was accepted. Raises what is a finding."""
    try:
        TARGETS[name](data)
    except ZeroConsolidateError as error:
        assert len(str(error)) < 4000, "an error of more than a page"
        return False
    return True
