"""Tools to forge what the reader has to refuse: pickles by opcode, zip files by field, and a run under limits."""

from __future__ import annotations

import os
import resource
import signal
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from command import sentence

from zeroconsolidate.cli.command import main

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "mp_rank_00_model_states.pt"
SECONDS = 20
"""Every refusal must come within this time, on a busy machine."""
MEMORY_BYTES = 512 << 20
"""And within this much memory beside what the test process had before."""


# --- pickles, protocol 2


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def ints(*values: int) -> bytes:
    return tuple_of(*map(integer, values))


def storage(key: bytes = text("0"), numel: bytes = integer(4), kind: bytes = name("torch", "FloatStorage")) -> bytes:
    return tuple_of(text("storage"), kind, key, text("cpu"), numel) + b"Q"


def tensor(
    shape: bytes = ints(4), stride: bytes = ints(1), offset: bytes = integer(0), where: bytes | None = None
) -> bytes:
    arguments = (where or storage(), offset, shape, stride, b"\x89", call(name("collections", "OrderedDict")))
    return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def doubled(levels: int = 60) -> bytes:
    """A list that holds a list twice that holds a list twice …: 2**60 items for whoever walks it."""
    built = b"".join(b"](h%ch%ceq%c0" % (level, level, level + 1) for level in range(1, levels + 1))
    return b"]q\x010" + built + b"h%c" % (levels + 1)


# --- zip files


@dataclass
class Record:
    """A record of a zip file; what is None is what an honest writer would put there."""

    name: str
    data: bytes = b""
    local_name: str | None = None
    local_signature: bytes = b"PK\x03\x04"
    local_extra_bytes: int | None = None
    header_start: int | None = None
    size_bytes: int | None = None
    packed_bytes: int | None = None
    method: int = 0
    flags: int = 0
    extra: bytes = b""


@dataclass
class Zip:
    """A zip file of `records`; the other fields forge its end."""

    records: list[Record] = field(default_factory=list)
    count: int | None = None
    directory_bytes: int | None = None
    directory_start: int | None = None
    comment_bytes: int = 0
    before_end: bytes = b""
    tail: bytes = b""

    def build(self) -> bytes:
        body, directory = b"", b""
        for record in self.records:
            start = len(body) if record.header_start is None else record.header_start
            local, size = (record.local_name or record.name).encode(), len(record.data)
            extra = 0 if record.local_extra_bytes is None else record.local_extra_bytes
            body += struct.pack("<4s5H3I2H", record.local_signature, 20, record.flags, record.method, 0, 0,
                                zlib.crc32(record.data), size, size, len(local), extra)  # fmt: skip
            body += local + record.data
            stated = size if record.size_bytes is None else record.size_bytes
            named = record.name.encode()
            packed = min(stated, 0xFFFFFFFF) if record.packed_bytes is None else record.packed_bytes
            directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, record.flags, record.method, 0, 0,
                                     zlib.crc32(record.data), packed, min(stated, 0xFFFFFFFF), len(named),
                                     len(record.extra), 0, 0, 0, 0, start)  # fmt: skip
            directory += named + record.extra
        count = len(self.records) if self.count is None else self.count
        size = len(directory) if self.directory_bytes is None else self.directory_bytes
        start = len(body) if self.directory_start is None else self.directory_start
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, start, self.comment_bytes)
        return body + directory + self.before_end + end + self.tail


def records(pickle: bytes, **storages: bytes) -> list[Record]:
    return [
        Record("archive/data.pkl", pickle),
        Record("archive/byteorder", b"little"),
        *(Record(f"archive/data/{key.removeprefix('_')}", data) for key, data in storages.items()),
        Record("archive/version", b"3\n"),
    ]


# --- runs


def limit_child() -> None:
    """Limit this process to SECONDS, and MEMORY_BYTES more than it has now."""
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)


def refusal(*arguments: str) -> str:
    """What the command prints when it refuses: exit code 2, a sentence, in bounded time and memory.

    It runs in a forked child, whose memory and time are limited by the kernel.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.dup2(write_end, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.environ["PYTHONIOENCODING"] = "utf-8"
            import sys

            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (pytest's would keep the text)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            limit_child()
            code = main(list(arguments))
        except BaseException as error:  # noqa: BLE001 (the parent reports it)
            os.write(2, f"{type(error).__name__}: {error}"[:2000].encode("utf-8", "replace"))
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    with open(read_end, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status), f"killed by signal {status}: {said}"
    assert os.WEXITSTATUS(status) == 2, f"exit code {os.WEXITSTATUS(status)}: {said}"
    assert len(said) < 5000
    assert said.replace("\n", "").isprintable(), ascii(said)
    return sentence(said)


def checkpoint(directory: Path, model_file: bytes) -> str:
    """A tag directory with one forged model file."""
    directory.mkdir(exist_ok=True)
    (directory / MODEL).write_bytes(model_file)
    return str(directory)


def forged(directory: Path, pickle: bytes) -> str:
    """A tag directory whose model file has this pickle and one storage of 16 bytes."""
    return checkpoint(directory, Zip(records(pickle, _0=bytes(16))).build())
