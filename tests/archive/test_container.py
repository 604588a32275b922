"""Our reader of `.pt` files against torch: whatever `torch.save` writes, the bytes are where we say they are."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from containers import read, saved

from zeroconsolidate.archive.container import ZipContainer
from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.archive.located import LocatedTensor
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile
from zeroconsolidate.plan.pieces import View, covers_once
from zeroconsolidate.run.elements import read_all
from zeroconsolidate.run.inputs import Inputs

if TYPE_CHECKING:
    from pathlib import Path


def tensor_at(located: LocatedTensor) -> torch.Tensor:
    """The tensor a located stub describes, through the same recipe that conversions use."""
    assert isinstance(located, LocatedTensor)
    covers_once(View(located))
    with Inputs() as inputs:
        elements = read_all(View(located), inputs)
    dtype = getattr(torch, located.dtype.torch_name)
    if not elements.size:
        return torch.empty(located.shape, dtype=dtype)
    return torch.from_numpy(elements.view("u1").copy()).view(dtype).reshape(located.shape)


def assert_same(located: LocatedTensor, tensor: torch.Tensor) -> None:
    got = tensor_at(located)
    assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
    assert got.flatten().view(torch.uint8).tolist() == tensor.contiguous().flatten().view(torch.uint8).tolist()


def of_every_dtype() -> dict[str, torch.Tensor]:
    bits = torch.arange(1, 25, dtype=torch.uint8)
    tensors = {d.torch_name: bits.clone().view(getattr(torch, d.torch_name)) for d in DType if d is not DType.BOOL}
    return tensors | {"bool": torch.tensor([True, False, True])}


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(60.0).reshape(3, 4, 5)
    return {
        "whole": base,
        "row": base[1],
        "inner": base[1, 2, 1:4],
        "transposed": base[0].t(),
        "permuted": base.permute(2, 0, 1),
        "every other": base[:, ::2],
        "every third of the last": base[..., ::3],
        "one column": base[0, :, 2],
        "one wide": base[:, 1:2, :],
        "expanded": torch.tensor([[7.0], [8.0]]).expand(2, 3),
        "one repeated": torch.tensor(3.0).expand(4),
        "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "0-d": base[2, 3, 4],
        "empty": base[:, :0],
        "empty and transposed": torch.empty(0, 4).t(),
        "as_strided": torch.arange(40.0).as_strided((3, 4), (9, 2), 5),
        "small": base[0].to(torch.int8).t(),
    }


PROTOCOLS = [2, 3, 4, 5]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_dtype(tmp_path: Path, protocol: int):
    tensors = of_every_dtype()
    read_back = saved(tensors, tmp_path / "f.pt", pickle_protocol=protocol)
    for name, tensor in tensors.items():
        assert read_back[name].dtype is DType.of(name)
        assert_same(read_back[name], tensor)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_views_of_every_kind(tmp_path: Path, protocol: int):
    tensors = views()
    read_back = saved(tensors, tmp_path / "f.pt", pickle_protocol=protocol)
    mapped = torch.load(tmp_path / "f.pt", mmap=True, weights_only=False)
    assert read_back.keys() == tensors.keys()
    for name, located in read_back.items():
        assert located.is_contiguous == tensors[name].is_contiguous(), name
        assert located.stride == mapped[name].stride()
        assert located.offset == mapped[name].storage_offset()
        assert_same(located, tensors[name])


def test_the_same_view_is_known_to_be_the_same(tmp_path: Path):
    weight, other = torch.randn(3, 2), torch.randn(3, 2)
    read_back = saved({"a": weight, "b": weight, "c": other, "d": weight[:2], "e": weight.t()}, tmp_path / "f.pt")
    assert read_back["a"].identity == read_back["b"].identity
    assert len({read_back[name].identity for name in "abcde"}) == 4


class Tagged(torch.Tensor):
    pass


def test_parameters_and_tensors_with_attributes(tmp_path: Path):
    attributed = torch.arange(5.0)
    attributed.ds_id = 3
    parameter = torch.nn.Parameter(torch.arange(4.0))
    with_state = torch.nn.Parameter(torch.arange(3.0))
    with_state.ds_shape = (3,)
    subclass = torch.arange(6.0).as_subclass(Tagged)
    frozen = torch.nn.Parameter(torch.arange(2, dtype=torch.int8), requires_grad=False)
    read_back = saved([attributed, parameter, with_state, subclass, frozen], tmp_path / "f.pt")
    for located, tensor in zip(read_back, [attributed, parameter, with_state, subclass, frozen], strict=True):
        assert_same(located, tensor.detach().as_subclass(torch.Tensor))


@pytest.mark.parametrize("dtype", [getattr(torch, d.torch_name) for d in DType if d.kind not in ("complex", "float8")])
def test_0d_tensors_carry_their_value(tmp_path: Path, dtype: torch.dtype):
    located = saved(torch.tensor(1, dtype=dtype), tmp_path / "f.pt")
    assert located.item == 1
    assert located.shape == ()


def test_0d_tensors_without_a_python_value(tmp_path: Path):
    assert saved(torch.tensor(1j, dtype=torch.complex64), tmp_path / "f.pt").item is None
    assert saved(torch.tensor(1.0).to(torch.float8_e5m2), tmp_path / "g.pt").item is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_objects(tmp_path: Path, protocol: int):
    value = {
        "text": "ünï", "bytes": b"\x00\xff", "int": -(2**70), "float": float("inf"), "none": None, "bool": True,
        "list": [1, [2]], "tuple": (1, (2,)), "set": {1}, "frozen": frozenset({2}),
        "ordered": OrderedDict([("b", 1), ("a", 2)]), "size": torch.Size([2, 3]), "empty": torch.Size([]),
        "device": torch.device("cpu"), "dtype": torch.float32, "default": defaultdict(int, {"x": 1}), 7: "int key",
    }  # fmt: skip
    read_back = saved(value, tmp_path / "f.pt", pickle_protocol=protocol)
    assert list(read_back["set"]) == [1]
    assert list(read_back["frozen"]) == [2]
    assert isinstance(read_back["device"], Inert)
    assert list(read_back["ordered"].items()) == [("b", 1), ("a", 2)]
    assert read_back["size"] == (2, 3)
    assert read_back["default"] == {"x": 1}
    for key in ("text", "bytes", "int", "float", "none", "bool", "list", "tuple", "empty", 7):
        assert read_back[key] == value[key]


class Custom:
    """A class of the user's, as in `client_state`."""

    def __init__(self) -> None:
        self.weight = torch.arange(3.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unknown_classes_are_inert_and_keep_their_state(tmp_path: Path, protocol: int):
    read_back = saved([Custom(), np.float64(1.5), np.arange(3)], tmp_path / "f.pt", pickle_protocol=protocol)
    assert isinstance(read_back[0], Inert)
    assert read_back[0].qualified_name == f"{Custom.__module__}.Custom"
    assert_same(read_back[0].attribute("weight"), torch.arange(3.0))
    assert read_back[0].attribute("other") is None
    assert isinstance(read_back[1], Inert)
    assert isinstance(read_back[2], Inert)
    assert read_back[2].attribute("anything") is None


def test_a_writer_handed_an_open_file_names_the_folder_archive(tmp_path: Path):
    with open(tmp_path / "mp_rank_00_model_states.pt", "wb") as file:
        torch.save({"a": torch.arange(3.0)}, file)
    assert zipfile.ZipFile(tmp_path / "mp_rank_00_model_states.pt").namelist()[0] == "archive/data.pkl"
    assert_same(read(tmp_path / "mp_rank_00_model_states.pt")["a"], torch.arange(3.0))


@pytest.mark.parametrize("numels", [[1], [3, 5, 7], [16] * 40, [0, 1, 0, 70_000]])
def test_data_begins_where_torch_maps_it(tmp_path: Path, numels: list[int]):
    """The central directory's own arithmetic is wrong by the alignment padding of the local headers."""
    tensors = {f"t{i}": torch.randn(numel) for i, numel in enumerate(numels)}
    read_back = saved(tensors, tmp_path / "f.pt")
    mapped = torch.load(tmp_path / "f.pt", mmap=True)
    data = (tmp_path / "f.pt").read_bytes()
    assert read_back.keys() == tensors.keys()
    for name, located in read_back.items():
        assert data[located.start : located.start + 4 * located.numel] == mapped[name].numpy().tobytes()
        assert not located.numel or located.start % 64 == 0


def rewrite(source: Path, target: Path, change: dict[str, bytes | None], **how: Any) -> None:
    """Copy a zip with some records replaced, added, or (None) left out; `how` goes to ZipFile."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        prefix = old.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: old.read(name) for name in old.namelist()} | change
        for name, content in records.items():
            if content is not None:
                new.writestr(f"{prefix}/{name}", content)


def test_big_endian_elements(tmp_path: Path):
    """A checkpoint of an s390x: the record `byteorder` says big, elements have their first byte first."""
    tensors = {
        "f32": torch.randn(4, 3), "t": torch.randn(3, 5).t(), "bf16": torch.randn(7).bfloat16(),
        "i64": torch.tensor([1, 2**40]), "step": torch.tensor(5.0), "half": torch.tensor(2.5).bfloat16(),
        "u8": torch.arange(5, dtype=torch.uint8), "c": torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64),
    }  # fmt: skip
    torch.save(tensors, tmp_path / "little.pt")
    swapped: dict[str, bytes | None] = {"byteorder": b"big"}
    for key, tensor in enumerate(tensors.values()):
        numbers = tensor.t() if tensor.dim() == 2 and not tensor.is_contiguous() else tensor
        raw = numbers.contiguous().flatten().view(torch.uint8).numpy()
        swapped[f"data/{key}"] = raw.reshape(-1, 4 if tensor.is_complex() else tensor.itemsize)[:, ::-1].tobytes()
    rewrite(tmp_path / "little.pt", tmp_path / "big.pt", swapped)
    read_back = read(tmp_path / "big.pt")
    for name, tensor in tensors.items():
        assert not View(read_back[name]).is_plain
        assert_same(read_back[name], tensor)
    assert read_back["step"].item == 5.0
    assert read_back["half"].item == 2.5
    with ZipContainer(str(tmp_path / "big.pt")) as container:
        assert container.big_endian


@pytest.mark.parametrize("left_out", ["byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"])
def test_records_that_older_torch_does_not_write(tmp_path: Path, left_out: str):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "new.pt")
    rewrite(tmp_path / "new.pt", tmp_path / "old.pt", {left_out: None})
    assert_same(read(tmp_path / "old.pt")["a"], torch.arange(3.0))


def test_nothing_may_follow_the_directory(tmp_path: Path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "f.pt")
    with zipfile.ZipFile(tmp_path / "f.pt", "a") as file:
        file.comment = b"made by hand"
    with pytest.raises(DamagedFile, match="something was appended to it"):
        read(tmp_path / "f.pt")


# --- ZIP64: a record beyond 4 GiB, in a file with holes ------------------------------------------------------------


def _local(name: bytes, size: int, extra: bytes) -> bytes:
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra)) + (
        name + extra
    )


def sparse_zip64(path: Path, *, big_bytes: int, tail: np.ndarray, wide: bool = True) -> None:
    """torch's layout with storage `0` of `big_bytes` (a hole that ends in a marker) and storage `1` behind it.

    `wide`: all three fields of every directory entry are in the ZIP64 field, else only those that do not fit.
    """
    buffer = io.BytesIO()
    torch.save({"big": torch.zeros(1), "tail": torch.from_numpy(tail)}, buffer)
    with zipfile.ZipFile(buffer) as small:
        data_pkl = small.read("archive/data.pkl")
    # The pickle says how many elements storage 0 has, and the tensor's shape: one element becomes big_bytes / 4.
    count, one = big_bytes // 4, pickle.dumps(1, 2)[2:-1]
    many = b"\x8a\x08" + count.to_bytes(8, "little")  # LONG1
    at = data_pkl.index(b"X\x03\x00\x00\x00cpu") + 8
    head, rest = data_pkl[: data_pkl.index(one, at)], data_pkl[data_pkl.index(one, at) + len(one) :]
    shape_at = rest.index(one + b"\x85")
    data_pkl = head + many + rest[:shape_at] + many + rest[shape_at + len(one) :]
    entries = []
    with open(path, "wb") as file:
        for name, content, size in (
            (b"archive/data.pkl", data_pkl, len(data_pkl)),
            (b"archive/byteorder", b"little", 6),
            (b"archive/data/0", None, big_bytes),
            (b"archive/data/1", tail.tobytes(), tail.nbytes),
            (b"archive/version", b"3\n", 2),
        ):
            start = file.tell()
            extra = struct.pack("<2H2Q", 1, 16, size, size)
            extra += struct.pack("<2H", 0x4246, 28) + b"Z" * 28
            file.write(_local(name, size, extra))
            if content is None:
                file.seek(size - 4, 1)
                file.write(b"END!")
            else:
                file.write(content)
            entries.append((name, size, start))
        directory = file.tell()
        for name, size, start in entries:
            large, far = wide or size >= 0xFFFFFFFF, wide or start >= 0xFFFFFFFF
            values = ([size, size] if large else []) + ([start] if far else [])
            extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
            extra = struct.pack("<2HI", 0x7075, 4, 0) + extra
            shown = (0xFFFFFFFF, 0xFFFFFFFF) if large else (size, size)
            file.write(
                struct.pack(
                    "<4s6H3I5H2I",
                    b"PK\x01\x02",
                    45,
                    45,
                    0,
                    0,
                    0,
                    0,
                    0,
                    *shown,
                    len(name),
                    len(extra),
                    0,
                    0,
                    0,
                    0,
                    0xFFFFFFFF if far else start,
                )
            )
            file.write(name + extra)
        end = file.tell()
        count = len(entries)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, end - directory, directory))
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


@pytest.mark.parametrize("wide", [True, False])
def test_zip64_records_beyond_4_gib(tmp_path: Path, wide: bool):
    tail = np.arange(5, dtype=np.float32)
    sparse_zip64(tmp_path / "big.pt", big_bytes=5 << 30, tail=tail, wide=wide)
    read_back = read(tmp_path / "big.pt")
    assert read_back["big"].numel == (5 << 30) // 4
    assert read_back["tail"].start > 5 << 30
    assert_same(read_back["tail"], torch.from_numpy(tail))
    with open(tmp_path / "big.pt", "rb") as file:
        file.seek(read_back["big"].start + (5 << 30) - 4)
        assert file.read(4) == b"END!"
    mapped = torch.load(tmp_path / "big.pt", mmap=True)
    assert mapped["tail"].tolist() == tail.tolist()
    assert mapped["big"].numel() == read_back["big"].numel


def test_zip64_as_pythons_zipfile_writes_it(tmp_path: Path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "f.pt")
    with zipfile.ZipFile(tmp_path / "f.pt") as old, zipfile.ZipFile(tmp_path / "g.pt", "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as record:
                record.write(old.read(name))
    assert_same(read(tmp_path / "g.pt")["a"], torch.arange(3.0))


# --- files that are not what they seem -----------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "f.pt")
    return tmp_path / "f.pt"


def test_compressed_records_are_refused(good: Path, tmp_path: Path):
    rewrite(good, tmp_path / "g.pt", {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedFile, match="compressed or encrypted"):
        read(tmp_path / "g.pt")


def test_a_zip_of_something_else(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "f.pt", "w") as file:
        file.writestr("word/document.xml", "<w/>")
    with pytest.raises(DamagedFile, match=r"a zip archive but not a torch checkpoint; expected one data.pkl, got 0"):
        read(tmp_path / "f.pt")


def test_a_record_that_is_not_there(good: Path, tmp_path: Path):
    rewrite(good, tmp_path / "g.pt", {"data/0": None})
    with pytest.raises(DamagedFile, match="the container has no record 'data/0'"):
        read(tmp_path / "g.pt")


def test_a_storage_that_is_too_short(good: Path, tmp_path: Path):
    rewrite(good, tmp_path / "g.pt", {"data/0": b"12345678"})
    with pytest.raises(DamagedFile, match="storage '0' is shorter than the pickle says; expected 12 bytes, got 8"):
        read(tmp_path / "g.pt")


def test_a_pickle_that_is_too_long(good: Path, monkeypatch: pytest.MonkeyPatch):
    with ZipContainer(str(good)) as container, pytest.raises(DamagedFile, match="too large to be read"):
        container.read("data.pkl", limit_bytes=10)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_a_truncated_file(good: Path, kept: float):
    data = good.read_bytes()
    good.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DamagedFile, match="truncated"):
        read(good)


def test_an_empty_file(tmp_path: Path):
    (tmp_path / "f.pt").touch()
    with pytest.raises(DamagedFile, match="the file is empty"):
        read(tmp_path / "f.pt")


def test_a_file_of_another_kind(tmp_path: Path):
    (tmp_path / "f.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedFile, match="it is not a zip archive"):
        read(tmp_path / "f.pt")
