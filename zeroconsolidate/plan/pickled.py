"""Plain values and tensors -> a pickle as torch writes it, opcode by opcode.

Written by hand, because the alternatives run code that others wrote: the `pickle` module imports the class of whatever
it writes, which for a tensor is torch and for a loss scaler DeepSpeed. What is needed are a dozen opcodes of protocol
2, which torch uses, too. A tensor that occurs twice is written once, and is one tensor when it is loaded; any other
value that occurs twice is written twice.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.located import row_major
from ..catalog.rules import SubParameters
from ..catalog.training import SCALERS, Scaler
from ..dtypes import DType
from ..errors import UnsupportedLayout

if TYPE_CHECKING:
    from ..catalog.facts import Shape


@dataclass(frozen=True, slots=True)
class Stored:
    """A contiguous tensor whose elements are the container's record `data/<key>`."""

    key: str
    dtype: DType
    shape: Shape
    numel: int


_STORAGES = {
    DType.F64: "DoubleStorage", DType.F32: "FloatStorage", DType.F16: "HalfStorage", DType.BF16: "BFloat16Storage",
    DType.I64: "LongStorage", DType.I32: "IntStorage", DType.I16: "ShortStorage", DType.I8: "CharStorage",
    DType.U8: "ByteStorage", DType.BOOL: "BoolStorage",
}  # fmt: skip
"""What torch calls the storages of these dtypes in a pickle, whatever its release."""

_MARK, _TUPLE, _REDUCE, _STOP = b"(", b"t", b"R", b"."


def pickled(value: object) -> bytes:
    """The pickle of a value: None, truth values, numbers, text, lists, tuples, dicts, dtypes, Stored, Scaler and
    SubParameters.

    Raises UnsupportedLayout for anything else.
    """
    return b"\x80\x02" + _value(value, dict.fromkeys(_repeated(value))) + _STOP


def _repeated(value: object) -> set[int]:
    """The tensors that occur again, by `id`."""
    once, again = set[int](), set[int]()

    def look(value: object) -> None:
        if isinstance(value, Stored):
            (again if id(value) in once else once).add(id(value))
        elif isinstance(value, Mapping):
            for each in value.values():
                look(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                look(each)

    look(value)
    return again


def _value(value: object, memo: dict[int, int | None]) -> bytes:
    """`memo`: the tensors that occur again, and under which number each is remembered once it has been written."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, tuple):
        return _MARK + b"".join(_value(each, memo) for each in value) + _TUPLE
    if isinstance(value, list):
        return b"](" + b"".join(_value(each, memo) for each in value) + b"e"
    if isinstance(value, Mapping):
        return b"}(" + b"".join(_value(part, memo) for pair in value.items() for part in pair) + b"u"
    if isinstance(value, DType):
        return _name("torch", value.torch_name)
    if isinstance(value, Stored):
        return _remembered(value, memo)
    if isinstance(value, Scaler):
        module, _, name = next(full for full, short in SCALERS.items() if short == value.name).rpartition(".")
        return _object(module, name, value.attributes, memo)
    if isinstance(value, SubParameters):
        attributes = {"patterns": list(value.patterns), "shape": value.shape, "partition_dim": value.dim}
        return _object("deepspeed.checkpoint.universal_checkpoint", "SubparamShape", attributes, memo)
    raise UnsupportedLayout(f"a value of the type {type(value).__name__} cannot be written into a checkpoint")


def _object(module: str, name: str, attributes: Mapping[str, object], memo: dict[int, int | None]) -> bytes:
    """As `object.__reduce_ex__` of protocol 2 has it: an object without arguments, then its attributes."""
    return _name(module, name) + b")\x81" + _value(attributes, memo) + b"b"


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + bytes((value,))
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    size_bytes = value.bit_length() // 8 + 1
    if size_bytes > 0xFF:
        raise UnsupportedLayout("a number of more than 254 bytes cannot be written into a checkpoint")
    return b"\x8a" + bytes((size_bytes,)) + value.to_bytes(size_bytes, "little", signed=True)


def _name(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def _remembered(tensor: Stored, memo: dict[int, int | None]) -> bytes:
    """A tensor, or if it has been written before, that one (`LONG_BINPUT`, `LONG_BINGET`)."""
    if id(tensor) not in memo:
        return _tensor(tensor)
    number = memo[id(tensor)]
    if number is not None:
        return b"j" + struct.pack("<I", number)
    memo[id(tensor)] = number = sum(each is not None for each in memo.values())
    return _tensor(tensor) + b"r" + struct.pack("<I", number)


def _tensor(tensor: Stored) -> bytes:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
    if tensor.dtype not in _STORAGES:
        raise UnsupportedLayout(f"a tensor of {tensor.dtype.torch_name} cannot be written into a checkpoint")
    storage = (_value("storage", {}), _name("torch", _STORAGES[tensor.dtype]))
    persistent = (
        _MARK + b"".join((*storage, *(_value(each, {}) for each in (tensor.key, "cpu", tensor.numel)))) + _TUPLE + b"Q"
    )
    hooks = _name("collections", "OrderedDict") + b")" + _REDUCE
    arguments = (
        persistent + b"".join(_value(each, {}) for each in (0, tensor.shape, row_major(tensor.shape), False)) + hooks
    )
    return _name("torch._utils", "_rebuild_tensor_v2") + _MARK + arguments + _TUPLE + _REDUCE
