"""Reads the pickle inside a `.pt` container without running any of it.

Python's own unpickler does the decoding; it is harmless as long as nothing it is asked to import or call does
anything. So every global a pickle names is answered from a table by (module, name):

* what DeepSpeed and torch need to describe tensors becomes a constructor of our own (see `_CONSTRUCTORS`);
* what only an attack would name (`os.system`, `builtins.eval`, …) is an error;
* every other name becomes a class of its own that keeps what it is given and does nothing: :class:`Inert`.

The globals found in real checkpoints come from torch `torch/_utils.py` and `torch/_tensor.py`, DeepSpeed
`deepspeed/utils/tensor_fragment.py` (`fragment_address`) and `deepspeed/runtime/zero/config.py` (`ZeroStageEnum`).
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import TYPE_CHECKING, Any

from ..dtypes import DType
from ..errors import DamagedFile, UnsafePickle, ZeroConsolidateError
from .inert import Inert, PlainDict
from .located import LocatedStorage, LocatedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .container import ZipContainer


class _Sealed:
    """A value that a pickle can pass around or call but, unlike a function or an enum member, not alter."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        raise UnsafePickle("the pickle tries to alter a function or type")


class _Constructor(_Sealed):
    __slots__ = ()
    value: Callable[..., object]

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.value(*args, **kwargs)


_HOSTILE_MODULES = frozenset(
    "os posix nt subprocess sys importlib runpy pty socket shutil ctypes _ctypes signal multiprocessing threading "
    "asyncio pickle _pickle marshal code codeop types inspect pdb bdb timeit webbrowser http urllib ftplib smtplib "
    "tempfile pathlib io _io operator _operator functools pkgutil zipimport gc atexit builtin_function_or_method "
    "pip setuptools distutils cffi venv".split()
)
_HOSTILE_BUILTINS = frozenset(
    "eval exec compile open input breakpoint getattr setattr delattr __import__ globals locals vars execfile "
    "exit quit memoryview map filter apply reduce file".split()
)
_HOSTILE_NAMES = frozenset(
    {
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.serialization", "load"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
    }
)


def unpickle(data: bytes, container: ZipContainer) -> object:
    """The object in `data`, with LocatedTensor in place of tensors and Inert in place of unknown objects.

    Raises UnsafePickle for what only an attack would contain, DamagedFile for what is no pickle.
    """
    reader = _Reader(data, container)
    try:
        return reader.load()
    except ZeroConsolidateError:
        raise
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise DamagedFile(f"data.pkl is damaged: {type(error).__name__}: {error}") from None


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, container: ZipContainer) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._container = container
        self._storages: dict[tuple[str, DType], LocatedStorage] = {}
        self._classes: dict[tuple[str, str], type[Inert]] = {}

    def find_class(self, module: str, name: str) -> object:
        known = _CONSTRUCTORS.get((module, name))
        if known is not None:
            return known
        if (module, name) in _DEFERRED:
            return _Constructor(getattr(self, _DEFERRED[module, name]))
        root = module.partition(".")[0]
        hostile = root in _HOSTILE_MODULES or (module, name) in _HOSTILE_NAMES
        if hostile or (root in ("builtins", "__builtin__") and name.partition(".")[0] in _HOSTILE_BUILTINS):
            raise UnsafePickle(
                f"the pickle names {module}.{name}, which no checkpoint needs; "
                "the file may be an attack, nothing in it was run"
            )
        inert = self._classes.get((module, name))
        if inert is None:
            body = {"__slots__": (), "qualified_name": f"{module}.{name}", "__module__": __name__}
            inert = self._classes[module, name] = type("Inert", (Inert,), body)
        return inert

    def persistent_load(self, pid: object) -> LocatedStorage:
        """`('storage', type, key, location, numel)`; `_rebuild_*` turns it into a tensor."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise DamagedFile(f"a persistent id is not a torch storage; got {pid!r:.100}")
        _, sealed, key, _, numel = pid
        dtype = sealed.value if isinstance(sealed, _Sealed) else None
        if not isinstance(dtype, DType) or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise DamagedFile(f"a storage's description is impossible; got {pid!r:.100}")
        known = self._storages.get((key, dtype))
        if known is None:
            start = self._container.storage(key, numel * dtype.itemsize)
            known = self._storages[key, dtype] = LocatedStorage(
                file=self._container.path,
                key=key,
                start=start,
                numel=numel,
                dtype=dtype,
                big_endian=self._container.big_endian,
            )
        elif known.numel != numel:
            raise DamagedFile(f"the storage {key!r} is described twice; got {known.numel} and {numel} elements")
        return known

    def _rebuild(self, storage: object, offset: Any, size: Any, stride: Any, *_: object) -> LocatedTensor:
        if not isinstance(storage, LocatedStorage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise DamagedFile("a tensor's description is impossible")
        if not all(type(value) is int for value in (offset, *size, *stride)):
            raise DamagedFile("a tensor's geometry is impossible: it is not made of integers")
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
        dtype: object,
        *_: object,
    ) -> LocatedTensor:
        """Tensors of dtypes that have no storage class of their own: an untyped storage and a dtype."""
        actual = dtype.value if isinstance(dtype, _Sealed) else None
        if not isinstance(storage, LocatedStorage) or not isinstance(actual, DType):
            raise DamagedFile("a tensor's description is impossible")
        typed = LocatedStorage(
            file=storage.file,
            key=storage.key,
            start=storage.start,
            numel=storage.numel * storage.dtype.itemsize // actual.itemsize,
            dtype=actual,
            big_endian=storage.big_endian,
        )
        return self._rebuild(typed, offset, size, stride)

    def _item(self, tensor: LocatedTensor) -> float | int | None:
        data = self._container.pread(tensor.dtype.itemsize, tensor.start)
        byteorder = ">" if tensor.storage.big_endian else "<"
        return _decode_item(data, tensor.dtype, byteorder)


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


def _from_type(function: object, _: object, args: tuple[object, ...], *__: object) -> object:
    """`torch._tensor._rebuild_from_type_v2(function, type, args, state)`: a subclass or a tensor with attributes."""
    if not isinstance(function, _Constructor):
        raise DamagedFile("a tensor is rebuilt by something that is no rebuild function")
    return function(*args)


def _encode(text: object, encoding: object = "utf-8", *_: object) -> bytes:
    """Protocol 2 writes bytes as `_codecs.encode(text, 'latin1')`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DamagedFile("bytes are encoded in a way that pickle does not write")
    return text.encode("latin-1")


def _dict(*args: Any) -> PlainDict:
    return PlainDict(args[-1]) if args and not isinstance(args[-1], (type, Inert, _Sealed)) else PlainDict()


def _tuple(items: Any = ()) -> tuple[object, ...]:
    return tuple(items)


def _set(items: Any = ()) -> list[object]:
    # A list, because members such as Inert objects and located tensors need not be hashable, and order is kept.
    return list(items)


def _storage_types() -> dict[tuple[str, str], _Sealed]:
    names = {
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
    table = {("torch", name): _Sealed(dtype) for name, dtype in names.items()}
    table["torch.storage", "UntypedStorage"] = _Sealed(DType.U8)
    return table | {("torch", dtype.torch_name): _Sealed(dtype) for dtype in DType}


_CONSTRUCTORS: dict[tuple[str, str], _Sealed] = {
    ("torch._utils", "_rebuild_parameter"): _Constructor(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): _Constructor(_first),
    ("torch._tensor", "_rebuild_from_type_v2"): _Constructor(_from_type),
    ("torch._tensor", "_rebuild_from_type"): _Constructor(_from_type),
    ("torch", "Size"): _Constructor(_tuple),
    ("collections", "OrderedDict"): _Constructor(_dict),
    ("collections", "defaultdict"): _Constructor(_dict),
    ("collections", "Counter"): _Constructor(_dict),
    ("_codecs", "encode"): _Constructor(_encode),
    **{
        (module, name): _Constructor(make)
        for module in ("builtins", "__builtin__")
        for name, make in {
            "set": _set,
            "frozenset": _set,
            "list": _set,
            "tuple": _tuple,
            "dict": _dict,
            "int": int,
            "float": float,
            "bool": bool,
            "complex": complex,
        }.items()
    },
    **_storage_types(),
}

_DEFERRED = {
    ("torch._utils", "_rebuild_tensor"): "_rebuild",
    ("torch._utils", "_rebuild_tensor_v2"): "_rebuild",
    ("torch._utils", "_rebuild_tensor_v3"): "_rebuild_v3",
}
