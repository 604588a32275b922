"""Transformations as options: what is recorded of them. What they do is in `transforms/`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@runtime_checkable
class Transform(Protocol):
    """A transformation, as far as it is an option: a `zeroconsolidate.Transform`."""

    @property
    def record(self) -> Mapping[str, object]:
        """Its name and settings, as values that JSON can hold."""


def refuse_states_of(transforms: Sequence[object], *, with_states: bool) -> None:
    """What the optimizer keeps is of the weights as they were trained. Raises BadOption."""
    if transforms and with_states:
        raise BadOption(
            "--optimizer cannot be used with transformations or --quantize",
            consequence="its state is of the weights as they were",
        )


def steps(given: object) -> tuple[Transform, ...]:
    """One transformation, or several, as a tuple. Raises BadOption for anything else, and for one whose record JSON
    cannot hold."""
    several = tuple(given) if isinstance(given, Iterable) else (given,)
    for each in several:
        if not isinstance(each, Transform):
            raise BadOption("transforms are objects of zeroconsolidate.Transform", found=type(each).__name__)
        try:
            json.dumps(dict(each.record))
        except (TypeError, ValueError) as error:
            raise BadOption(f"JSON cannot hold the record of {type(each).__name__}: {error}") from None
    return several
