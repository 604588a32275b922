"""Seeds for the fuzzer out of the fixtures: real pickles and real small containers. `seed.py TARGET`."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAX_SEEDS = 40


def main() -> None:
    """Write seeds of one target to `.fuzz/TARGET/`; targets that make their own structure need none."""
    target = sys.argv[1]
    folder = ROOT / ".fuzz" / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(
        {"pickles": _pickles, "containers": _containers, "safetensors": _safetensors, "configs": _configs}.get(
            target, list
        )()
    ):
        (folder / f"seed{number}").write_bytes(seed)


def _pickles() -> list[bytes]:
    files = sorted((ROOT / "tests" / "fixtures").rglob("*_states.pt"))
    real = []
    for path in files[:: max(1, len(files) // MAX_SEEDS)]:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                real.append(archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl"))))
    plain = {"a": [1, 2.5, None, True, b"x", "é", (1, 2, 3), 1 << 70], 3: {4, 5}, "o": OrderedDict(x=())}
    return [*real, *(pickle.dumps(plain, protocol) for protocol in (2, 3, 4, 5)), _tensor(b"FloatStorage", 4)]


def _tensor(storage: bytes, numel: int) -> bytes:
    """`{"t": tensor}` as torch writes it."""
    return (
        b"\x80\x02}q\x00X\x01\x00\x00\x00tq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02(("
        b"X\x07\x00\x00\x00storageq\x03ctorch\n" + storage + b"\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K"
        + bytes([numel]) + b"tq\x07QK\x00K\x02K\x02\x86q\x08K\x02K\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0b"
        b"tq\x0cRq\rs."
    )  # fmt: skip


def _containers() -> list[bytes]:
    seeds = []
    for order, storage in ((b"little", b"FloatStorage"), (b"big", b"HalfStorage"), (None, b"LongStorage")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/data.pkl", _tensor(storage, 4))
            if order:
                archive.writestr("a/byteorder", order)
            archive.writestr("a/data/0", bytes(32))
            archive.writestr("a/version", b"3\n")
        seeds.append(buffer.getvalue())
    # torch's older container: magic, protocol, system, object, list of keys, and for each key a count and the bytes.
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
    legacy = _tensor(b"FloatStorage", 4).replace(b"K\x04tq\x07Q", b"K\x04NtQ")
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    seeds.append(head + legacy + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
    return seeds


def _safetensors() -> list[bytes]:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
            "c": {"dtype": "I64", "shape": [0, 7], "data_offsets": [26, 26]},
        }
    ).encode()
    return [len(header).to_bytes(8, "little") + header + bytes(26)]


def _configs() -> list[bytes]:
    return [b'{"torch_dtype": "bfloat16", "text_config": {"dtype": "float16"}, "n": 1e3}']


if __name__ == "__main__":
    main()
