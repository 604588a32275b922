"""The pickle of a `.pt` container -> its object, with located tensors, without running any of it.

A :class:`~.interpreter.Interpreter` decodes the opcodes; what lies outside of the pickle is answered here, from a table
by (module, name):

* what DeepSpeed and torch need to describe tensors is a constructor of our own (see `_CONSTRUCTORS`);
* what only an attack would name (`os.system`, `builtins.eval`, …) is an error;
* every other name is a :class:`Name`, and a call of it an :class:`Inert` that keeps its arguments and does nothing.

The globals found in real checkpoints come from torch `torch/_utils.py` and `torch/_tensor.py`, DeepSpeed
`deepspeed/utils/tensor_fragment.py` (`fragment_address`) and `deepspeed/runtime/zero/config.py` (`ZeroStageEnum`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Protocol

from ..dtypes import DType
from ..errors import DamagedFile, UnsafePickle
from .hostile_names import is_hostile
from .inert import Inert, Name, PlainDict
from .interpreter import Interpreter, broken_pickles
from .located import LocatedStorage, LocatedTensor
from .machine import Limits
from .printable import described

if TYPE_CHECKING:
    from collections.abc import Callable


class Container(Protocol):
    """Where storages lie: what the pickle of a file needs to know of the file."""

    @property
    def path(self) -> str:
        """Of the file."""

    @property
    def big_endian(self) -> bool:
        """Whether elements are stored with the most significant byte first."""

    def storage(self, key: str, size_bytes: int) -> int:
        """The byte at which the elements of storage `key` begin. Raises DamagedFile if they are fewer bytes."""

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly so many bytes from byte `start`. Raises DamagedFile."""


class _Constructor(Name):
    """A name that we answer with something of our own."""

    __slots__ = ("make",)

    def __init__(self, qualified_name: str, make: Callable[..., object]) -> None:
        super().__init__(qualified_name)
        self.make = make


class _Element(Name):
    """A storage class or a dtype: `torch.HalfStorage`, `torch.bfloat16`."""

    __slots__ = ("dtype",)

    def __init__(self, qualified_name: str, dtype: DType) -> None:
        super().__init__(qualified_name)
        self.dtype = dtype


def unpickle(data: bytes, container: Container) -> object:
    """The object in `data`, with LocatedTensor in place of tensors and Inert in place of unknown objects.

    Raises UnsafePickle for what only an attack would contain, DamagedFile for what is not a pickle.
    """
    return unpickle_placeless(data, container)[0]


def unpickle_placeless(data: bytes, container: Container) -> tuple[object, bool]:
    """`unpickle`, and whether the object is the same whatever container it is in: all its storages are empty."""
    world = World(container, len(data))
    with broken_pickles("data.pkl"):
        value, stop = Interpreter(data, world, Limits()).run()
    if stop != len(data):
        raise DamagedFile("data.pkl has bytes after its end", expected=f"{stop} bytes", found=len(data))
    return value, world.placeless


class World:
    """What the names, calls and persistent ids of one container's pickle stand for."""

    def __init__(self, container: Container, pickle_bytes: int) -> None:
        self._container = container
        self.storages: dict[str, LocatedStorage] = {}
        self._names: dict[tuple[str, str], Name] = {}
        self._encodable = pickle_bytes
        self.placeless = True

    def find(self, module: str, name: str) -> object:
        known = _CONSTRUCTORS.get((module, name)) or self._names.get((module, name))
        if known is not None:
            return known
        if is_hostile(module, name):
            raise UnsafePickle(
                f"the pickle names {described(module + '.' + name)}, which no checkpoint needs",
                consequence="the file may be an attack, nothing in it was run",
            )
        own = _OWN.get((module, name))
        qualified = f"{module}.{name}"
        self._names[module, name] = made = (
            Name(qualified) if own is None else _Constructor(qualified, getattr(self, own))
        )
        return made

    def call(self, function: object, arguments: tuple[object, ...]) -> object:
        if type(function) is _Constructor:
            return function.make(*arguments)
        if not isinstance(function, Name):
            raise DamagedFile(
                "the pickle calls something that is neither a function nor a class", found=described(function)
            )
        return Inert(function.qualified_name, arguments)

    def persistent(self, pid: object) -> LocatedStorage:
        """`('storage', type, key, location, numel)`; `_rebuild_*` turns it into a tensor."""
        if type(pid) is tuple and len(pid) == 6 and pid[5] is None:
            pid = pid[:5]  # torch's older container has a sixth field, for views of storages; nothing uses it
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise DamagedFile("a persistent id is not a torch storage", found=described(pid))
        _, element, key, _, numel = pid
        if type(element) is not _Element or type(key) is not str or type(numel) is not int or numel < 0:
            raise DamagedFile("a storage's description is impossible", found=described(pid))
        dtype = element.dtype
        known = self.storages.get(key)
        if known is None:
            start = self._container.storage(key, numel * dtype.itemsize)
            self.placeless &= not numel
            known = self.storages[key] = LocatedStorage(
                file=self._container.path if numel else "",
                key=key,
                start=start,
                numel=numel,
                dtype=dtype,
                big_endian=self._container.big_endian,
            )
        elif known.numel != numel or known.dtype is not dtype:
            raise DamagedFile(
                f"the storage {described(key)} is described twice",
                found=f"{known.numel} elements of {known.dtype.code} and {numel} of {dtype.code}",
            )
        return known

    def _rebuild(self, storage: object, offset: Any, size: Any, stride: Any, *_: object) -> LocatedTensor:
        if type(storage) is not LocatedStorage or type(size) is not tuple or type(stride) is not tuple:
            raise DamagedFile("a tensor's description is impossible")
        for value in (offset, *size, *stride):
            if type(value) is not int:
                raise DamagedFile("a tensor's shape, strides or offset are impossible: they are not integers")
        tensor = LocatedTensor(storage, offset, size, stride)
        if size == ():
            return LocatedTensor(storage, offset, size, stride, self._item(tensor))
        return tensor

    def _rebuild_v3(
        self,
        storage: object,
        offset: Any,
        size: Any,
        stride: Any,
        grad: object,
        hooks: object,
        element: object,
        *_: object,
    ) -> LocatedTensor:
        """Tensors of dtypes that have no storage class of their own: an untyped storage and a dtype."""
        if type(storage) is not LocatedStorage or type(element) is not _Element:
            raise DamagedFile("a tensor's description is impossible")
        typed = LocatedStorage(
            file=storage.file,
            key=storage.key,
            start=storage.start,
            numel=storage.numel * storage.dtype.itemsize // element.dtype.itemsize,
            dtype=element.dtype,
            big_endian=storage.big_endian,
        )
        return self._rebuild(typed, offset, size, stride)

    def _item(self, tensor: LocatedTensor) -> float | int | None:
        data = self._container.pread(tensor.dtype.itemsize, tensor.start)
        byteorder = ">" if tensor.storage.big_endian else "<"
        return _decode_item(data, tensor.dtype, byteorder)

    def _from_type(self, function: object, _: object, arguments: object, *__: object) -> object:
        """`_rebuild_from_type_v2(function, type, args, state)`: a subclass, or a tensor with attributes."""
        if type(function) is not _Constructor or function.make == self._from_type or type(arguments) is not tuple:
            raise DamagedFile("a tensor is rebuilt by something that is not a rebuild function")
        return function.make(*arguments)

    def _encode(self, text: object, encoding: object = "utf-8", *_: object) -> bytes:
        """Protocol 2 writes bytes as `_codecs.encode(text, 'latin1')`, each for itself."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise DamagedFile("bytes are encoded in a way that pickle does not write")
        self._encodable -= len(text)
        if self._encodable < 0:
            raise UnsafePickle("the pickle turns the same text into bytes again and again")
        return text.encode("latin-1")


def _decode_item(data: bytes, dtype: DType, byteorder: str) -> float | int | None:
    letters = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "BOOL": "?"}
    letters |= {"U64": "Q", "U32": "I", "U16": "H", "U8": "B"}
    if dtype is DType.BF16:
        data = b"\0\0" + data if byteorder == "<" else data + b"\0\0"
        return float(struct.unpack(byteorder + "f", data)[0])
    letter = letters.get(dtype.code)
    if letter is None:
        return None
    value: float | int = struct.unpack(byteorder + letter, data)[0]
    return value


def _first(value: object, *_: object) -> object:
    return value


def _dict(*arguments: object) -> dict[Any, Any]:
    """`OrderedDict()`, `defaultdict(factory)`, `Counter({…})`: items that do not come in a dict are set later."""
    last = arguments[-1] if arguments else None
    return last if type(last) is dict else PlainDict()


def _tuple(items: object) -> tuple[object, ...]:
    if type(items) is not tuple:
        raise DamagedFile("a size is not made of a tuple", found=described(items))
    return items


def _set(items: object) -> list[object]:
    # A list, because members such as tensors need not be hashable, and order is kept.
    if type(items) is not list:
        raise DamagedFile("a set is not made of a list", found=described(items))
    return items


_STORAGES = {
    "DoubleStorage": DType.F64,
    "FloatStorage": DType.F32,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "LongStorage": DType.I64,
    "IntStorage": DType.I32,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
    "ComplexFloatStorage": DType.C64,
}

_CONSTRUCTORS: dict[tuple[str, str], Name] = {
    **{
        (module, name): _Constructor(f"{module}.{name}", make)
        for module, name, make in (
            ("torch._utils", "_rebuild_parameter", _first),
            ("torch._utils", "_rebuild_parameter_with_state", _first),
            ("torch", "Size", _tuple),
            ("collections", "OrderedDict", _dict),
            ("collections", "defaultdict", _dict),
            ("collections", "Counter", _dict),
            ("builtins", "set", _set),
            ("builtins", "frozenset", _set),
            ("__builtin__", "set", _set),
            ("__builtin__", "frozenset", _set),
        )
    },
    **{("torch", name): _Element(f"torch.{name}", dtype) for name, dtype in _STORAGES.items()},
    **{("torch", dtype.torch_name): _Element(f"torch.{dtype.torch_name}", dtype) for dtype in DType},
    ("torch.storage", "UntypedStorage"): _Element("torch.storage.UntypedStorage", DType.U8),
}

_OWN = {
    ("torch._utils", "_rebuild_tensor"): "_rebuild",
    ("torch._utils", "_rebuild_tensor_v2"): "_rebuild",
    ("torch._utils", "_rebuild_tensor_v3"): "_rebuild_v3",
    ("torch._tensor", "_rebuild_from_type"): "_from_type",
    ("torch._tensor", "_rebuild_from_type_v2"): "_from_type",
    ("_codecs", "encode"): "_encode",
}
"""Constructors that need the container: methods of World."""
