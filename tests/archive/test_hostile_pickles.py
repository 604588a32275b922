"""A pickle imports, calls, allocates and computes nothing that we did not choose.

Every case runs through the command, under limits of time and memory, and must end in one sentence and code 2.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING

import pytest
from hostile import (
    call,
    dict_of,
    doubled,
    forged,
    integer,
    ints,
    list_of,
    name,
    pickled,
    refusal,
    storage,
    tensor,
    text,
    tuple_of,
)

from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.archive.interpreter import Interpreter
from zeroconsolidate.archive.machine import Limits
from zeroconsolidate.archive.unpickle import unpickle
from zeroconsolidate.errors import DamagedFile, UnsafePickle

if TYPE_CHECKING:
    from collections.abc import Callable


class NoContainer:
    path = "rank.pt"
    big_endian = False

    def storage(self, key, size_bytes):
        return 64

    def pread(self, size_bytes, start):
        return bytes(size_bytes)


def read(value: bytes):
    return unpickle(pickled(value), NoContainer())


def long_bytes(opcode: int, width: int, size: int) -> bytes:
    return bytes([opcode]) + size.to_bytes(width, "little")


CODE = text("touch /tmp/should-not-be")
NOT_TORCH = "torch does not write"
IMPORTS = {
    "posix.system": name("posix", "system"),
    "os.system": name("os", "system"),
    "nt.system": name("nt", "system"),
    "subprocess.Popen": name("subprocess", "Popen"),
    "builtins.eval": name("builtins", "eval"),
    "builtins.exec": name("__builtin__", "exec"),
    "builtins.getattr": name("builtins", "getattr"),
    "dotted name": name("builtins", "getattr.__call__"),
    "stack global": text("os") + text("system") + b"\x93",
    "importlib": name("importlib", "import_module"),
    "sys.modules": name("sys", "modules"),
    "pickle in pickle": name("pickle", "loads"),
    "torch.load": name("torch", "load"),
    "torch storage": name("torch.storage", "_load_from_bytes"),
    "socket": name("socket", "create_connection"),
    "ctypes": name("ctypes", "CDLL"),
}


@pytest.mark.parametrize("function", IMPORTS.values(), ids=IMPORTS)
def test_code_is_refused_by_name(tmp_path, function):
    said = refusal("inspect", forged(tmp_path, pickled(call(function, CODE))))
    assert "which no checkpoint needs" in said
    assert "nothing in it was run" in said


def test_the_real_thing_does_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    refusal("inspect", forged(tmp_path / "c", pickle.dumps({"module": Attack()}, 2)))
    assert not (tmp_path / "ran").exists()


def test_names_we_do_not_know_are_inert():
    value = read(call(name("some.package", "function"), text("a")) + b"}" + text("x") + integer(1) + b"sb")
    assert isinstance(value, Inert)
    assert (value.args, value.attribute("x"), repr(value)) == (("a",), 1, "<some.package.function object>")


@pytest.mark.parametrize("known", ["functools.partial", "operator.attrgetter", "pathlib.PosixPath", "builtins.int"])
def test_names_that_people_save_are_inert(tmp_path, known):
    module, _, attribute = known.partition(".")
    value = read(call(name(module, attribute), text(str(tmp_path / "x"))))
    assert isinstance(value, Inert)
    assert value.qualified_name == known


ALTERATIONS = {
    "a tensor's geometry": tensor() + list_of(storage(), integer(0), ints(1 << 20), ints(1), b"N") + b"b",
    "a storage's file": storage() + list_of(text("/etc/passwd"), text("0")) + b"b",
    "a constructor": name("torch._utils", "_rebuild_tensor_v2") + dict_of(make=text("x")) + b"b",
    "a dtype": name("torch", "float32") + dict_of(dtype=text("x")) + b"b",
    "an unknown class": name("a", "b") + dict_of(qualified_name=text("x")) + b"b",
    "a list": list_of() + dict_of(x=text("x")) + b"b",
    "text": text("a") + dict_of(x=text("x")) + b"b",
}


@pytest.mark.parametrize("value", ALTERATIONS.values(), ids=ALTERATIONS)
def test_state_is_set_only_on_what_is_inert(tmp_path, value):
    assert "tries to alter" in refusal("inspect", forged(tmp_path, pickled(value)))


OPCODES = {
    "INT": b"I1\n", "LONG": b"L" + b"9" * 100_000 + b"L\n", "FLOAT": b"F1.0\n", "STRING": b"S'a'\n", "UNICODE": b"Va\n",
    "BINSTRING": b"T\1\0\0\0a", "SHORT_BINSTRING": b"U\1a", "LIST": b"(l", "DICT": b"(d", "GET": b"Np0\ng0\n",
    "PUT": b"Np0\n", "DUP": b"N2", "PERSID": b"Pstorage\n", "INST": b"(iargparse\nNamespace\n",
    "OBJ": b"(" + name("argparse", "Namespace") + b"o", "EXT1": b"\x82\1", "EXT2": b"\x83\1\0", "EXT4": b"\x84\1\0\0\0",
    "NEXT_BUFFER": b"\x97", "READONLY_BUFFER": b"N\x98",
}  # fmt: skip


@pytest.mark.parametrize("value", OPCODES.values(), ids=OPCODES)
def test_opcodes_torch_does_not_write_are_refused(tmp_path, value):
    assert NOT_TORCH in refusal("inspect", forged(tmp_path, pickled(value)))


ANNOUNCED = {
    "BINBYTES": long_bytes(ord("B"), 4, 0xFFFFFFFF),
    "BINBYTES8": long_bytes(0x8E, 8, 1 << 62),
    "BYTEARRAY8": long_bytes(0x96, 8, 1 << 40),
    "BINUNICODE": long_bytes(ord("X"), 4, 0xFFFFFFFF),
    "BINUNICODE8": long_bytes(0x8D, 8, (1 << 64) - 1),
    "SHORT_BINUNICODE": b"\x8c\xff",
    "SHORT_BINBYTES": b"C\xff",
    "FRAME": long_bytes(0x95, 8, 1 << 62),
    "BININT": b"J\0",
    "BINFLOAT": b"G\0",
    "LONG1": b"\x8a\x20",
}


@pytest.mark.parametrize("value", ANNOUNCED.values(), ids=ANNOUNCED)
def test_sizes_are_compared_with_what_is_there(tmp_path, value):
    assert "is cut off" in refusal("inspect", forged(tmp_path, pickled(value)[:-1]))


def test_long_integers_are_refused(tmp_path):
    value = b"\x8b" + struct.pack("<i", 1 << 16) + b"\x7f" * (1 << 16)
    assert "an integer is too long" in refusal("inspect", forged(tmp_path, pickled(value)))


def test_a_memo_index_costs_an_entry():
    """The C unpickler would allocate 32 GB."""
    value = read(list_of() + b"r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff" + b"\x86")
    assert value == ([], [])


DAMAGED = {
    "empty": (b"", "IndexError"),
    "not a pickle": (b"PK\x03\x04", NOT_TORCH),
    "no stop": (b"\x80\x02}", "IndexError"),
    "stops early": (b"\x80\x02}}.", "ends before its object"),
    "stops under a mark": (b"\x80\x02}(.", "ends before its object"),
    "goes on": (pickled(b"}") + b"}", "has bytes after its end"),
    "protocol": (b"\x80\x07}.", "unknown protocol"),
    "pop of nothing": (pickled(b"0"), "IndexError"),
    "mark of nothing": (pickled(b"t"), "IndexError"),
    "memo of nothing": (pickled(b"h\x07"), "KeyError"),
    "reduce without a tuple": (pickled(name("a", "b") + b"]R"), "arguments are not a tuple"),
    "call of text": (pickled(call(text("a"))), "neither a function nor a class"),
    "call of a tensor": (pickled(call(tensor())), "neither a function nor a class"),
    "new object without a tuple": (pickled(name("a", "b") + b"]\x81"), "arguments are not a tuple"),
    "keywords without a dict": (pickled(name("a", "b") + b")]\x92"), "are not a dict"),
    "items into text": (pickled(text("a") + b"(Ne"), "takes none"),
    "append to a tuple": (pickled(b")Na"), "takes none"),
    "key without a value": (pickled(b"}(Nu"), "has no value"),
    "items into a tensor": (pickled(tensor() + b"(NNu"), "takes none"),
    "name without an end": (pickled(b"c" + b"a" * 2000), "has no end"),
    "long name": (pickled(name("a" * 2000, "b")), "has no end"),
    "name that is no text": (pickled(b"NN\x93"), "is not text"),
    "bad text": (pickled(b"X\1\0\0\0\xff"), "UnicodeDecodeError"),
    "unknown opcode": (pickled(b"\xff"), "is not an opcode"),
    "no dict": (pickled(b"]"), "holds no checkpoint"),
}


@pytest.mark.parametrize(("data", "expected"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_pickles_are_one_sentence(tmp_path, data, expected):
    assert expected in refusal("inspect", forged(tmp_path, data))


PIDS = {
    "text": text("storage"),
    "four": tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu")),
    "another tag": tuple_of(text("module"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(1)),
    "unknown type": tuple_of(text("storage"), name("torch", "Strange"), text("0"), text("cpu"), integer(1)),
    "constructor as type": tuple_of(text("storage"), name("torch", "Size"), text("0"), text("cpu"), integer(1)),
    "negative": tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(-1)),
    "true": tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"\x88"),
    "numeric key": tuple_of(text("storage"), name("torch", "FloatStorage"), integer(0), text("cpu"), integer(1)),
}


@pytest.mark.parametrize("pid", PIDS.values(), ids=PIDS)
def test_persistent_ids_are_storages(tmp_path, pid):
    said = refusal("inspect", forged(tmp_path, pickled(pid + b"Q")))
    assert "persistent id" in said or "storage's description" in said


STORAGES = {
    "past its record": (storage(numel=integer(5)), "shorter than the pickle says"),
    "2**60 elements": (storage(numel=integer(1 << 60)), "shorter than the pickle says"),
    "no such record": (storage(key=text("7")), "has no record"),
    "another record": (storage(key=text("../data.pkl")), "has no record"),
    "absolute": (storage(key=text("/etc/passwd")), "has no record"),
    "twice": (tuple_of(storage(), storage(numel=integer(3))), "described twice"),
    "two dtypes": (tuple_of(storage(), storage(kind=name("torch", "IntStorage"))), "described twice"),
}


@pytest.mark.parametrize(("value", "expected"), STORAGES.values(), ids=STORAGES)
def test_storages_are_records(tmp_path, value, expected):
    assert expected in refusal("inspect", forged(tmp_path, pickled(value)))


BIG = 1 << 62
GEOMETRIES = {
    "negative shape": tensor(shape=ints(-4)),
    "negative stride": tensor(stride=ints(-1)),
    "negative offset": tensor(offset=integer(-1)),
    "beyond": tensor(shape=ints(5)),
    "offset beyond": tensor(offset=integer(1)),
    "stride beyond": tensor(shape=ints(2), stride=ints(4)),
    "product beyond 64 bits": tensor(shape=ints(BIG, BIG, 0), stride=ints(0, 0, 0)),
    "product wraps to 4": tensor(shape=ints(1 << 32, 1 << 32), stride=ints(0, 0)),
    "offset beyond 64 bits": tensor(shape=ints(0), offset=integer(1 << 200)),
    "stride beyond 64 bits": tensor(shape=ints(1), stride=ints(1 << 200)),
    "wraps into range": tensor(shape=ints(2), stride=ints((1 << 64) - 1), offset=integer(1)),
    "more strides": tensor(stride=ints(1, 1)),
    "65 dimensions": tensor(shape=ints(*[1] * 65), stride=ints(*[1] * 65)),
    "expands to terabytes": tensor(shape=ints(1 << 40), stride=ints(0)),
    "shape of text": tensor(shape=tuple_of(text("4"))),
    "shape of floats": tensor(shape=tuple_of(b"G" + struct.pack(">d", 4.0))),
    "shape of booleans": tensor(shape=tuple_of(b"\x88")),
    "shape is a list": tensor(shape=list_of(integer(4))),
    "no storage": tensor(where=text("storage")),
    "storage is a tensor": tensor(where=tensor()),
}


@pytest.mark.parametrize("value", GEOMETRIES.values(), ids=GEOMETRIES)
def test_tensors_lie_in_their_storages(tmp_path, value):
    said = refusal("inspect", forged(tmp_path, pickled(dict_of(module=dict_of(a=value)))))
    assert any(word in said for word in ("shape, strides or offset", "reaches past", "description", "repeats"))


def test_a_small_expanded_buffer_is_read():
    assert read(tensor(shape=ints(9, 4), stride=ints(0, 1))).numel == 36


CALLS = {
    "size of a list": call(name("torch", "Size"), list_of(integer(1))),
    "size of text": call(name("torch", "Size"), text("ab")),
    "set of text": call(name("builtins", "set"), text("ab")),
    "set of nothing": call(name("builtins", "frozenset")),
    "encode numbers": call(name("_codecs", "encode"), integer(1), text("latin1")),
    "encode otherwise": call(name("_codecs", "encode"), text("a"), text("idna")),
    "rebuild without a tensor": call(name("torch._utils", "_rebuild_tensor_v2")),
    "rebuild by text": call(name("torch._tensor", "_rebuild_from_type_v2"), text("a"), b"N", b")", b"N"),
    "rebuild by an unknown": call(name("torch._tensor", "_rebuild_from_type_v2"), name("a", "b"), b"N", b")", b"N"),
    "rebuild by itself": call(
        name("torch._tensor", "_rebuild_from_type_v2") + b"q\1",
        *(b"h\1", b"N", tuple_of(b"h\1", b"N", b")", b"N"), b"N"),
    ),
    "rebuild of no tuple": call(
        name("torch._tensor", "_rebuild_from_type_v2"), name("torch._utils", "_rebuild_tensor_v2"), b"N", b"}", b"N"
    ),
    "v3 without a dtype": call(
        name("torch._utils", "_rebuild_tensor_v3"), storage(), integer(0), ints(1), ints(1), b"\x89", b"N", text("f")
    ),
    "keywords": name("collections", "OrderedDict") + b")" + text("a") + b"\x92",
}


@pytest.mark.parametrize("value", CALLS.values(), ids=CALLS)
def test_constructors_take_what_torch_gives_them(tmp_path, value):
    refusal("inspect", forged(tmp_path, pickled(value)))
    with pytest.raises(DamagedFile):
        read(value)


def test_deep_keys_do_not_overflow_the_stack(tmp_path):
    """Hashing a tuple recurses in C, without a check: 200,000 levels end the process by a signal."""
    refusal("inspect", forged(tmp_path, pickled(b"}" + b")" + b"\x85" * 200_000 + b"Ns")))


def test_deep_values_are_let_go(tmp_path):
    refusal("inspect", forged(tmp_path, pickled(b"]" + b")" + b"\x85" * 1_000_000 + b"a")))


def test_marks_are_bounded(tmp_path):
    assert "nested deeper" in refusal("inspect", forged(tmp_path, pickled(b"(" * 1_000_000)))


OBJECT = name("a", "B") + b"q\0" + b"0"
LEVELS = 1200


@pytest.mark.parametrize(
    "value",
    [
        b"N" + b"\x85" * LEVELS,
        b"N" + b"N\x86" * LEVELS,
        b"N" + b"NN\x87" * LEVELS,
        b"N\x85q\0" + b"0(h\0tq\0" * LEVELS,
        b"]" * LEVELS + b"a" * (LEVELS - 1),
        b"]q\0" + b"0](h\0eq\0" * LEVELS,
        b"}N" * LEVELS + b"}" + b"s" * LEVELS,
        b"}q\0" + b"0}(Nh\0uq\0" * LEVELS,
        b"]q\0" + b"0(h\0\x91q\0" * LEVELS,
        OBJECT + b"h\0" * LEVELS + b"N" + b"\x85R" * LEVELS,
        OBJECT + b"h\0" * LEVELS + b"N" + b"\x85\x81" * LEVELS,
        OBJECT + b"h\0)R" * LEVELS + b"b" * (LEVELS - 1),
        OBJECT + b"h\0)R" * LEVELS + b"a" * (LEVELS - 1),
        OBJECT + b"h\0)RN" * LEVELS + b"}" + b"s" * LEVELS,
    ],
    ids=["TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "FROZENSET", "REDUCE",
         "NEWOBJ", "BUILD", "APPEND to an object", "SETITEM of an object"],
)  # fmt: skip
def test_what_is_built_is_bounded_in_depth(value: bytes):
    with pytest.raises(DamagedFile, match="nested deeper than 1000 levels"):
        read(value)


MANY = 20_000


@pytest.mark.parametrize(
    "value",
    [
        b"N\x85" * MANY,
        b"NN\x86" * MANY,
        b"NNN\x87" * MANY,
        b"(Nt" * MANY,
        b"]" * MANY,
        b"}" * MANY,
        b"\x8f" * MANY,
        b"(\x91" * MANY,
        OBJECT + b"h\0)R" * MANY,
        OBJECT + b"h\0)\x81" * MANY,
    ],
    ids=["TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "list", "dict", "set", "FROZENSET", "REDUCE", "NEWOBJ"],
)
def test_containers_are_bounded_by_the_bytes_that_make_them(value: bytes):
    with pytest.raises(DamagedFile, match=r"makes more than [0-9]+ containers; expected fewer for its size"):
        read(b"(" + value + b"t")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("make", [list, dict, lambda: (None,), lambda: (1, 2), lambda: (True, (1, 2), [3])])
def test_picklers_make_no_more(protocol: int, make: Callable[[], object]):
    value = [make() for _ in range(30_000)]
    if protocol >= 4:
        value = [(number, item) for number, item in enumerate(value)]  # two bytes for an empty list are too few
    assert unpickle(pickle.dumps(value, protocol), NoContainer()) == value


def test_a_large_tuple_is_not_looked_through_each_time_it_is_held():
    value = b"(" + b"N" * 200_000 + b"tr\1\0\0\0" + b"0](" + b"j\1\0\0\0\x85" * 40_000 + b"e"
    assert len(read(value)) == 40_000


def test_keys_that_collide_take_no_longer(tmp_path):
    """All these integers have the same hash: as keys they would take minutes."""
    modulus = (1 << 61) - 1
    value = b"}(" + b"".join(integer(i * modulus) + b"N" for i in range(100_000)) + b"u"
    refusal("inspect", forged(tmp_path, pickled(value)))


def test_tuples_that_collide_take_no_longer(tmp_path):
    same = b"".join(tuple_of(integer(i * ((1 << 61) - 1))) + b"N" for i in range(100_000))
    refusal("inspect", forged(tmp_path, pickled(b"}(" + same + b"u")))


def test_large_arguments_are_not_copied(tmp_path):
    """A tuple of 400,000 items handed to 20,000 calls: 64 GB, if each call kept a copy."""
    arguments = b"(" + b"N" * 400_000 + b"tr\1\0\0\0" + b"0"
    calls = b"".join(b"h\2j\1\0\0\0R" for _ in range(20_000))
    refusal("inspect", forged(tmp_path, pickled(name("a", "b") + b"q\2" + arguments + b"](" + calls + b"e\x86")))


def test_text_is_not_encoded_again_and_again(tmp_path):
    function = name("_codecs", "encode") + b"q\1" + tuple_of(text("a" * 500_000), text("latin1")) + b"q\2" + b"0"
    value = function + b"](" + b"h\1h\2R" * 20_000 + b"e\x86"
    assert "again and again" in refusal("inspect", forged(tmp_path, pickled(value)))


def test_text_does_not_become_a_list(tmp_path):
    value = name("builtins", "list") + b"q\1" + tuple_of(text("a" * 500_000)) + b"q\2" + b"0"
    refusal("inspect", forged(tmp_path, pickled(value + b"](" + b"h\1h\2R" * 2_000 + b"e\x86")))


def test_steps_are_bounded():
    with pytest.raises(DamagedFile, match="too long; expected at most 100 opcodes"):
        Interpreter(pickled(b"N0" * 100 + b"N"), None, Limits(steps=100)).run()


def test_errors_do_not_walk_into_what_the_file_made(tmp_path):
    """60 lists that hold the next one twice: printing them would never end."""
    value = tuple_of(text("storage"), doubled(), text("0"), text("cpu"), integer(1)) + b"Q"
    assert "tuple of 5" in refusal("inspect", forged(tmp_path, pickled(value)))
    assert "list of 2" in refusal("inspect", forged(tmp_path, pickled(doubled() + b"Q")))
    said = refusal("inspect", forged(tmp_path, pickled(dict_of(module=b"}", param_shapes=dict_of(a=doubled())))))
    assert "list of 2" in said


def test_unsafe_is_a_kind_of_damage():
    with pytest.raises(UnsafePickle):
        read(name("os", "system"))
    assert issubclass(UnsafePickle, DamagedFile)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_honest_pickles_of_every_protocol_are_read(protocol):
    class Sub(list):
        pass

    value = {"a": [1, -2, 300, 70000, 1 << 70, 2.5, None, True, False, b"x" * 300, "é" * 300, (), (1,), (1, 2, 3, 4)],
             3: {"nested": [[[]]]}, b"k": bytearray(b"y"), None: 0, "s": {7}, "f": frozenset({8})}  # fmt: skip
    read_back = unpickle(pickle.dumps(value, protocol), NoContainer())
    assert read_back["a"] == value["a"]
    assert read_back[3] == value[3]
    assert (read_back[None], read_back["s"], read_back["f"]) == (0, [7], [8])
