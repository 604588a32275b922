"""A container hands out bytes of its own records only, and none of its numbers is believed."""

from __future__ import annotations

import os
import struct
import zlib

import pytest
from hostile import (
    Record,
    Zip,
    call,
    checkpoint,
    dict_of,
    doubled,
    integer,
    ints,
    list_of,
    name,
    pickled,
    records,
    refusal,
    storage,
    tensor,
    text,
    tuple_of,
)

from zeroconsolidate.archive import container, zip_directory
from zeroconsolidate.archive.container import ZipContainer
from zeroconsolidate.archive.legacy import open_container
from zeroconsolidate.archive.unpickle import unpickle
from zeroconsolidate.errors import DamagedFile

HONEST = pickled(dict_of(module=dict_of(a=tensor())))


def good(**storages: bytes) -> list[Record]:
    return records(HONEST, **(storages or {"_0": bytes(16)}))


def changed(index: int, **fields) -> Zip:
    made = good()
    for key, value in fields.items():
        setattr(made[index], key, value)
    return Zip(made)


def appended(*more: Record) -> Zip:
    return Zip([*good(), *more])


def swapped() -> bytes:
    """The central directory in another order than the file."""
    made = good()
    whole = Zip(made).build()
    starts = [whole.index(b"PK\x03\x04" + b"", at) for at in [0]]
    made[0].header_start, made[2].header_start = starts[0] + 1000, 0
    return Zip(made).build()


def zip64_end(count: int, directory_bytes: int, start: int, at: int | None = None, signature: bytes = b"PK\x06\x06"):
    def build() -> bytes:
        body = Zip(good()).build()[:-22]
        end64 = struct.pack("<4sQ2H2I4Q", signature, 44, 45, 45, 0, 0, count, count, directory_bytes, start)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body) if at is None else at, 1)
        return body + end64 + locator + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, 9, 9, 0)

    return build()


def truncated(count: int) -> bytes:
    return Zip(good()).build()[:-count]


def bomb() -> Zip:
    packed = zlib.compressobj(wbits=-15)
    data = packed.compress(bytes(50_000_000)) + packed.flush()
    made = good()
    made[0] = Record("archive/data.pkl", data, method=8, size_bytes=50_000_000, packed_bytes=len(data))
    return Zip(made)


FILES = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"P", "is not a zip archive"),
    "text": (b"hello " * 100, "is not a zip archive"),
    "legacy magic only": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "the file is damaged"),
    "cut in the end record": (truncated(1), "truncated"),
    "cut in the directory": (truncated(60), "truncated"),
    "cut in the data": (truncated(300), "truncated"),
    "bytes behind the end": (Zip(good(), tail=b"x").build(), "bytes after its zip directory"),
    "second end in a comment": (
        Zip(good(), comment_bytes=22, tail=struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)).build(),
        "expected one data.pkl, got 0",
    ),
    "comment that is not there": (Zip(good(), comment_bytes=7).build(), "announces a comment"),
    "fewer records than counted": (Zip(good(), count=5).build(), "ends too early|damaged"),
    "more records than counted": (Zip(good(), count=3).build(), "longer than its records"),
    "65535 records": (Zip(good(), count=0xFFFF).build(), "impossible"),
    "directory past the end": (Zip(good(), directory_start=0xFFFFFFF0).build(), "outside|impossible"),
    "directory in the wrong place": (Zip(good(), directory_start=3).build(), "damaged"),
    "directory of 4 GB": (Zip(good(), directory_bytes=0xFFFFFFFF).build(), "outside|impossible"),
    "directory of nothing": (Zip([]).build(), "expected one data.pkl, got 0"),
    "no data.pkl": (Zip([Record("archive/version", b"3")]).build(), "expected one data.pkl, got 0"),
    "two data.pkl": (appended(Record("other/data.pkl", HONEST)).build(), "expected one data.pkl, got 2"),
    "deep data.pkl": (Zip([Record("a/b/data.pkl", HONEST)]).build(), "expected one data.pkl, got 0"),
    "the same name twice": (appended(Record("archive/data/0", bytes(16))).build(), "twice"),
    "the same pickle twice": (appended(Record("archive/data.pkl", HONEST)).build(), "twice"),
    "local header elsewhere": (changed(2, local_signature=b"PK\x00\x00").build(), "local header is not where"),
    "another local name": (changed(2, local_name="archive/data/1").build(), "another name"),
    "longer local name": (changed(2, local_name="archive/data/00").build(), "another name|overlaps"),
    "data through the local header": (changed(2, local_extra_bytes=8).build(), "overlaps what follows"),
    "data over the next record": (changed(2, local_extra_bytes=0xFFFF).build(), "overlaps what follows|past the end"),
    "record over the next": (changed(2, size_bytes=60).build(), "overlap"),
    "record into the directory": (changed(3, size_bytes=60).build(), "reaches into the zip directory"),
    "record of 4 GB": (changed(2, size_bytes=0xFFFFFFFE).build(), "overlap|outside"),
    "two records on one": (changed(3, header_start=0).build(), "'archive/data/0' and 'archive/version' overlap"),
    "record past the end": (changed(3, header_start=0xFFFFFFF0).build(), "reaches into"),
    "compressed pickle": (bomb().build(), "compressed or encrypted"),
    "compressed storage": (changed(2, method=8).build(), "compressed or encrypted"),
    "encrypted storage": (changed(2, flags=1).build(), "compressed or encrypted"),
    "packed size differs": (changed(2, packed_bytes=3).build(), "compressed or encrypted"),
    "no zip64 field": (changed(2, size_bytes=0xFFFFFFFF).build(), "no zip64 field"),
    "short zip64 field": (
        changed(2, size_bytes=0xFFFFFFFF, extra=struct.pack("<2HI", 1, 4, 16)).build(), "no zip64 field"
    ),
    "zip64 field that ends early": (
        changed(2, size_bytes=0xFFFFFFFF, extra=struct.pack("<2H", 1, 16)).build(), "no zip64 field"
    ),
    "zip64 size of 2**63": (
        changed(2, size_bytes=0xFFFFFFFF, extra=struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)).build(), "overlap"
    ),
    "zip64 end of 2**63 records": (zip64_end(1 << 63, 1 << 63, 0), "outside|impossible"),
    "zip64 end of a million records": (zip64_end(1_000_000, 200, 0), "impossible"),
    "zip64 start of 2**63": (zip64_end(4, 200, 1 << 63), "outside"),
    "zip64 end past the end": (zip64_end(4, 200, 0, at=1 << 63), "outside of the file"),
    "zip64 end elsewhere": (zip64_end(4, 200, 0, at=0), "not where its locator says"),
    "zip64 end without a signature": (zip64_end(4, 200, 0, signature=b"PK\0\0"), "not where its locator says"),
    "unknown byte order": (changed(1, data=b"middle").build(), "byte order is unknown"),
    "long byte order": (changed(1, data=b"little" * 9).build(), "too large"),
    "unnamed byte order": (changed(1, data=b"").build(), "byte order is unknown"),
    "not the order of the file": (swapped(), "overlap|reaches into"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), FILES.values(), ids=FILES)
def test_forged_containers_are_refused(tmp_path, data, expected):
    said = refusal("inspect", checkpoint(tmp_path, data))
    assert any(part in said for part in expected.split("|")), said


def test_the_forger_can_be_honest(tmp_path):
    """Else the cases above would show nothing."""
    path = tmp_path / "a.pt"
    path.write_bytes(Zip(good(_0=struct.pack("<4f", 1, 2, 3, 4))).build())
    with ZipContainer(str(path)) as opened:
        value = unpickle(opened.read_pickle(), opened)
    tensor_ = value["module"]["a"]
    assert path.read_bytes()[tensor_.start : tensor_.start + 16] == struct.pack("<4f", 1, 2, 3, 4)


def test_big_endian_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(changed(1, data=b"big").build())
    with ZipContainer(str(path)) as opened:
        assert opened.big_endian


def test_a_pickle_of_many_gigabytes_is_not_read(tmp_path):
    """A sparse file: it costs the attacker nothing."""
    made = good()
    whole = Zip(made).build()
    at = whole.index(b"PK\x01\x02")
    size = container.MAX_PICKLE_BYTES + 1
    head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, size, size, 16, 0) + b"archive/data.pkl"
    path = tmp_path / "mp_rank_00_model_states.pt"
    directory = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size, 16, 0, 0, 0, 0, 0, 0)
    directory += b"archive/data.pkl"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(head) + size, 0)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
        file.seek(0, os.SEEK_END)
        file.write(directory + end)
    assert at
    assert "too large to be read" in refusal("inspect", str(tmp_path))


def test_records_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_directory, "MAX_RECORDS", 3)
    path = tmp_path / "a.pt"
    path.write_bytes(Zip(good()).build())
    with pytest.raises(DamagedFile, match="impossible"):
        ZipContainer(str(path))


def test_names_of_records_are_bounded(tmp_path):
    """The directory is read whole: what it holds beside numbers may not fill the memory."""
    data = Zip([*good(), *(Record(f"{i}{'x' * 60_000}") for i in range(20))]).build()
    assert "too large" in refusal("inspect", checkpoint(tmp_path, data))


def test_an_item_is_read_from_inside(tmp_path):
    scalar = tensor(shape=ints(), stride=ints(), where=storage())
    path = tmp_path / "a.pt"
    path.write_bytes(Zip(records(pickled(dict_of(step=scalar)), _0=struct.pack("<4f", 7, 0, 0, 0))).build())
    with ZipContainer(str(path)) as opened:
        assert unpickle(opened.read_pickle(), opened)["step"].item == 7
    value = call(name("torch._utils", "_rebuild_tensor_v2"), storage(), b"K\4", b")", b")", b"\x89", b"N")
    assert "reaches past" in refusal(
        "inspect", checkpoint(tmp_path / "c", Zip(records(pickled(value), _0=bytes(16))).build())
    )


# --- torch's older container


def legacy(
    magic: bytes = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19",
    protocol: bytes = b"M\xe9\x03",
    value: bytes | None = None,
    keys: bytes | None = None,
    count: int = 4,
    data: bytes = bytes(16),
) -> bytes:
    pid = tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4), b"N") + b"Q"
    parts = (
        magic,
        protocol,
        dict_of(little_endian=b"\x88"),
        value or dict_of(module=dict_of(a=tensor(where=pid))),
        keys or list_of(text("0")),
    )
    return b"".join(map(pickled, parts)) + struct.pack("<q", count) + data


LEGACY = {
    "cut": (legacy()[:-1], "truncated"),
    "cut in a count": (legacy(data=b"")[:-4], "ends too early"),
    "goes on": (legacy() + b"x", "has bytes after its end"),
    "count differs": (legacy(count=5), "not of the size the pickle says"),
    "negative count": (legacy(count=-4), "not of the size the pickle says"),
    "huge count": (legacy(count=1 << 62), "not of the size the pickle says"),
    "unknown protocol": (legacy(protocol=b"K\7"), "has the protocol 7"),
    "protocol that doubles": (legacy(protocol=doubled()), "has the protocol list of 2"),
    "no magic": (legacy(magic=b"N"), "not a torch checkpoint"),
    "magic that doubles": (legacy(magic=doubled()), "not a torch checkpoint"),
    "no such key": (legacy(keys=list_of(text("1"))), "list of storages"),
    "keys twice": (legacy(keys=list_of(text("0"), text("0"))), "list of storages"),
    "keys that double": (legacy(keys=doubled()), "list of storages"),
    "keys are no text": (legacy(keys=list_of(integer(0))), "list of storages"),
    "keys are no list": (legacy(keys=text("0")), "list of storages"),
    "code": (legacy(value=name("os", "system")), "which no checkpoint needs"),
    "code in the magic": (legacy(magic=name("os", "system")), "which no checkpoint needs"),
    "ends in a pickle": (legacy()[:40], "damaged|is cut off"),
}


@pytest.mark.parametrize(("data", "expected"), LEGACY.values(), ids=LEGACY)
def test_forged_legacy_containers_are_refused(tmp_path, data, expected):
    said = refusal("inspect", checkpoint(tmp_path, data))
    assert any(part in said for part in expected.split("|")), said


def test_the_legacy_forger_can_be_honest(tmp_path):
    (tmp_path / "a.pt").write_bytes(legacy())
    with open_container(str(tmp_path / "a.pt")) as opened:
        assert unpickle(opened.read_pickle(), opened)["module"]["a"].start == len(legacy()) - 16
