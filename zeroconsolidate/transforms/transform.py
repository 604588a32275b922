"""What a transformation is: named tensors and the model's config -> other named tensors, and fields of the config.

It is planned on names, shapes and dtypes before a byte is written. How the elements come about is said by recipes
(`plan/computed.py`), which are evaluated block by block when their tensor is written, by readers registered for them
(`run/reader.py`). So memory, threads, continuing after an interruption, digests and the checks of the output are those
of any other conversion, and a transformation knows nothing of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import PlanBroken

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..dtypes import DType
    from ..plan.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on its way to the output: what a transformation takes, and what it gives.

    Attributes
    ----------
    tensors : Mapping[str, Source]
        Every tensor by the name it is written under, each with its shape, dtype and recipe.
    config : Mapping[str, object]
        What config.json says, integers as text; empty if there is none.
    dtype : DType
        What floating-point parameters are cast to when all transformations are done.
    fields : Mapping[str, object]
        Fields of config.json that are to be set, with values as JSON has them.
    notes : tuple[str, ...]
        What the report says of the transformations.
    """

    tensors: Mapping[str, Source]
    config: Mapping[str, object]
    dtype: DType
    fields: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def changed(
        self,
        tensors: Mapping[str, Source],
        *,
        fields: Mapping[str, object] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Model:
        """The model with other tensors; with `fields` of the config and `notes` beside those there are."""
        return replace(self, tensors=tensors, fields={**self.fields, **(fields or {})}, notes=(*self.notes, *notes))


class Transform(ABC):
    """A step between the tensors of a checkpoint and those of the output.

    `consolidate(..., transforms=[...])` applies steps one after the other, when the tensors have the names that they
    are written under, and casts what they give. The page `docs/transformations.md` has a whole one.

    Attributes
    ----------
    record

    Examples
    --------
    >>> import zeroconsolidate
    >>> class WithoutBuffers(zeroconsolidate.Transform):
    ...     record = {"without": "buffers"}
    ...
    ...     def plan(self, model):
    ...         return model.changed({n: source for n, source in model.tensors.items() if source.role != "buffer"})
    >>> zeroconsolidate.estimate("tests/fixtures/z3_bf16/checkpoint", names="stored").tensors
    19
    >>> steps = [WithoutBuffers()]
    >>> zeroconsolidate.estimate("tests/fixtures/z3_bf16/checkpoint", names="stored", transforms=steps).tensors
    13
    """

    @property
    @abstractmethod
    def record(self) -> Mapping[str, object]:
        """Its name and settings, as values that JSON can hold.

        Whatever decides a byte is in it: it is written into the manifest, and an interrupted conversion is continued
        only with the same records.
        """

    @abstractmethod
    def plan(self, model: Model) -> Model:
        """Plan the model that it makes, from names, shapes and dtypes alone.

        Parameters
        ----------
        model : Model
            The model as the steps before have left it.

        Returns
        -------
        Model
            With other tensors, and fields of config.json to set.

        Raises
        ------
        ZeroConsolidateError
            If the step is not for such a model.
        """


def transformed(model: Model, steps: Iterable[Transform]) -> Model:
    """The model after all steps, in their order.

    Raises what the steps raise, and PlanBroken for one that gives a tensor whose shape is not that of its elements.
    """
    for step in steps:
        model = step.plan(model)
        for name, source in model.tensors.items():
            numel = math.prod(source.shape)
            if source.recipe.numel != numel:
                raise PlanBroken(
                    "the recipe does not fit the shape",
                    expected=f"{numel} elements for {list(source.shape)}",
                    found=source.recipe.numel,
                    address=(type(step).__name__, name),
                )
    return model
