"""Output names and expected names -> warnings, or an error if a loader would not find its parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..archive.model_config import has_config
from ..errors import WrongNames
from .config_fields import rules_to_try
from .decision import VALUE_HEAD, judge
from .expectation import IS_DIFFUSERS, complaint, is_related
from .several import several_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Shape
    from ..options import Options
    from ..plan.build import Selection
    from .expectation import Naming
    from .sources import NameSources


def check_names(
    naming: Naming,
    selection: Selection,
    options: Options,
    sources: NameSources,
    *,
    ties: Mapping[str, str],
    partial: bool,
) -> list[str]:
    """Warnings about names that do not fit what was expected.

    `ties`: alias -> owner, in the checkpoint. `partial`: tensors were left out on purpose, so that missing names are no
    surprise. Raises WrongNames where names do not fit and the user has not insisted on them.
    """
    expectation, insisted = naming.expectation, options.allow_missing or options.rename is not None
    unasked = "" if sources.architecture is not None else sources.unasked
    if expectation is None:
        if not has_config(sources.directory):
            return []  # no model that could be loaded by its config: nothing to compare is nothing amiss
        install = "" if unasked == IS_DIFFUSERS else "install transformers, or "
        return [
            f"names not compared with those the model expects: {unasked or 'no weights are at hand'}; "
            f"{install}name the original model with --base"
        ]
    buffers = {naming.mapping.get(n, n) for n, source in selection.named.items() if source.role == "buffer"}
    extra = [name for name in naming.unexpected if name.startswith(VALUE_HEAD)]
    wrong = replace(
        naming,
        missing=() if partial else naming.missing,
        unexpected=tuple(name for name in naming.unexpected if name not in buffers and name not in extra),
    )
    warnings = [f"{', '.join(extra)}: TRL reads them, transformers ignores them"] if extra else []
    untied = _wrongly_tied(naming, selection)
    if untied and not insisted:
        raise WrongNames(
            (
                f"config.json ties {untied[0]!r} to {expectation.ties[untied[0]]!r}, but the checkpoint "
                "has a tensor for each, and loaders disagree on which to use"
            ),
            remedy=('set "tie_word_embeddings" to false in config.json', "write it anyway with --allow-missing"),
        )
    if wrong.fits:
        return warnings
    if expectation.exact:
        if not insisted:
            raise (
                _config_disagrees(naming, selection, sources)
                or (None if naming.rivals else several_models(naming, *_with_aliases(selection, ties)))
                or complaint(wrong, _hint(wrong, sources) or unasked)
            )
        error = complaint(wrong)
        return [*warnings, f"{error.message}; {error.consequence}"]
    if not insisted and not is_related(wrong):
        raise complaint(wrong, unasked)
    return [*warnings, *_against_base(wrong)]


def _with_aliases(selection: Selection, ties: Mapping[str, str]) -> tuple[dict[str, Shape], dict[str, str]]:
    """(stored name -> shape, aliases included; alias -> owner, as far as selected)."""
    shapes = {source.name: source.shape for source in selection.named.values()}
    own = {alias: owner for alias, owner in ties.items() if owner in shapes}
    return shapes | {alias: shapes[owner] for alias, owner in own.items()}, own


def _config_disagrees(naming: Naming, selection: Selection, sources: NameSources) -> WrongNames | None:
    """The error where names and shapes would fit if a field of config.json had another value: which, and which."""
    stored = {name: source.shape for name, source in selection.named.items()}
    mapping = {name: naming.mapping.get(name, name) for name in stored if name not in naming.heads}
    for rules in rules_to_try(sources.config, naming, stored):
        found = sources.with_fields(rules)
        candidates = [] if found is None else [found.expectation, found.hub]
        if any(judge(mapping, stored, {}, expectation).fits for expectation in candidates):
            return WrongNames(
                "config.json does not agree with the weights",
                expected=f"{' and '.join(rules)}, by {_by_what(naming, stored)}",
                found=" and ".join(_as_it_is(sources.config, rule) for rule in rules),
                consequence="a loader would refuse them, or use random weights",
                remedy=" ".join(f"--set-config {rule}" for rule in rules),
            )
    return None


def _by_what(naming: Naming, stored: Mapping[str, Shape]) -> str:
    if naming.mismatched:
        shapes = {new: stored[name] for name, new in naming.mapping.items() if name in stored}
        return f"the shape {list(shapes[naming.mismatched[0]])} of {naming.mismatched[0]}"
    return f"their layers: {(naming.missing or naming.unexpected)[0]} is {'not there' if naming.missing else 'there'}"


def _as_it_is(config: Any, rule: str) -> str:
    field = rule.partition("=")[0]
    for part in field.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return f"{field}={config}" if config is not None else f"no {field}"


def _wrongly_tied(naming: Naming, selection: Selection) -> list[str]:
    """Aliases that the target ties to another parameter, and that are tensors of their own in the checkpoint."""
    sources = {naming.mapping.get(name, name): source.name for name, source in selection.named.items()}
    ties = naming.expectation.ties if naming.expectation else {}
    return [a for a, kept in ties.items() if a in sources and kept in sources and sources[a] != sources[kept]]


def _hint(naming: Naming, sources: NameSources) -> str:
    """What transformers 4 cannot know."""
    if any(map(is_fused, naming.unexpected)) and sources.architecture and not sources.architecture.conversions:
        return "experts are fused as transformers 5 has them in memory: install transformers 5 to convert them"
    return ""


def _against_base(naming: Naming) -> list[str]:
    """What a comparison with the base model leaves to be said; it is not a proof, since heads come and go."""
    kinds = {
        "are not those of": naming.unexpected,
        "are only in": naming.missing,
        "have another shape than in": naming.mismatched,
    }
    warnings = [
        f"{len(names)} parameters {what} the base model, such as {names[0]}" for what, names in kinds.items() if names
    ]
    return [f"names were compared with the base model only: {'; '.join(warnings)}"]


def is_fused(name: str) -> bool:
    """Whether this is one tensor of all experts, where files have one an expert."""
    _, experts, rest = name.rpartition(".experts.")
    return bool(experts) and not any(part.isdigit() for part in rest.split("."))
