"""The model given with `--base` -> tensors that the save left to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..archive.weights import read_weights
from ..errors import BadOption, NotACheckpoint, StoreFailed, ZeroConsolidateError
from ..naming.base import missing_frozen, unsaved_in_base
from ..plan.build import Source

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog, Unsaved


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """Sources that a checkpoint does not have itself."""

    sources: dict[str, Source]
    files: tuple[str, ...]
    """Every file they are in."""
    warnings: tuple[str, ...]


NO_ADDITIONS = Additions(sources={}, files=(), warnings=())


def frozen_of_base(catalog: Catalog, stored: Mapping[str, Source], base: str | None) -> Additions:
    """The parameters that the save left to the base model: frozen ones (`exclude_frozen_parameters`), and those that no
    file has the values of."""
    if base is None or (catalog.frozen and not catalog.unsaved):
        return NO_ADDITIONS
    try:
        weights = read_weights(base)
    except NotACheckpoint:
        return NO_ADDITIONS  # config and tokenizer are all it has
    except StoreFailed:
        raise
    except ZeroConsolidateError as error:
        return Additions(sources={}, files=(), warnings=(f"the weights in --base cannot be read: {error}",))
    supplied: dict[str, LocatedTensor] = {}
    reasons: list[str | None] = []
    if catalog.unsaved:
        supplied, reason = unsaved_in_base(catalog, stored, weights.tensors)
        reasons.append(reason)
    sources = {name: Source.of_model(name, tensor) for name, tensor in supplied.items()}
    if not catalog.frozen:
        excluded, reason = missing_frozen(catalog, stored, weights.tensors)
        sources |= excluded
        supplied |= {name: weights.tensors[name] for name in excluded}
        reasons.append(reason)
    return Additions(
        sources=sources,
        files=tuple(dict.fromkeys(tensor.file for tensor in supplied.values())),
        warnings=tuple(f"the weights in --base were not used: {reason}" for reason in reasons if reason is not None),
    )


def refuse_unsaved(
    unsaved: Mapping[str, Unsaved], sources: Container[str], base: str | None, warnings: Sequence[str] = ()
) -> None:
    """Refuse parameters whose values are in no file and not in the base: a loader would use random ones. `sources`:
    names that have one. Raises BadOption."""
    lacking = [name for name in unsaved if name not in sources]
    if not lacking:
        return
    kinds = {why: [name for name in lacking if unsaved[name] is why] for why in dict.fromkeys(unsaved.values())}
    reasons = [f"{listed(names, 2)}: {why.value}" for why, names in kinds.items() if names]
    raise BadOption(
        f"{counted(len(lacking), 'parameter')} of the model {'has' if len(lacking) == 1 else 'have'} no values in the "
        "checkpoint",
        consequence="; ".join([*reasons, *warnings]),
        remedy=(
            *(
                ["name the model that training began with, which has them: --base DIR"]
                if base is None
                else [f"name the model that training began with as --base: {base} is a different one"]
            ),
            "write the model without them with --allow-missing",
        ),
    )
