"""Path of a tensor -> the weight that adapters are added to: the original's, the checkpoint's frozen copy, or trained.

Paths are as in `wrapped.py`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import BadOption, UnsupportedLayout, ZeroConsolidateError
from ..plan.build import Source
from ..plan.pieces import Rows
from .additions import has_row_per_token
from .original import Found

if TYPE_CHECKING:
    from ..plan.pieces import Recipe
    from .original import Original
    from .wrapped import PeftModel


class Bases:
    """Finds the tensor that adapters are added to by its path, and records where it was taken from."""

    def __init__(self, model: PeftModel, original: Original | None, altered: str | None, remedy: str) -> None:
        """`altered`: how an adapter was initialised if that changed the weights it belongs to: then they are not the
        original's. `remedy`: how to name the original, where it is needed and was not given."""
        self._model, self._original, self._altered = model, original, altered
        self._remedy, self._quantized = remedy, set(model.quantized.values())
        self.from_checkpoint: dict[str, str] = {}
        """Names of the tensors of the original model that are the checkpoint's frozen copies, and their dtypes."""
        self.unproven: dict[str, tuple[Recipe, Recipe]] = {}
        """Path -> (the original's tensor, the frozen copy in the checkpoint): as far as both go, they should be the
        same."""
        self.added_rows: dict[str, str] = {}
        """Names of the tensors that have the rows the run added from its frozen copies, and the dtypes of those."""

    def owner(self, path: str) -> str:
        """The path that stands for a shared tensor. A name that modules_to_save gave a tensor of its own is no longer
        a name of the shared one."""
        return self._model.tied.get(path, path) if path not in self._model.saved else path

    def added_under(self, path: str) -> str:
        """The path under which it is collected what adapters add to this tensor: one for all names of a shared tensor.

        If modules_to_save gave the first of them a tensor of its own, the others still share theirs.
        """
        owner = self.owner(path)
        if path in self._model.saved or owner not in self._model.saved:
            return owner
        return next(name for name, of in self._model.tied.items() if of == owner and name not in self._model.saved)

    def find(self, path: str) -> Found | None:
        """The tensor that adapters are added to, from the best source there is."""
        own = self._model.own.get(path) or self._model.own.get(self.owner(path))
        saved = self._model.saved.get(path, {})
        if len(saved) > 1:
            raise BadOption(
                f"the adapters {', '.join(saved)} have each trained their own copy of this module (modules_to_save)",
                remedy="choose one of them with --adapter",
            )
        trained = next(iter(saved.values()), None) or (own if own is not None and own.role == "trainable" else None)
        if trained is not None:
            return self._as_stored(path, trained, "trainable")
        if self._original is not None and self._altered is None:
            found = self._of_original(path)
            if found is not None and own is not None and self._is_quantized(path, own):
                return found  # the copy was made of it, and is not a witness
            if found is not None and (own is None or own.shape == found.source.shape):
                if own is not None and own.role == "frozen":
                    self.unproven[path] = (found.source.recipe, own.recipe)
                return found
            if found is not None and own is not None and self._is_resized(found.source, own):
                return self._of_both(path, found.source, own)
            if own is not None and own.role == "buffer" and not (found is not None and self._has_tokens(found, own)):
                return None  # the original's files do without it, or have another
            if self._original.is_opaque(path):
                return None  # it stays as it is in the original's files
        if own is None:
            return None
        if self._is_quantized(path, own):
            raise self._only_quantized(own)
        self.from_checkpoint[self.name(path)] = own.recipe.dtype.torch_name
        return self._as_stored(path, own, own.role)

    @cached_property
    def _vocabularies(self) -> set[tuple[int, int]]:
        """(tokens of the original, tokens of the run), where the run resized an embedding or a head."""
        run = self._model.own | {path: next(iter(held.values())) for path, held in self._model.saved.items()}
        found = [(self._of_original(path), source) for path, source in run.items() if has_row_per_token(path)]
        sizes = {(its.source.shape[0], source.shape[0]) for its, source in found if its is not None and source.shape}
        return {(before, after) for before, after in sizes if before != after}

    def _has_tokens(self, found: Found, own: Source) -> bool:
        """Whether a buffer has a number for each token, of which the run has more or fewer."""
        before, after = found.source.shape, own.shape
        return before[:-1] == after[:-1] and (before[-1:], after[-1:]) in {((b,), (a,)) for b, a in self._vocabularies}

    def _is_resized(self, original: Source, own: Source) -> bool:
        """Whether two tensors differ in nothing but the number of tokens. Where labels differ in number, say, the
        first of them are others."""
        return (
            own.role == "frozen"
            and original.shape[1:] == own.shape[1:]
            and bool(own.shape)
            and (original.shape[0], own.shape[0]) in self._vocabularies
            and original.recipe.dtype.is_floating
            and original.recipe.is_copied
            and own.recipe.is_copied
        )

    def _of_both(self, path: str, original: Source, own: Source) -> Found:
        """The original's rows, as far as the run has them, and of the run's frozen copy those that it added."""
        self.unproven[path] = (original.recipe, own.recipe)
        name, kept = self.name(path), min(original.recipe.numel, own.recipe.numel)
        runs = ((0, 0, kept), (1, kept, own.recipe.numel - kept))
        recipe = Rows((original.recipe, own.recipe), 1, runs)
        if own.recipe.numel > kept:
            self.added_rows[name] = own.recipe.dtype.torch_name
        else:
            recipe = Rows((original.recipe,), 1, runs[:1])
        return Found(
            source=Source(name=name, shape=own.shape, recipe=recipe, role=own.role),
            pieces=((name, own.shape),),
            is_original=False,
        )

    def _is_quantized(self, path: str, own: Source) -> bool:
        """Whether the checkpoint's copy of a weight is in a few bits: never what adapters are merged into."""
        return path in self._quantized or (own.role == "frozen" and not own.recipe.dtype.is_floating)

    def _only_quantized(self, own: Source) -> UnsupportedLayout:
        if self._altered is not None:
            return UnsupportedLayout(
                f"an adapter initialised by {self._altered!r} changes the base weights before training, and the "
                f"checkpoint holds the changed ones quantized ({own.recipe.dtype.torch_name})",
                remedy="write the adapter, and merge it with PEFT",
            )
        remedy = self._remedy
        if self._original is not None:
            remedy = f"name the original model with --base; {self._original.directory} has no such weight"
        return UnsupportedLayout(
            f"the base weight in the checkpoint is quantized ({own.recipe.dtype.torch_name})",
            consequence="adapters are merged into weights that are not quantized",
            remedy=remedy,
        )

    def names_of(self, path: str) -> list[str]:
        """Every path of a shared tensor, this one first; only this one if it has a tensor of its own."""
        owner = self.owner(path)
        if path in self._model.saved:
            return [path]
        return list(dict.fromkeys([path, owner, *(alias for alias, its in self._model.tied.items() if its == owner)]))

    def _of_original(self, path: str) -> Found | None:
        """The original's tensor; of a shared one under whichever of its names the files have it."""
        if self._original is None:
            return None
        for name in self.names_of(path):
            found = self._original.find(name)
            if found is not None and name == path:
                return found
            if found is not None:
                pieces = ((self.name(path), found.source.shape),)
                return Found(source=found.source, pieces=pieces, is_original=False)
        return None

    def _as_stored(self, path: str, source: Source, role: str) -> Found:
        name = self.name(path)
        return Found(
            source=Source(name=name, shape=source.shape, recipe=source.recipe, role=role),
            pieces=((name, source.shape),),
            is_original=False,
        )

    def name(self, path: str) -> str:
        """What the tensor is called in the output."""
        return self._model.wrapper + path if self._original is None else self._original.name_of(path)

    def is_in_files(self, path: str) -> bool:
        """Whether the original's files have a tensor of this name."""
        return self._original is not None and self.name(path) in self._original.tensors

    def is_nowhere(self, path: str) -> ZeroConsolidateError:
        """The error for an adapter whose weight was not found."""
        if self._altered is not None:
            return BadOption(
                f"an adapter initialised by {self._altered!r} changes the base weights before training, and the "
                "checkpoint does not hold the changed ones",
                remedy="merge it with PEFT, into the base model as it was when training began",
            )
        if self._original is None:
            return BadOption(
                (
                    "the weight that the adapter belongs to is not in the checkpoint (its trainer leaves "
                    "frozen weights out)"
                ),
                remedy=self._remedy,
            )
        if self._original.is_opaque(path):
            return UnsupportedLayout(
                "the elements of this weight are in another order in the base model's files than in memory",
                remedy="write the adapter, and merge it with PEFT",
            )
        return BadOption(
            f"the original model in {self._original.directory} has no weight {self._original.name_of(path)}",
            consequence=f"the nearest names there are {self._original.nearest(path)}",
        )
