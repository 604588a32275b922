"""A selection and where expected names come from -> the decision about its names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import BadOption
from .decision import best_mapping, decide, judge, renamed, unique, without_expectation
from .expectation import Naming

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..catalog.facts import Catalog, Shape
    from ..options import Options
    from ..plan.build import Selection
    from .sources import NameSources


def choose(catalog: Catalog, selection: Selection, options: Options, sources: NameSources) -> Naming:
    """The decision, over all names that are selected or tied to a selected one. Raises BadOption, WrongNames."""
    shapes, ties = stored_shapes(catalog, selection)
    if options.rename is not None:
        return _as_asked(shapes, ties, options.rename, sources)
    own = sources.own()
    naming = None if own is None else best_mapping(shapes, ties, own)
    if naming is not None and naming.fits:
        agreed = _agreed(naming, shapes, ties, sources)
        if agreed is not None:
            return agreed
    return decide(shapes, ties, sources) or without_expectation(shapes, bare=sources.is_bare)


def stored_shapes(catalog: Catalog, selection: Selection) -> tuple[dict[str, Shape], dict[str, str]]:
    """The shapes of all names that are selected or tied to a selected one, and these ties."""
    shapes = {name: source.shape for name, source in selection.named.items()}
    owners = {source.name: source.shape for source in selection.named.values()}
    ties = {alias: owner for alias, owner in catalog.ties.items() if owner in owners}
    # A name that was dropped as a tie still says which model this is.
    shapes |= {alias: owners[owner] for alias, owner in ties.items()}
    shapes |= {owner: owners[owner] for owner in ties.values()}
    return shapes, ties


def _agreed(
    naming: Naming, shapes: Mapping[str, Shape], ties: Mapping[str, str], sources: NameSources
) -> Naming | None:
    """A naming that weights beside the checkpoint suggest, if the architecture, where it can be asked, agrees.

    Those weights may be what a converter made of the same shards, wrapper and all.
    """
    if sources.architecture is None:
        return naming
    for expectation in (sources.architecture.expectation, sources.architecture.hub):
        judged = judge(naming.mapping, shapes, ties, expectation)
        if judged.loads:
            # What the architecture does not know, but was saved all the same, harms nobody; but then it is the saved
            # weights that the names match.
            origin = naming.expectation.origin if judged.unexpected and naming.expectation else expectation.origin
            return replace(naming, expectation=replace(expectation, origin=origin))
    return None


def _as_asked(
    shapes: Mapping[str, Shape],
    ties: Mapping[str, str],
    rename: Sequence[str] | Callable[[str], str],
    sources: NameSources,
) -> Naming:
    """The user's own mapping, compared with the first expectation there is."""
    if callable(rename):
        mapping = unique({name: rename(name) for name in shapes})
    else:
        mapping = renamed(shapes, [_rule(rule) for rule in rename])
    expectation = next(iter(sources), None)
    if expectation is not None:
        return judge(mapping, shapes, ties, expectation)
    return Naming(
        mapping=mapping,
        heads={},
        change="renamed with --rename",
        missing=(),
        unexpected=(),
        mismatched=(),
        expectation=None,
    )


def _rule(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise BadOption("--rename takes FROM=TO", found=repr(text))
    return old, new
