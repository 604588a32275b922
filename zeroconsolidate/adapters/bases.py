"""The weights that adapters are added to: from the original model, from the checkpoint's frozen copies, or trained.

Paths are as in `wrapped.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BadOption
from ..plan.build import Source
from .original import Found

if TYPE_CHECKING:
    from ..plan.pieces import Recipe
    from .original import Original
    from .wrapped import PeftModel


class Bases:
    """Finds the tensor under the adapters by its path, and keeps account of where it was taken from."""

    def __init__(self, model: PeftModel, original: Original | None, altered: str | None, remedy: str) -> None:
        """`altered`: how an adapter was initialised if that changed the weights it belongs to: then they are not the
        original's. `remedy`: how to name the original, where it is needed and was not given."""
        self._model, self._original, self._altered = model, original, altered
        self._remedy = remedy
        self.from_checkpoint: dict[str, str] = {}
        """Names of the tensors of the original model that are the checkpoint's frozen copies, and their dtypes."""
        self.unproven: dict[str, tuple[Recipe, Recipe]] = {}
        """Path -> (the original's tensor, the frozen copy in the checkpoint), which should be the same."""

    def owner(self, path: str) -> str:
        """The path that stands for a shared tensor. A name that modules_to_save gave a tensor of its own is no longer
        a name of the shared one."""
        return self._model.tied.get(path, path) if path not in self._model.saved else path

    def find(self, path: str) -> Found | None:
        """The tensor that is under the adapters, from where it is best taken from."""
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
            found = self._original.find(path)
            if found is not None and (own is None or own.shape == found.source.shape):
                if own is not None and own.role == "frozen":
                    self.unproven[path] = (found.source.recipe, own.recipe)
                return found
            if own is not None and own.role == "buffer":
                return None  # the original's files do without it
        if own is None:
            return None
        self.from_checkpoint[self.name(path)] = own.recipe.dtype.torch_name
        return self._as_stored(path, own, own.role)

    def _as_stored(self, path: str, source: Source, role: str) -> Found:
        name = self.name(path)
        return Found(
            source=Source(name=name, shape=source.shape, recipe=source.recipe, role=role),
            pieces=((name, source.shape),),
        )

    def name(self, path: str) -> str:
        """What the tensor is called in the output."""
        return self._model.wrapper + path if self._original is None else self._original.name_of(path)

    def is_nowhere(self, path: str) -> BadOption:
        """The error for a weight that an adapter belongs to and that nothing has."""
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
        return BadOption(
            f"the original model in {self._original.directory} has no weight {self._original.name_of(path)}",
            consequence=f"the nearest names there are {self._original.nearest(path)}",
        )
