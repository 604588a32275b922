"""Selected tensors -> the same under output names and in the output's layout, checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..archive.weights import read_weights
from ..errors import WrongNames, ZeroConsolidateError
from ..plan.build import Selection, Source
from .auto_ep import as_before_auto_ep
from .base import filled, without_parts
from .by_class import of_class
from .check import check_names, is_fused
from .choice import choose, stored_shapes
from .decision import judge
from .expectation import Naming, compare, outcome
from .hub_layout import to_hub
from .shared import landed, names_to_write, tied_together
from .sources import NameSources

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..catalog.facts import Catalog
    from ..options import Options
    from .expectation import Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A selection under the names its loader expects."""

    selection: Selection
    heads: dict[str, Source]
    """Tensors that belong in files of their own, by their names there (`colbert_linear.weight`)."""
    reason: str
    """What was decided about names, and how they compare with what the loader expects."""
    warnings: tuple[str, ...]
    unwrapped: bool
    """Whether a wrapper around the model was removed."""
    change: str = ""
    """What was done to the names of the checkpoint; empty if nothing."""
    ties: Mapping[str, str] = field(default_factory=dict)
    """Names that are not written, because their tensor is written under another name -> that name."""
    loads: bool = True
    """Whether a loader would miss nothing, as far as is known."""
    complete: bool = False
    """Whether every parameter that was expected is there."""
    is_exact: bool = False
    """Whether the model itself expects them, and not only a relative."""
    from_base: tuple[str, ...] = ()
    """Output names that the base model's weights supply."""
    files: tuple[str, ...] = ()
    """The base model's files that are read for them."""
    class_name: str = ""
    """The class that was found by names and shapes, where config.json names none."""


def fit(
    catalog: Catalog, selection: Selection, options: Options, *, partial: bool, supplied: Collection[str] = ()
) -> Named:
    """Name the tensors of `selection` for their loader.

    `partial`: some were left out on purpose, or are lost, and need not be found. `supplied`: those that are the base
    model's, which may be of a class with more parts than was trained. Raises WrongNames if a loader would not find its
    parameters.
    """
    if options.names == "stored":
        return _as_stored(catalog, selection)
    sources = NameSources(catalog.origin.root, options.base_directory, options.set_config, remember=options.cache)
    if isinstance(sources.config, dict) and "model_type" in sources.config:
        selection = as_before_auto_ep(selection)
    if sources.lacks_class and not partial and options.rename is None:
        found = of_class(sources, *stored_shapes(catalog, selection))
        if found is not None:
            named, _ = _fitted(catalog, selection, options, sources.knowing(found.architecture), partial=partial)
            return replace(named, class_name=found.class_name)
    confirmed = _confirmed(catalog, selection, options, sources, partial=partial)
    return confirmed or _fitted(catalog, selection, options, sources, partial=partial, supplied=supplied)[0]


def _confirmed(
    catalog: Catalog, selection: Selection, options: Options, sources: NameSources, *, partial: bool
) -> Named | None:
    """What is found by the built-in table, if names and shapes are exactly what it says: then nobody is asked."""
    known = sources.by_table()
    if known is None or known.architecture is None:
        return None
    try:
        named, naming = _fitted(catalog, selection, options, known, partial=partial)
    except ZeroConsolidateError:
        return None
    if naming.expectation not in (known.architecture.expectation, known.architecture.hub):
        return None
    # Once more, and of all names: weights beside the checkpoint may have more of them than the architecture.
    judged = judge({**naming.mapping, **naming.heads}, *stored_shapes(catalog, selection), naming.expectation)
    return named if naming.fits and judged.fits and not named.warnings and not named.from_base else None


def _fitted(
    catalog: Catalog,
    selection: Selection,
    options: Options,
    sources: NameSources,
    *,
    partial: bool,
    supplied: Collection[str] = (),
) -> tuple[Named, Naming]:
    """The tensors under the names that `sources` decide, and the decision."""
    naming = choose(catalog, selection, options, sources)
    selection, naming = without_parts(selection, naming, supplied)
    selection = _as_expected(catalog, selection, naming, options, config_ties=sources.ties_embeddings)
    named, heads, dropped = _apply(selection, naming)
    fitted = Selection(named=named, left_out=(*selection.left_out, *dropped))
    note, from_base, files = "", tuple[str, ...](), tuple[str, ...]()
    if options.names == "hub":
        fitted, note = _hub(fitted, sources, naming)
    if naming.missing and options.base_directory is not None and not partial:
        expected = _files_names(naming, sources) if options.names == "hub" else naming.expectation
        fitted, from_base, files = _filled(fitted, naming, expected, options.base_directory)
        naming = replace(naming, missing=_missing(fitted, expected) if from_base else naming.missing)
    unchecked = "" if naming.expectation is not None else sources.unasked or "there is nothing to compare them with"
    compared = outcome(naming, ignored=[naming.mapping.get(name, name) for name in dropped], partial=partial)
    compared += f": {unchecked}" if unchecked else ""
    named_so = Named(
        selection=fitted,
        heads=heads,
        reason="; ".join(filter(None, (naming.change, compared, note))),
        warnings=tuple(
            check_names(
                naming,
                selection,
                options,
                sources,
                ties=catalog.ties,
                partial=partial,
                excludes_frozen=not catalog.frozen and catalog.origin.wrapper != "universal checkpoint",
            )
        ),
        unwrapped=any(name != new for name, new in naming.mapping.items()),
        change="; ".join(filter(None, (naming.change, note))),
        ties=written_once(catalog, fitted, naming.mapping),
        loads=naming.loads or naming.expectation is None or not naming.expectation.exact,
        complete=naming.loads and naming.expectation is not None,
        is_exact=naming.expectation is not None and naming.expectation.exact,
        from_base=from_base,
        files=files,
    )
    return named_so, naming


def _as_stored(catalog: Catalog, selection: Selection) -> Named:
    return Named(
        selection=selection,
        heads={},
        reason="names as in the checkpoint (--names stored)",
        warnings=(),
        unwrapped=False,
        change="as in the checkpoint (--names stored)",
        ties=written_once(catalog, selection, {}),
    )


def written_once(catalog: Catalog, selection: Selection, mapping: Mapping[str, str]) -> dict[str, str]:
    """The names in `selection.left_out` whose tensor is written under another name -> that name.

    `mapping`: stored name -> output name, where they differ.
    """
    written: dict[str, str] = {}
    for new, source in selection.named.items():
        written.setdefault(source.name, new)
    owners = {name: catalog.ties.get(name, name) for name in selection.left_out}
    return {mapping.get(name, name): written[owner] for name, owner in owners.items() if owner in written}


def _as_expected(
    catalog: Catalog, selection: Selection, naming: Naming, options: Options, *, config_ties: bool
) -> Selection:
    """`selection` with each tensor under those of its stored names that come to be expected ones.

    Of weights that were saved beside the checkpoint, which may hold all names of a tied parameter, config.json tells
    whether all are needed; a base model need not tell.
    """

    def owner_of(name: str) -> str:
        return catalog.ties.get(name, name)

    sources = {owner_of(name): source for name, source in selection.named.items()}
    known = dict.fromkeys([*selection.named, *(name for name in catalog.order if owner_of(name) in sources)])
    mapping = {name: naming.mapping[name] for name in known if name in naming.mapping}
    expectation = naming.expectation
    if expectation is None:
        places = {owner: list[str]() for owner in sources}
        for name, new in mapping.items():
            if new != name and options.rename is not None:
                places[owner_of(name)].append(name)  # whoever renames another name of a tensor means that one
    else:
        shapes = {name: sources[owner_of(name)].shape for name in mapping}
        places = landed(mapping, shapes, catalog.ties, expectation.shapes, expectation.ties)
    exact = expectation is not None and expectation.exact and bool(expectation.ties or not config_ties)
    chosen = names_to_write(
        {name: owner_of(name) for name in selection.named},
        mapping,
        places,
        tied_together(expectation.ties if expectation is not None else {}),
        all_names=exact and options.rename is None,
    )
    named = {name: sources[owner] for name, owner in chosen.items()}
    left_out = dict.fromkeys([*selection.left_out, *selection.named])
    return Selection(named=named, left_out=tuple(name for name in left_out if name not in named))


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


def _hub(selection: Selection, sources: NameSources, naming: Naming) -> tuple[Selection, str]:
    """The hub's layout of tensors that transformers 5 holds in another one."""
    if naming.expectation is not None and naming.expectation.layout == "hub":
        return selection, ""
    if sources.architecture is None and any(map(is_fused, selection.named)):
        raise WrongNames(
            (
                "the experts are fused as transformers 5 has them in memory, and how the hub's layout splits them is "
                f"not known: {sources.unasked}"
            ),
            remedy="install transformers 5, or write them fused with --names in-memory",
        )
    if sources.architecture is None or not sources.architecture.conversions:
        return selection, ""
    converted = to_hub(selection, sources.architecture.conversions)
    changed = sum(1 for name in converted.named if name not in selection.named)
    return converted, f"{counted(changed, 'tensor')} converted to the hub's layout" if changed else ""


def _files_names(naming: Naming, sources: NameSources) -> Expectation | None:
    """What the files of the model are to have: the architecture's, or those of weights of the same model."""
    return naming.expectation if sources.architecture is None else sources.architecture.hub


def _filled(
    selection: Selection, naming: Naming, expected: Expectation | None, base: str
) -> tuple[Selection, tuple[str, ...], tuple[str, ...]]:
    """(`selection` with what the checkpoint lacks and the base model has, those names, the base model's files)."""
    if expected is None or naming.unexpected or naming.mismatched:
        return selection, (), ()  # it is not certain that what is missing was not trained
    try:
        tensors = read_weights(base).tensors
    except ZeroConsolidateError:
        return selection, (), ()  # said as missing names
    found = filled(selection, expected, tensors)
    named = {name: found.get(name) or selection.named.get(name) for name in expected.shapes}
    ordered = {name: source for name, source in named.items() if source is not None} | dict(selection.named)
    files = tuple(dict.fromkeys(tensors[source.name].file for source in found.values()))
    return Selection(named=ordered, left_out=selection.left_out), tuple(found), files


def _missing(fitted: Selection, expected: Expectation | None) -> tuple[str, ...]:
    """What the model would not find in `fitted`."""
    if expected is None:
        return ()
    shapes = {name: source.shape for name, source in fitted.named.items()}
    return compare({name: name for name in shapes}, shapes, {}, expected, "").missing
