"""A second check of an adapter: the written tensors are compared with the parameters that their keys name.

Which parameter that is, follows from the stored names alone, not from the plan: the adapter's own name is removed from
them, as PEFT does when it saves (`peft/utils/save_and_load.py`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...archive.safetensors import read_file
from ...errors import WitnessMismatch
from ...plan.pieces import View
from ...plan.witness import Comparison, both_ends, spread
from ...run.inputs import Inputs
from .factors import WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ...opening.opened import Opened
    from ...plan.build import ModelPlan, Source

_PEFT = "base_model.model."


def compare_adapters(
    plan: ModelPlan, opened: Opened, staged: Callable[[str], str], adapters: Iterable[str]
) -> tuple[int, int]:
    """(how many tensors were compared and found equal, how many there are). A sample: both ends of some.

    `staged`: the path of a staged file. `adapters`: their names. Raises WitnessMismatch.
    """
    from ...run.witness import compare

    names, found, count = list(adapters), list[Comparison](), 0
    stored = dict(opened.stored) | {a: opened.stored[o] for a, o in opened.catalog.ties.items() if o in opened.stored}
    for file in plan.files:
        folder = os.path.dirname(file.name)
        adapter = folder or (names[0] if len(names) == 1 else "default")
        named = _by_key(stored, adapter)
        tensors = read_file(staged(file.name)).tensors
        count += len(tensors)
        for key, tensor in tensors.items():
            source = named.get(key)
            if source is not None:
                intervals = both_ends(tensor.numel, everything=False)
                found.append(Comparison(name=key, master=source.recipe, copy=View(tensor), intervals=intervals))
    chosen = spread(found)
    with Inputs() as inputs:
        try:
            compare(chosen, inputs)
        except WitnessMismatch as error:
            raise WitnessMismatch(
                "the written tensor of the adapter differs from the parameter of that name",
                consequence="no output was written",
                remedy="this is a bug in zeroconsolidate, please report it; --no-check writes it anyway",
                address=error.address,
            ) from None
    return len(chosen), count


def _by_key(stored: Mapping[str, Source], adapter: str) -> dict[str, Source]:
    """What PEFT's keys for `adapter` stand for; those that two parameters would have are left out."""
    found: dict[str, Source] = {}
    twice = set()
    for name, source in stored.items():
        for key in _keys(name, adapter):
            if found.setdefault(key, source) is not source:
                twice.add(key)
    return {key: source for key, source in found.items() if key not in twice}


def _keys(name: str, adapter: str) -> Iterator[str]:
    """The keys that a stored parameter may have in the adapter's file."""
    _, is_peft, inner = f".{name}".partition(f".{_PEFT}")
    parts = [part for part in (inner if is_peft else name).split(".") if part not in WRAPPERS]
    if adapter in parts:
        at = len(parts) - 1 - parts[::-1].index(adapter)
        saved = at > 0 and parts[at - 1] == "modules_to_save"
        parts = parts[: at - saved] + parts[at + 1 :]
        if parts[-2:] == ["lora_magnitude_vector", "weight"]:
            parts = parts[:-1]
    yield _PEFT + ".".join(parts)
    if not is_peft:
        yield ".".join(parts)
