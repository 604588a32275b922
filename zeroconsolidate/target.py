"""Fits a selection to its target: names by evidence, the hub's layout, heads kept apart; then proves that it loads."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import BadOption, WrongNames
from .evidence import Architecture, architecture, reference
from .plan.build import Selection, Source
from .plan.naming import Expectation, Naming, complaint, decide, is_kin, judge, renamed, unique
from .plan.rows import to_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .catalog.facts import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A selection under the names its loader expects."""

    selection: Selection
    heads: dict[str, Source]
    """Tensors that belong in files of their own, by their names there (`colbert_linear.weight`)."""
    reason: str
    """What was decided about names, and why."""
    warnings: tuple[str, ...]
    unwrapped: bool
    """Whether a wrapper around the model was undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller asked for."""

    names: str
    """`hub` (evidence decides, hub layout), `in-memory` (evidence decides, layout as trained), `stored`."""
    rename: Sequence[str] | Callable[[str], str] | None
    base: str | None
    allow_missing: bool
    partial: bool
    """Whether tensors were left out on purpose, so that missing names are no surprise."""


class _Evidence:
    """The expectations, gathered one after the other as they are asked for."""

    def __init__(self, root: str, base: str | None) -> None:
        self._root, self._base = root, base
        self.architecture: Architecture | None = None
        self.silence = ""

    def __iter__(self) -> Iterator[Expectation]:
        own = reference(self._root, "the weights saved beside the checkpoint", exact=True)
        if own is not None:
            yield own
        self.ask()
        if self.architecture is not None:
            yield self.architecture.expectation
        elif self._base is not None:
            base = reference(self._base, f"the base model {self._base}", exact=False)
            if base is not None:
                yield base

    def ask(self) -> None:
        """Ask transformers for the architecture, once."""
        if self.architecture is None and not self.silence:
            at_root = os.path.isfile(os.path.join(self._root, "config.json"))
            directory = self._root if at_root or self._base is None else self._base
            self.architecture, self.silence = architecture(directory)


def fit(catalog: Catalog, selection: Selection, wishes: Wishes) -> Target:
    """Name the tensors of `selection` for their loader. Raises WrongNames if one would not find its parameters."""
    if wishes.names not in ("hub", "in-memory", "stored"):
        raise BadOption(f"names are 'hub', 'in-memory' or 'stored'; got {wishes.names!r}")
    if wishes.names == "stored":
        return _as_stored(selection)
    evidence = _Evidence(catalog.origin.root, wishes.base)
    naming = _names(catalog, selection, wishes, evidence)
    named, heads, dropped = _apply(selection, naming)
    insisted = wishes.allow_missing or wishes.rename is not None
    wrong = replace(naming, missing=() if wishes.partial else naming.missing, unexpected=_unexpected(naming, selection))
    warnings = [] if wrong.fits else [str(complaint(wrong))]
    if not wrong.fits and naming.expectation is not None and naming.expectation.exact and not insisted:
        raise complaint(wrong)
    if not wrong.fits and naming.expectation is not None and not naming.expectation.exact:
        warnings = _against_base(naming, insisted=insisted)
    fitted = Selection(named=named, left_out=(*selection.left_out, *dropped))
    reason = naming.reason
    if wishes.names == "hub":
        fitted, note = _hub(fitted, evidence)
        reason += note
    if naming.expectation is None and evidence.silence:
        reason += f"; {evidence.silence}"
    return Target(
        selection=fitted,
        heads=heads,
        reason=reason,
        warnings=tuple(warnings),
        unwrapped=any(name != new for name, new in naming.mapping.items()),
    )


def _as_stored(selection: Selection) -> Target:
    return Target(selection=selection, heads={}, reason="names as stored, as asked", warnings=(), unwrapped=False)


def _names(catalog: Catalog, selection: Selection, wishes: Wishes, evidence: _Evidence) -> Naming:
    """The decision, over all names that are selected or tied to a selected one."""
    shapes = {name: source.shape for name, source in selection.named.items()}
    owners = {source.name: source.shape for source in selection.named.values()}
    ties = {alias: owner for alias, owner in catalog.ties.items() if owner in owners}
    # A name that was dropped as a tie still says which model this is.
    shapes |= {alias: owners[owner] for alias, owner in ties.items()}
    shapes |= {owner: owners[owner] for owner in ties.values()}
    if wishes.rename is None:
        return decide(shapes, ties, evidence)
    if callable(wishes.rename):
        mapping = unique({name: wishes.rename(name) for name in shapes})
    else:
        mapping = renamed(shapes, [_rule(rule) for rule in wishes.rename])
    expectation = next(iter(evidence), None)
    if expectation is None:
        return Naming(
            mapping=mapping,
            heads={},
            reason="renamed as asked",
            missing=(),
            unexpected=(),
            mismatched=(),
            expectation=None,
        )
    return judge(mapping, shapes, ties, expectation)


def _rule(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise BadOption(f"a renaming rule is FROM=TO; got {text!r}")
    return old, new


def _apply(selection: Selection, naming: Naming) -> tuple[dict[str, Source], dict[str, Source], list[str]]:
    """(tensors by output name, heads, names left out because nothing expects such a buffer)."""
    named: dict[str, Source] = {}
    heads: dict[str, Source] = {}
    dropped: list[str] = []
    unexpected = set(naming.unexpected)
    exact = naming.expectation is not None and naming.expectation.exact
    for name, source in selection.named.items():
        if name in naming.heads:
            heads[naming.heads[name]] = source
            continue
        new = naming.mapping.get(name, name)
        if exact and source.role == "buffer" and new in unexpected:
            dropped.append(name)
        else:
            named[new] = source
    return named, heads, dropped


def _unexpected(naming: Naming, selection: Selection) -> tuple[str, ...]:
    """The unexpected names that are parameters: a buffer that nothing expects is left out, which harms nobody."""
    buffers = {naming.mapping.get(n, n) for n, source in selection.named.items() if source.role == "buffer"}
    return tuple(name for name in naming.unexpected if name not in buffers)


def _against_base(naming: Naming, *, insisted: bool) -> list[str]:
    """What a comparison with the base model leaves to be said; it is no proof, since heads come and go."""
    if not insisted and not is_kin(naming):
        raise complaint(naming)
    kinds = {
        "are not those of": naming.unexpected,
        "are only in": naming.missing,
        "have another shape than in": naming.mismatched,
    }
    told = [
        f"{len(names)} parameters {what} the base model, such as {names[0]}" for what, names in kinds.items() if names
    ]
    return [f"names were compared with the base model only: {'; '.join(told)}"] if told else []


def _hub(selection: Selection, evidence: _Evidence) -> tuple[Selection, str]:
    """The hub's layout of tensors that transformers 5 holds in another one."""
    if not any(".experts." in name and not any(part.isdigit() for part in name.partition(".experts.")[2].split("."))
               for name in selection.named) and evidence.architecture is None:  # fmt: skip
        return selection, ""
    evidence.ask()
    if evidence.architecture is None:
        raise WrongNames(
            "the names are those transformers 5 gives fused experts in memory, which other loaders do not know, and "
            f"the hub's layout cannot be asked for: {evidence.silence}; install transformers 5, or write them as they "
            "are with --names in-memory"
        )
    if not evidence.architecture.conversions:
        return selection, ""
    converted = to_hub(selection, evidence.architecture.conversions)
    changed = sum(1 for name in converted.named if name not in selection.named)
    return converted, f"; {changed} tensors in the hub's layout" if changed else ""
