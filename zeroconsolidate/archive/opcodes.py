"""The pickle opcodes that torch writes, a function for each, and those that are refused.

Each takes the machine and the position behind the opcode, and returns the position behind its arguments.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile, UnsafePickle
from .inert import Inert, PlainDict
from .machine import CONTAINERS, INERT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Machine


class OpaqueKey:
    """Stands for a dict key of a kind that could be made to collide. Equal to itself only."""

    __slots__ = ("key",)

    def __init__(self, key: object) -> None:
        self.key = key


_KEY_LIMIT = 1 << 60
"""Integers below it have hashes of their own; above, many can share one (it is modulo 2**61 - 1)."""


def _key(key: object) -> object:
    kind = type(key)
    if kind is str or kind is bytes or kind is bool or key is None:
        return key
    if kind is int and -_KEY_LIMIT < key < _KEY_LIMIT:  # type: ignore[operator]
        return key
    return OpaqueKey(key)


def _unknown(machine: Machine, position: int) -> int:
    raise DamagedFile(f"the pickle is damaged: byte {position - 1} is not an opcode")


def _refuse(name: str) -> Callable[[Machine, int], int]:
    def refuse(machine: Machine, position: int) -> int:
        raise UnsafePickle(f"the pickle uses the opcode {name} at byte {position - 1}, which torch does not write")

    return refuse


def _proto(machine: Machine, position: int) -> int:
    version = machine.integer(position, 1)
    if not 2 <= version <= 5:
        raise DamagedFile("the pickle has an unknown protocol", expected="2 to 5", found=version)
    return position + 1


def _frame(machine: Machine, position: int) -> int:
    machine.skip(position + 8, machine.integer(position, 8))
    return position + 8


def _pop(machine: Machine, position: int) -> int:
    machine.stack.pop()
    return position


def _pop_mark(machine: Machine, position: int) -> int:
    machine.above_mark()
    return position


def _constant(value: object) -> Callable[[Machine, int], int]:
    def push(machine: Machine, position: int) -> int:
        machine.stack.append(value)
        return position

    return push


def _new(make: Callable[[], object]) -> Callable[[Machine, int], int]:
    def push(machine: Machine, position: int) -> int:
        machine.count()
        machine.stack.append(make())
        return position

    return push


def _binint(machine: Machine, position: int) -> int:
    stop = machine.skip(position, 4)
    machine.stack.append(int.from_bytes(machine.data[position:stop], "little", signed=True))
    return stop


def _binfloat(machine: Machine, position: int) -> int:
    stop = machine.skip(position, 8)
    machine.stack.append(struct.unpack(">d", machine.data[position:stop])[0])
    return stop


def _long(width: int) -> Callable[[Machine, int], int]:
    def push(machine: Machine, position: int) -> int:
        size_bytes = machine.integer(position, width)
        if size_bytes > machine.limits.integer_bytes:
            raise DamagedFile(
                "an integer is too long",
                expected=f"at most {machine.limits.integer_bytes} bytes",
                found=size_bytes,
            )
        stop = machine.skip(position + width, size_bytes)
        machine.stack.append(int.from_bytes(machine.data[position + width : stop], "little", signed=True))
        return stop

    return push


def _text(width: int) -> Callable[[Machine, int], int]:
    def push(machine: Machine, position: int) -> int:
        data, stop = machine.counted(position, width)
        machine.stack.append(str(data, "utf-8", "surrogatepass"))
        return stop

    return push


def _bytes(width: int) -> Callable[[Machine, int], int]:
    def push(machine: Machine, position: int) -> int:
        data, stop = machine.counted(position, width)
        machine.stack.append(data)
        return stop

    return push


def _tuple3(machine: Machine, position: int) -> int:
    stack = machine.stack
    items = (stack[-3], stack[-2], stack[-1])
    stack[-3:] = [items]
    machine.count()
    machine.nest(items, items)
    return position


def _append(machine: Machine, position: int) -> int:
    item = machine.stack.pop()
    _extend(machine, machine.stack[-1], [item])
    return position


def _appends(machine: Machine, position: int) -> int:
    items = machine.above_mark()
    _extend(machine, machine.stack[-1], items)
    return position


def _extend(machine: Machine, target: object, items: list[Any]) -> None:
    if type(target) is list:
        target.extend(items)
    elif type(target) is Inert:
        target.items.extend(items)
    else:
        raise _wrong_target(target)
    if not CONTAINERS.isdisjoint(map(type, items)):
        machine.nest(target, items)


def _setitem(machine: Machine, position: int) -> int:
    value = machine.stack.pop()
    key = machine.stack.pop()
    _set_items(machine, machine.stack[-1], [key, value])
    return position


def _setitems(machine: Machine, position: int) -> int:
    items = machine.above_mark()
    _set_items(machine, machine.stack[-1], items)
    return position


def _set_items(machine: Machine, target: object, items: list[Any]) -> None:
    if len(items) % 2:
        raise DamagedFile("a dict's last key has no value")
    pairs = zip(items[::2], items[1::2], strict=True)
    if type(target) is dict or type(target) is PlainDict:
        for key, value in pairs:
            target[key if type(key) is str else _key(key)] = value
    elif type(target) is Inert:
        target.items.extend(pairs)
    else:
        raise _wrong_target(target)
    if not CONTAINERS.isdisjoint(map(type, items)):
        machine.nest(target, items)


def _wrong_target(target: object) -> DamagedFile:
    return DamagedFile("the pickle adds items to something that takes none", found=type(target).__name__)


def _frozenset(machine: Machine, position: int) -> int:
    # A list, because members such as tensors need not be hashable, and order is kept.
    items = machine.above_mark()
    machine.stack.append(items)
    machine.count()
    machine.nest(items, items)
    return position


def _global(machine: Machine, position: int) -> int:
    words = []
    for _ in range(2):
        stop = machine.data.find(b"\n", position, position + _MAX_NAME_BYTES)
        if stop < 0:
            raise DamagedFile(f"a name in the pickle has no end within {_MAX_NAME_BYTES} bytes")
        words.append(machine.data[position:stop].decode("utf-8"))
        position = stop + 1
    machine.stack.append(machine.world.find(*words))
    return position


_MAX_NAME_BYTES = 1024


def _stack_global(machine: Machine, position: int) -> int:
    name = machine.stack.pop()
    module = machine.stack.pop()
    if type(name) is not str or type(module) is not str or max(len(name), len(module)) > _MAX_NAME_BYTES:
        raise DamagedFile("a name that the pickle imports is not text")
    machine.stack.append(machine.world.find(module, name))
    return position


def _newobj(machine: Machine, position: int) -> int:
    arguments = machine.stack.pop()
    if type(arguments) is not tuple:
        raise DamagedFile("an object's arguments are not a tuple")
    machine.stack[-1] = result = machine.world.call(machine.stack[-1], arguments)
    if type(result) in CONTAINERS:
        machine.count(INERT)
        machine.wrap(result, arguments)
    return position


def _newobj_ex(machine: Machine, position: int) -> int:
    keywords = machine.stack.pop()
    if type(keywords) is not dict:
        raise DamagedFile("an object's keyword arguments are not a dict")
    return _newobj(machine, position)


def _build(machine: Machine, position: int) -> int:
    """Set an object's state: kept by what is inert, dropped for dicts (`_metadata` of a state dict), else refused."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    if type(target) is Inert:
        target.state = state
        machine.nest(target, (state,))
    elif type(target) is not PlainDict:
        raise UnsafePickle("the pickle tries to alter an object that has no state", found=type(target).__name__)
    return position


def _binput(machine: Machine, position: int) -> int:
    machine.memo[machine.data[position]] = machine.stack[-1]
    return position + 1


def _memoize(machine: Machine, position: int) -> int:
    machine.memo[len(machine.memo)] = machine.stack[-1]
    return position


TABLE: list[Callable[[Machine, int], int]] = [_unknown] * 256
for _code, _operation in {
    0x80: _proto, 0x95: _frame, ord("0"): _pop, ord("1"): _pop_mark,
    ord("J"): _binint, 0x8A: _long(1), 0x8B: _long(4), ord("G"): _binfloat,
    ord("N"): _constant(None), 0x88: _constant(True), 0x89: _constant(False),
    0x8C: _text(1), 0x8D: _text(8), ord("B"): _bytes(4), ord("C"): _bytes(1), 0x8E: _bytes(8), 0x96: _bytes(8),
    ord("]"): _new(list), ord("}"): _new(dict), 0x8F: _new(list), 0x91: _frozenset, 0x87: _tuple3,
    ord("a"): _append, ord("e"): _appends, 0x90: _appends, ord("s"): _setitem, ord("u"): _setitems,
    ord("c"): _global, 0x93: _stack_global, 0x81: _newobj, 0x92: _newobj_ex, ord("b"): _build,
    ord("q"): _binput, 0x94: _memoize,
}.items():  # fmt: skip
    TABLE[_code] = _operation
for _code, _name in {
    ord("I"): "INT", ord("L"): "LONG", ord("F"): "FLOAT", ord("S"): "STRING", ord("V"): "UNICODE",
    ord("T"): "BINSTRING", ord("U"): "SHORT_BINSTRING", ord("l"): "LIST", ord("d"): "DICT",
    ord("g"): "GET", ord("p"): "PUT", ord("2"): "DUP", ord("P"): "PERSID", ord("i"): "INST", ord("o"): "OBJ",
    0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}.items():  # fmt: skip
    TABLE[_code] = _refuse(_name)
