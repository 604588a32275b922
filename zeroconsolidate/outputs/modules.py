"""`modules.json` of a sentence-transformers model -> its modules, and the module that each stored tensor belongs to.

A checkpoint of its Trainer has one model that is a sequence of modules, `0.model.encoder…`, `2.linear.weight`. On disk
the transformer lies in the directory itself and every other module that has weights in a folder of its own, as
`sentence_transformers/base/model.py` and `base/modules/router.py` save and load them:

    0.model.encoder.layer.0.…              model.safetensors            encoder.layer.0.…
    2.linear.weight                        2_Dense/model.safetensors    linear.weight
    0.sub_modules.query.0.model.…          query_0_Transformer/…        … (a Router, whose parts lie in folders)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.json_file import parse
from ..archive.places import is_file, names_in
from ..archive.regular import read_small
from ..errors import DamagedFile, at
from ..plan.build import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.build import Source

MODULES = "modules.json"
ROUTER = "router_config.json"
MAX_BYTES = 1 << 20
"""A longer list of modules is refused."""
_PLACE = re.compile(r"(\D*?)([0-9]+)\.")
_TRANSFORMER = ("model.", "auto_model.")
"""The transformer inside of its module, in sentence-transformers 6 and before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One module of a model."""

    prefix: str
    """Of its tensors in the whole, such as `2.`."""
    folder: str
    """Where it is saved; empty for the directory itself."""
    kind: str
    """Its class, such as `Dense`."""

    @property
    def is_transformer(self) -> bool:
        """Whether it is a model of transformers, which config.json in its folder describes."""
        return self.kind.endswith("Transformer")


def modules_of(files: Mapping[str, str]) -> tuple[Module, ...]:
    """The modules that `files` (output name -> path) describe; none if it is not a model of sentence-transformers.

    Raises DamagedFile for lists that cannot be read.
    """
    if MODULES not in files:
        return ()
    found: list[Module] = []
    for entry in _json(files[MODULES], list):
        module = _module(entry, files[MODULES])
        if module.kind in ("Router", "Asym"):
            found += _routes(module, files)
        else:
            found.append(module)
    return tuple(found)


def modules_in(directory: str) -> tuple[Module, ...]:
    """The modules of a model on disk. Raises what `modules_of` raises."""
    try:
        entries = sorted(names_in(directory))
    except OSError:
        return ()  # said by who reads its weights
    names = [MODULES, ROUTER, *(f"{entry}/{ROUTER}" for entry in entries)]
    paths = {name: os.path.join(directory, name) for name in names}
    return modules_of({name: path for name, path in paths.items() if is_file(path)})


def _json(path: str, kind: type) -> Any:
    with at(path):
        value = parse(read_small(path, MAX_BYTES), os.path.basename(path))
        if not isinstance(value, kind):
            raise DamagedFile("the modules are not listed in it", expected=kind.__name__, found=type(value).__name__)
        return value


def _module(entry: Any, path: str) -> Module:
    try:
        name, folder, kind = str(entry["name"]), str(entry["path"]), str(entry["type"]).rpartition(".")[2]
    except (TypeError, KeyError):
        with at(path):
            raise DamagedFile("a module has no name, path or type", found=repr(entry)[:60]) from None
    return Module(prefix=f"{name}.", folder=_inside(folder, path), kind=kind)


def _inside(folder: str, path: str) -> str:
    folder = folder.rstrip("/")
    if os.path.isabs(folder) or ".." in folder.split("/"):
        with at(path):
            raise DamagedFile("the folder of a module is outside of the directory", found=repr(folder)[:60])
    return folder


def _routes(router: Module, files: Mapping[str, str]) -> list[Module]:
    """The modules behind a router: several routes may share one."""
    path = files.get(os.path.join(router.folder, ROUTER)) or files.get(os.path.join(router.folder, "config.json"))
    config = {} if path is None else _json(path, dict)
    structure, types = config.get("structure"), config.get("types")
    if path is None or not isinstance(structure, dict) or not isinstance(types, dict):
        with at(path or router.folder or MODULES):
            raise DamagedFile("the routes of the Router are not described", expected=ROUTER)
    return [
        Module(
            prefix=f"{router.prefix}sub_modules.{route}.{place}.",
            folder=_inside(os.path.join(router.folder, str(one)), path),
            kind=str(types.get(one, "")).rpartition(".")[2],
        )
        for route, several in structure.items()
        for place, one in enumerate(several)
    ]


def has_own_weights(modules: tuple[Module, ...]) -> bool:
    """Whether weights lie in the directory itself; behind a Router all are in folders."""
    return not modules or any(not module.folder for module in modules)


def apart(selection: Selection, modules: tuple[Module, ...]) -> tuple[Selection, dict[str, dict[str, Source]]]:
    """(what belongs in the directory itself, and by folder the tensors of its module under the names they have there).

    All belongs in the directory itself if the tensors are not those of a sequence of modules.
    """
    wrapper = _wrapper(selection.named)
    if wrapper is None or not modules:
        return selection, {}
    own: dict[str, Source] = {}
    folders: dict[str, dict[str, Source]] = {}
    for name, source in selection.named.items():
        module = next((m for m in modules if name.startswith(wrapper + m.prefix)), None)
        if module is None or not module.folder:
            own[name] = source
            continue
        inner = name.removeprefix(wrapper + module.prefix)
        if module.is_transformer:
            taken = next((prefix for prefix in _TRANSFORMER if inner.startswith(prefix)), "")
            inner = inner.removeprefix(taken)
        folders.setdefault(module.folder, {})[inner] = source
    return Selection(named=own, left_out=selection.left_out), folders


def _wrapper(names: Mapping[str, object]) -> str | None:
    """What stands before the number of its module in every name; None where some name has no number."""
    found = {match and match[1] for match in map(_PLACE.match, names)}
    return found.pop() if len(found) == 1 else None
