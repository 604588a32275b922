"""The files of `--base` -> its tensors, by the names of the model that was trained.

transformers says how the two differ (`naming/base_layout.py`). Where it cannot be asked, what is known here serves: a
constant prefix where the model was trained through another class than it was saved from (`layers.0…` of a Qwen2Model,
`model.layers.0…` in a file of a Qwen2ForCausalLM), and experts, of which transformers 5 keeps a layer's in one tensor
and files on the hub have a matrix for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Disagreement, at
from ..naming.base_layout import base_layout
from ..plan.build import Source
from ..plan.pieces import Rows, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Shape
    from ..naming.hub_layout import Architecture
    from ..plan.pieces import Recipe

STACKS = (
    ("mlp.experts", "block_sparse_moe.experts", {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}),
    ("mlp.experts", "mlp.experts", {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}),
)
"""(module in memory, module in the file, parameter -> the matrices of an expert, end to end): Mixtral's names, and
those of Qwen, OLMoE, DeepSeek and others (transformers `conversion_mapping.py`)."""
RENAMED = (("mlp.", "block_sparse_moe."),)
"""Modules that are called otherwise in files (Mixtral's router)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A tensor of the trained model: one of the original's files, the matrices of a stack in them, or the run's own."""

    source: Source
    pieces: tuple[tuple[str, Shape], ...]
    """The names in the files, in the order in which they make up the tensor, and their shapes; none where the
    conversions of transformers tell."""
    is_original: bool = True
    """Whether it is of the original's files."""

    def spread(self, recipe: Recipe, role: str) -> dict[str, Source]:
        """`recipe`, which makes the whole tensor, under the names in the files."""
        if len(self.pieces) == 1:
            name, shape = self.pieces[0]
            return {name: Source(name=name, shape=shape, recipe=recipe, role=role)}
        made, start = {}, 0
        for name, shape in self.pieces:
            numel = shape[0] * shape[1]
            part = Rows((recipe,), 1, ((0, start, numel),))
            made[name] = Source(name=name, shape=shape, recipe=part, role=role)
            start += numel
        return made


class Original:
    """The tensors of `--base`, by the trained model's names."""

    def __init__(
        self,
        tensors: Mapping[str, LocatedTensor],
        directory: str,
        wanted: Iterable[str],
        architecture: Architecture | None = None,
    ) -> None:
        """`wanted`: names of tensors that should be there; they tell by which prefix the names differ. `architecture`:
        what transformers says of the class that was trained, if it can be asked."""
        wanted = list(wanted)
        self.directory = directory
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self._layout = None if architecture is None else base_layout(architecture, shapes, wanted)
        renamed = {} if self._layout is None else self._layout.renamed
        self.tensors = {renamed.get(name, name): tensor for name, tensor in tensors.items()}
        """By the names that the output has."""
        self._drop, self._add = _prefixes(wanted, set(self.tensors))

    @property
    def prefix_note(self) -> str | None:
        """What was decided about names, in words."""
        drop, add = (self._drop, self._add) if self._layout is None else self._layout.change
        parts = [f"prefix {drop!r} removed from" if drop else "", f"prefix {add!r} added to" if add else ""]
        said = " and ".join(filter(None, parts))
        return f"{said} the trained names, as in the base model" if said else None

    @property
    def target(self) -> str | None:
        """The class that the output is for, in words; None if nobody could be asked."""
        return None if self._layout is None else self._layout.files.origin

    def expects(self, name: str) -> bool:
        """Whether the class that the output is for has a tensor of this name in its files."""
        return self._layout is not None and (name in self._layout.files.shapes or name in self._layout.files.ties)

    def in_memory(self, path: str) -> str | None:
        """The name in memory by which transformers' conversions know a tensor of the trained model."""
        return None if self._layout is None else self._layout.name_of(path)

    def is_opaque(self, path: str) -> bool:
        """Whether the files have the elements of a tensor in an order that cannot be turned around."""
        name = self.in_memory(path)
        return self._layout is not None and name is not None and self._layout.is_opaque(name)

    def in_files(self, made: Mapping[str, tuple[Found, Source]]) -> dict[str, Source]:
        """Tensors of the merged model by path, each with what it was found as, as the files have them.

        Raises Disagreement if two are the same tensor there, UnsupportedLayout for what has another order there.
        """
        known: dict[str, Source] = {}
        files: dict[str, Source] = {}
        for path, (found, source) in made.items():
            with at(path):
                name = self.in_memory(path)
                parts = found.spread(source.recipe, source.role) if name is None else {name: source}
                there = files if name is None else known
                if not there.keys().isdisjoint(parts):
                    raise Disagreement(
                        "two tensors of the checkpoint belong to one tensor of the base model", found=", ".join(parts)
                    )
                there |= parts
        return files if self._layout is None else files | self._layout.in_files(known, self.tensors)

    def name_of(self, path: str) -> str:
        """What the file calls, or would call, a tensor of the trained model."""
        memory = self.in_memory(path)
        if memory is not None and self._layout is not None:
            return self._layout.file_name(memory)
        name = self._add + path.removeprefix(self._drop)
        if name not in self.tensors:
            for ours, theirs in RENAMED:
                renamed = f".{name}".replace(f".{ours}", f".{theirs}").removeprefix(".")
                if renamed in self.tensors:
                    return renamed
        return name

    def find(self, path: str) -> Found | None:
        """A tensor of the trained model; None if the files have no such tensor."""
        memory = self.in_memory(path)
        if memory is not None and self._layout is not None:
            source = self._layout.source(memory, self.tensors)
            return None if source is None else Found(source=source, pieces=())
        name = self.name_of(path)
        tensor = self.tensors.get(name)
        if tensor is not None:
            return Found(source=Source.of_model(name, tensor), pieces=((name, tensor.shape),))
        module, _, parameter = (self._add + path.removeprefix(self._drop)).rpartition(".")
        for ours, theirs, parameters in STACKS:
            if parameter in parameters and f".{module}".endswith(f".{ours}"):
                found = self._stack(module.removesuffix(ours) + theirs, parameters[parameter])
                if found is not None:
                    return found
        return None

    def in_order(self, module: str, parameters: Iterable[str]) -> list[str]:
        """Those `parameters` of a module that are there, in the order of the module as far as it is known."""
        parameters = list(parameters)
        if self._layout is not None and (ordered := self._layout.in_order(module, parameters)):
            return ordered
        known = [name for _, _, matrices in STACKS for name in matrices]
        ordered = sorted(parameters, key=lambda name: (known.index(name) if name in known else len(known), name))
        return [name for name in ordered if self.find(f"{module}.{name}") is not None]

    def nearest(self, path: str) -> str:
        """Names like `path`, for an error."""
        from difflib import get_close_matches

        close = get_close_matches(self.name_of(path), list(self.tensors)[:5000], n=3, cutoff=0.4)
        return ", ".join(close or list(self.tensors)[:3])

    def _stack(self, module: str, matrices: tuple[str, ...]) -> Found | None:
        pieces: list[tuple[str, Shape]] = []
        recipes: list[Recipe] = []
        expert = 0
        while (name := f"{module}.{expert}.{matrices[0]}.weight") in self.tensors:
            for matrix in matrices:
                name = f"{module}.{expert}.{matrix}.weight"
                tensor = self.tensors.get(name)
                if tensor is None or len(tensor.shape) != 2:
                    return None
                pieces.append((name, tensor.shape))
                recipes.append(View(tensor))
            expert += 1
        per_expert = pieces[: len(matrices)]
        dtypes = {recipe.dtype for recipe in recipes}
        if not pieces or len(dtypes) != 1 or {s for _, s in pieces} - {s for _, s in per_expert}:
            return None
        shape = (expert, sum(s[0] for _, s in per_expert), per_expert[0][1][1])
        source = Source(name=module, shape=shape, recipe=_end_to_end(recipes), role="frozen")
        return Found(source=source, pieces=tuple(pieces))


def _end_to_end(recipes: list[Recipe]) -> Recipe:
    return Rows(tuple(recipes), 1, tuple((number, 0, recipe.numel) for number, recipe in enumerate(recipes)))


def _prefixes(wanted: list[str], names: set[str]) -> tuple[str, str]:
    """(prefix to take from the trained model's names, prefix to put before them)."""
    samples = wanted[:64]
    candidates = {("", "")}
    ends = {name.rpartition(".")[0].rpartition(".")[2] for name in samples}
    for name in names:
        if name.rpartition(".")[0].rpartition(".")[2] in ends:
            for path in samples[:8]:
                if name.endswith(f".{path}"):
                    candidates.add(("", name.removesuffix(path)))
                elif path.endswith(f".{name}"):
                    candidates.add((path.removesuffix(name), ""))

    def fitting(candidate: tuple[str, str]) -> tuple[int, int]:
        drop, add = candidate
        hits = sum(path.startswith(drop) and add + path.removeprefix(drop) in names for path in samples)
        return hits, -len(drop) - len(add)

    return max(sorted(candidates), key=fitting)
