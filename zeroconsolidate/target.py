"""Fits a selection to its target: names by evidence, the hub's layout, heads kept apart; then proves that it loads."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .archive.weights import read_weights
from .errors import BadOption, WrongNames, ZeroConsolidateError
from .evidence import Evidence, stated
from .plan.base import filled
from .plan.build import Selection, Source
from .plan.expectation import Naming, compare, complaint, is_kin
from .plan.naming import best_mapping, decide, judge, renamed, unique, without_evidence
from .plan.rows import to_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .catalog.facts import Catalog, Shape

VALUE_HEAD = "v_head."
"""TRL's head for a causal model, which transformers ignores and TRL reads from the same file."""


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
    complete: bool = False
    """Whether the target itself was asked, and finds every parameter."""
    from_base: tuple[str, ...] = ()
    """Output names that the base model's weights supply."""
    files: tuple[str, ...] = ()
    """The base model's files that are read for them."""


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


def fit(catalog: Catalog, selection: Selection, wishes: Wishes) -> Target:
    """Name the tensors of `selection` for their loader. Raises WrongNames if one would not find its parameters."""
    if wishes.names not in ("hub", "in-memory", "stored"):
        raise BadOption(f"names are 'hub', 'in-memory' or 'stored'; got {wishes.names!r}")
    if wishes.names == "stored":
        return _as_stored(selection)
    evidence = Evidence(catalog.origin.root, wishes.base)
    naming = _names(catalog, selection, wishes, evidence)
    if wishes.rename is None:
        selection = _with_untied(catalog, selection, naming, config_ties=stated(evidence.directory)[1])
    named, heads, dropped = _apply(selection, naming)
    fitted = Selection(named=named, left_out=(*selection.left_out, *dropped))
    reason, from_base, files = naming.reason, tuple[str, ...](), tuple[str, ...]()
    if wishes.names == "hub":
        fitted, note = _hub(fitted, evidence, naming)
        reason += note
    if naming.missing and wishes.base is not None and not wishes.partial and wishes.names == "hub":
        fitted, from_base, files = _filled(fitted, naming, evidence, wishes.base)
    naming = replace(naming, missing=_still_missing(naming, fitted, evidence) if from_base else naming.missing)
    return Target(
        selection=fitted,
        heads=heads,
        reason=reason,
        warnings=tuple(_judgement(naming, selection, wishes, evidence)),
        unwrapped=any(name != new for name, new in naming.mapping.items()),
        complete=naming.loads and naming.expectation is not None and naming.expectation.exact,
        from_base=from_base,
        files=files,
    )


def _as_stored(selection: Selection) -> Target:
    return Target(selection=selection, heads={}, reason="names as stored, as asked", warnings=(), unwrapped=False)


def _names(catalog: Catalog, selection: Selection, wishes: Wishes, evidence: Evidence) -> Naming:
    """The decision, over all names that are selected or tied to a selected one."""
    shapes = {name: source.shape for name, source in selection.named.items()}
    owners = {source.name: source.shape for source in selection.named.values()}
    ties = {alias: owner for alias, owner in catalog.ties.items() if owner in owners}
    # A name that was dropped as a tie still says which model this is.
    shapes |= {alias: owners[owner] for alias, owner in ties.items()}
    shapes |= {owner: owners[owner] for owner in ties.values()}
    if wishes.rename is not None:
        return _as_asked(shapes, ties, wishes.rename, evidence)
    own = evidence.own()
    naming = None if own is None else best_mapping(shapes, ties, own)
    if naming is not None and naming.fits:
        agreed = _agreed(naming, shapes, ties, evidence)
        if agreed is not None:
            return agreed
    return decide(shapes, ties, evidence) or without_evidence(shapes, bare=stated(evidence.directory)[0])


def _agreed(naming: Naming, shapes: Mapping[str, Shape], ties: Mapping[str, str], evidence: Evidence) -> Naming | None:
    """A naming that weights beside the checkpoint suggest, if the architecture, where it can be asked, agrees.

    Those weights may be what a converter made of the same shards, wrapper and all.
    """
    if evidence.architecture is None:
        return naming
    for expectation in (evidence.architecture.expectation, evidence.architecture.hub):
        judged = judge(naming.mapping, shapes, ties, expectation)
        if judged.loads:
            # What the architecture does not know, but was saved all the same, harms nobody.
            return replace(naming, expectation=expectation)
    return None


def _as_asked(
    shapes: Mapping[str, Shape],
    ties: Mapping[str, str],
    rename: Sequence[str] | Callable[[str], str],
    evidence: Evidence,
) -> Naming:
    """The user's own mapping, compared with the first expectation there is."""
    if callable(rename):
        mapping = unique({name: rename(name) for name in shapes})
    else:
        mapping = renamed(shapes, [_rule(rule) for rule in rename])
    expectation = next(iter(evidence), None)
    if expectation is not None:
        return judge(mapping, shapes, ties, expectation)
    return Naming(
        mapping=mapping, heads={}, reason="renamed as asked", missing=(), unexpected=(), mismatched=(), expectation=None
    )


def _rule(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise BadOption(f"a renaming rule is FROM=TO; got {text!r}")
    return old, new


def _with_untied(catalog: Catalog, selection: Selection, naming: Naming, *, config_ties: bool) -> Selection:
    """`selection` with the names of tied parameters that the target does not tie: it looks for each of them.

    Of weights that were saved beside the checkpoint, which may hold both, config.json tells whether both are needed.
    """
    expectation = naming.expectation
    if expectation is None or not expectation.exact or (not expectation.ties and config_ties):
        return selection
    written = {naming.mapping.get(name, name) for name in selection.named}
    owners = {source.name: source for source in selection.named.values()}
    tied = {*expectation.ties, *expectation.ties.values()}
    named = dict(selection.named)
    for name in catalog.order:
        new, source = naming.mapping.get(name), owners.get(catalog.ties.get(name, name))
        if source is not None and new in expectation.shapes and new not in written and new not in tied:
            named[name] = source
    left_out = tuple(name for name in selection.left_out if name not in named)
    return Selection(named=named, left_out=left_out)


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


def _hub(selection: Selection, evidence: Evidence, naming: Naming) -> tuple[Selection, str]:
    """The hub's layout of tensors that transformers 5 holds in another one."""
    if naming.expectation is not None and naming.expectation.layout == "hub":
        return selection, ""
    if evidence.architecture is None and any(map(_is_fused, selection.named)):
        raise WrongNames(
            "the names are those transformers 5 gives fused experts in memory, which other loaders do not know, and "
            f"the hub's layout cannot be asked for: {evidence.silence}; install transformers 5, or write them as they "
            "are with --names in-memory"
        )
    if evidence.architecture is None or not evidence.architecture.conversions:
        return selection, ""
    converted = to_hub(selection, evidence.architecture.conversions)
    changed = sum(1 for name in converted.named if name not in selection.named)
    return converted, f"; {changed} tensors in the hub's layout" if changed else ""


def _is_fused(name: str) -> bool:
    """Whether this is one tensor of all experts, where files have one an expert."""
    _, experts, rest = name.rpartition(".experts.")
    return bool(experts) and not any(part.isdigit() for part in rest.split("."))


def _filled(
    selection: Selection, naming: Naming, evidence: Evidence, base: str
) -> tuple[Selection, tuple[str, ...], tuple[str, ...]]:
    """(`selection` with what the checkpoint lacks and the base model has, those names, the base model's files)."""
    if evidence.architecture is None or naming.unexpected or naming.mismatched:
        return selection, (), ()  # it is not certain that what is missing was not trained
    try:
        tensors = read_weights(base).tensors
    except ZeroConsolidateError:
        return selection, (), ()  # said as missing names
    found = filled(selection, evidence.architecture.hub, tensors)
    named = {name: found.get(name) or selection.named.get(name) for name in evidence.architecture.hub.shapes}
    ordered = {name: source for name, source in named.items() if source is not None} | dict(selection.named)
    files = tuple(dict.fromkeys(tensors[source.name].file for source in found.values()))
    return Selection(named=ordered, left_out=selection.left_out), tuple(found), files


def _still_missing(naming: Naming, fitted: Selection, evidence: Evidence) -> tuple[str, ...]:
    if evidence.architecture is None:
        return naming.missing
    shapes = {name: source.shape for name, source in fitted.named.items()}
    return compare({name: name for name in shapes}, shapes, {}, evidence.architecture.hub, "").missing


def _judgement(naming: Naming, selection: Selection, wishes: Wishes, evidence: Evidence) -> list[str]:
    """What is to be said about names that do not fit. Raises WrongNames where the user has not insisted."""
    expectation, insisted = naming.expectation, wishes.allow_missing or wishes.rename is not None
    silence = "" if evidence.architecture is not None else evidence.silence
    if expectation is None:
        if not os.path.isfile(os.path.join(evidence.directory, "config.json")):
            return []  # no model that could be loaded by its config: nothing to compare is nothing amiss
        return [
            f"names could not be compared with what the model expects: {silence or 'no weights are at hand'}; "
            "install transformers, or name the original model with --base"
        ]
    buffers = {naming.mapping.get(n, n) for n, source in selection.named.items() if source.role == "buffer"}
    extra = [name for name in naming.unexpected if name.startswith(VALUE_HEAD)]
    wrong = replace(
        naming,
        missing=() if wishes.partial else naming.missing,
        unexpected=tuple(name for name in naming.unexpected if name not in buffers and name not in extra),
    )
    told = [f"{', '.join(extra)}: TRL reads them, transformers ignores them"] if extra else []
    untied = _wrongly_tied(naming, selection)
    if untied and not insisted:
        raise WrongNames(
            f"config.json ties {untied[0]!r} to {expectation.ties[untied[0]]!r}, but the checkpoint has two tensors, "
            'and loaders do not agree which they take; set "tie_word_embeddings" to false in config.json, or insist '
            "with --allow-missing"
        )
    if wrong.fits:
        return told
    if expectation.exact:
        if not insisted:
            raise complaint(wrong, _hint(wrong, evidence) or silence)
        return [*told, str(complaint(wrong))]
    if not insisted and not is_kin(wrong):
        raise complaint(wrong, silence)
    return [*told, *_against_base(wrong)]


def _wrongly_tied(naming: Naming, selection: Selection) -> list[str]:
    """Aliases that the target ties to another parameter, and that are tensors of their own in the checkpoint."""
    sources = {naming.mapping.get(name, name): source.name for name, source in selection.named.items()}
    ties = naming.expectation.ties if naming.expectation else {}
    return [a for a, kept in ties.items() if a in sources and kept in sources and sources[a] != sources[kept]]


def _hint(naming: Naming, evidence: Evidence) -> str:
    """What transformers 4 cannot know."""
    if any(map(_is_fused, naming.unexpected)) and evidence.architecture and not evidence.architecture.conversions:
        return "experts are fused as transformers 5 has them in memory: install transformers 5 to convert them"
    return ""


def _against_base(naming: Naming) -> list[str]:
    """What a comparison with the base model leaves to be said; it is no proof, since heads come and go."""
    kinds = {
        "are not those of": naming.unexpected,
        "are only in": naming.missing,
        "have another shape than in": naming.mismatched,
    }
    told = [
        f"{len(names)} parameters {what} the base model, such as {names[0]}" for what, names in kinds.items() if names
    ]
    return [f"names were compared with the base model only: {'; '.join(told)}"]
