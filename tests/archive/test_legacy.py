"""torch's container from before 1.6: located lazily like the newer one, equal to what torch reads, or refused."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from zeroconsolidate.archive.legacy import LegacyContainer, open_container
from zeroconsolidate.archive.located import LocatedTensor
from zeroconsolidate.archive.unpickle import unpickle
from zeroconsolidate.errors import DamagedFile, UnsupportedLayout, ZeroConsolidateError

SHARED = torch.arange(12.0)
CONTENT = {
    "view": SHARED[2:8].reshape(2, 3),
    "transposed": SHARED.reshape(3, 4).t(),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "steps": 5,
}


def written(path: Path, content: Any = CONTENT) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def read(path: Path) -> Any:
    with open_container(str(path)) as container:
        assert isinstance(container, LegacyContainer)
        assert container.form == "torch legacy"
        return unpickle(container.read_pickle(), container)


def elements(tensor: LocatedTensor) -> list[Any]:
    """The tensor's elements, straight from the file."""
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8, "BOOL": torch.bool, "I64": torch.int64}
    if not tensor.numel:
        return []
    storage = tensor.storage
    raw = Path(storage.file).read_bytes()[storage.start : storage.start + storage.numel * storage.dtype.itemsize]
    flat = torch.frombuffer(bytearray(raw), dtype=kinds[storage.dtype.code])
    return torch.as_strided(flat, tensor.shape, tensor.stride, tensor.offset).tolist()


def test_tensors_lie_where_torch_finds_them(tmp_path: Path):
    path = written(tmp_path / "f.pt")
    found, truth = read(path), torch.load(path, weights_only=True)
    assert found["steps"] == 5
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, LocatedTensor)}
    assert {name: elements(tensor) for name, tensor in tensors.items()} == {
        name: truth[name].tolist() for name in tensors
    }
    assert tensors["view"].storage == tensors["transposed"].storage


@pytest.mark.parametrize("text", ["", "x" * 3_000_000], ids=["short", "long"])
def test_pickles_of_a_file_that_is_not_read_at_once(text: str, tmp_path: Path):
    """They end somewhere in its beginning."""
    content = {"text": text, "large": torch.arange(500_000.0), "last": torch.ones(3)}
    found = read(written(tmp_path / "in", content))
    assert found["text"] == text
    assert elements(found["last"]) == [1.0] * 3


def test_nothing_is_between_the_storages(tmp_path: Path):
    """A count and its elements, one storage behind the other, up to the end of the file."""
    found = read(written(tmp_path / "f.pt", [torch.zeros(3), torch.zeros(5, dtype=torch.uint8), torch.zeros(2)]))
    extents = sorted((t.storage.start - 8, t.storage.start + t.numel * t.dtype.itemsize) for t in found)
    assert [stop for _, stop in extents[:-1]] == [start for start, _ in extents[1:]]
    assert extents[-1][1] == (tmp_path / "f.pt").stat().st_size


def test_a_zip_is_told_by_its_first_bytes(tmp_path: Path):
    torch.save(CONTENT, tmp_path / "f.pt")
    with open_container(str(tmp_path / "f.pt")) as container:
        assert not isinstance(container, LegacyContainer)


# --- what is refused --------------------------------------------------------------------------------------------------


def parts(content: Any = CONTENT) -> list[Any]:
    """What a file consists of: five pickled values (the fourth as bytes) and the raw storages behind them."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    stream, values, ends = io.BytesIO(data), [], [0]
    for _ in range(5):
        values.append(_Anything(stream).load())
        ends.append(stream.tell())
    return [*values[:3], data[ends[3] : ends[4]], values[4], data[ends[5] :]]


class _Anything(pickle.Unpickler):
    """Reads past any pickle: only where it ends is of interest."""

    def persistent_load(self, pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return lambda *_: None


def forged(path: Path, **changes: Any) -> Path:
    """A file with some of its parts replaced."""
    names = ("magic", "protocol", "system", "object", "keys", "storages")
    file = dict(zip(names, parts(changes.pop("content", CONTENT)), strict=True)) | changes
    raw = [file[name] if name in ("object", "storages") else pickle.dumps(file[name], protocol=2) for name in names]
    path.write_bytes(b"".join(raw))
    return path


def test_the_forger_writes_what_torch_writes(tmp_path: Path):
    assert read(forged(tmp_path / "f.pt"))["steps"] == 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"magic": 7}, DamagedFile, "not a torch checkpoint: it is neither a zip archive nor torch's older container"),
        ({"protocol": 1002}, UnsupportedLayout, "torch's older container has the protocol 1002; expected 1001"),
        ({"keys": ["x"]}, DamagedFile, "the list of storages does not match the storages in the pickle"),
        ({"keys": 7}, DamagedFile, "the list of storages does not match the storages in the pickle"),
        ({"keys": [7]}, DamagedFile, "the list of storages does not match the storages in the pickle"),
        ({"storages": b""}, DamagedFile, r"the file ends too early; expected \d+ bytes"),
    ],
)
def test_files_that_are_none(changes: dict[str, Any], error: type[ZeroConsolidateError], message: str, tmp_path: Path):
    with pytest.raises(error, match=message):
        read(forged(tmp_path / "f.pt", **changes))


def test_a_storage_of_another_size_than_the_pickle_says(tmp_path: Path):
    storages = struct.pack("<q", 4) + bytes(16)
    with pytest.raises(DamagedFile, match=r"does not have the size that the pickle says; expected 3 elements, got 4"):
        read(forged(tmp_path / "f.pt", content=[torch.zeros(3)], storages=storages))


@pytest.mark.parametrize(("end", "message"), [(-1, "the file is truncated"), (1, "the file has bytes after its end")])
def test_every_byte_is_accounted_for(end: int, message: str, tmp_path: Path):
    data = written(tmp_path / "f.pt", [torch.zeros(3)]).read_bytes()
    (tmp_path / "f.pt").write_bytes(data[:end] if end < 0 else data + bytes(end))
    with pytest.raises(DamagedFile, match=f"{message}; expected {len(data)} bytes, got {len(data) + end}"):
        read(tmp_path / "f.pt")


def test_a_machine_of_the_other_byte_order_is_told(tmp_path: Path):
    """Counts and elements are then big-endian; whoever reads elements is told so."""
    system = {"protocol_version": 1001, "little_endian": False, "type_sizes": {}}
    storages = struct.pack(">q", 2) + struct.pack(">2f", 1.0, 2.0)
    (tensor,) = read(forged(tmp_path / "f.pt", content=[torch.zeros(2)], system=system, storages=storages))
    assert tensor.storage.big_endian


@pytest.mark.parametrize("pickled", [b"\x80\x02]q", b"\x80\x02K", b"\x80\x02K\x01K\x02\x93.", b"\x80"])
def test_pickles_that_break_off(pickled: bytes, tmp_path: Path):
    (tmp_path / "f.pt").write_bytes(pickled)
    with pytest.raises(ZeroConsolidateError):
        read(tmp_path / "f.pt")


def test_a_storage_that_is_not_there(tmp_path: Path):
    with open_container(str(written(tmp_path / "f.pt"))) as container:
        with pytest.raises(DamagedFile, match="the container has no storage 'x'"):
            container.storage("x", 4)
        with pytest.raises(DamagedFile, match="the file ends too early"):
            container.pread(8, (tmp_path / "f.pt").stat().st_size - 4)
