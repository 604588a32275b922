"""Expected names, and how output names compare with them.

There are two kinds of expectation. An exact one is the target itself (its architecture, or weights that were saved
from it): every name must be there, and nothing else. The other is a base model, whose heads may have been replaced
since: whole modules may come and go, but inside a module that both have, every name must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from ..errors import WrongNames
from .shared import agree, landed, tied_together

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ..catalog.facts import Shape

IS_DIFFUSERS = "the model is one of diffusers, which is not asked"
"""Why transformers says nothing of a model."""
HEADS = ("colbert_linear.", "sparse_linear.")
"""Heads of BGE-M3, which FlagEmbedding keeps in files of their own (`colbert_linear.pt`, `sparse_linear.pt`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The names a target expects."""

    origin: str
    """For people: where the names come from."""
    shapes: Mapping[str, Shape | None]
    """None where only the name is known."""
    ties: Mapping[str, str]
    """alias -> kept name: an alias need not be present if its parameter is."""
    exact: bool
    """Whether it is the target itself, and not only a relative."""
    integers: frozenset[str] = frozenset()
    """Names of those that are whole numbers; all others are floating-point numbers."""
    layout: str = "stored"
    """`stored`, or `hub` where these are the names of files and a model in memory has others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The decision: new names, what was done to get them, and how they compare with what is expected."""

    mapping: Mapping[str, str]
    """stored name -> output name."""
    heads: Mapping[str, str]
    """stored name -> name of a BGE-M3 head's tensor."""
    change: str
    """What was done to the stored names, in words; empty if nothing was."""
    missing: tuple[str, ...]
    """Expected names that nothing has."""
    unexpected: tuple[str, ...]
    """Output names that the target does not expect."""
    mismatched: tuple[str, ...]
    """Output names that the target expects in another shape."""
    expectation: Expectation | None
    rivals: tuple[str, ...] = ()
    """Prefixes of several models of the expected names, each of tensors of its own: nothing tells which is meant."""

    @property
    def fits(self) -> bool:
        """Whether the target will find every parameter, in its shape, and nothing else."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def loads(self) -> bool:
        """Whether the target will find every parameter in its shape: nothing would be left random."""
        return not (self.missing or self.mismatched)

    @property
    def wrong(self) -> int:
        """How many names do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)


def compare(
    mapping: Mapping[str, str],
    stored: Mapping[str, Shape],
    ties: Mapping[str, str],
    expectation: Expectation,
    change: str,
    *,
    rivals: tuple[str, ...] = (),
) -> Naming:
    """Compare the names that are written with what is expected. `mapping`: stored -> output, of all names, `ties`
    (alias -> owner) included; `change`: how they came about, in words."""
    heads = {name: new for name, new in mapping.items() if is_head(new, expectation.shapes)}
    body = {name: new for name, new in mapping.items() if name not in heads}
    places = landed(body, stored, ties, expectation.shapes, expectation.ties)
    # A tensor that has an expected name is written under it, and under none that nobody expects.
    given = {body[name]: stored[name] for names in places.values() for name in names}
    unplaced = [new for name, new in body.items() if not places[ties.get(name, name)]]
    expected = expectation.shapes
    tied = tied_together(expectation.ties)
    return Naming(
        mapping=body,
        heads=heads,
        change=change,
        missing=tuple(name for name in expected if tied.get(name, {name}).isdisjoint(given)),
        unexpected=tuple(dict.fromkeys(unplaced)),
        mismatched=tuple(name for name, shape in given.items() if not agree(shape, expected.get(name))),
        expectation=expectation,
        rivals=rivals,
    )


def outcome(naming: Naming, *, ignored: Collection[str] = (), partial: bool = False) -> str:
    """How the names compare with what is expected, in words: `names match LlamaForCausalLM (transformers 5.23.0)`.

    `ignored`: unexpected names that are not written. `partial`: names may be missing, because tensors were left out on
    purpose.
    """
    if naming.expectation is None:
        return "names not checked"
    origin, expected = naming.expectation.origin, naming.expectation.shapes
    counts = {
        "missing": 0 if partial else len(naming.missing),
        "unknown to it": len(set(naming.unexpected).difference(ignored)),
        "of another shape": len(naming.mismatched),
    }
    differences = [f"{count} {what}" for what, count in counts.items() if count]
    if differences:
        return f"names differ from {origin}: {', '.join(differences)}"
    written = f"; {len(naming.missing)} of its {len(expected)} names left out" if naming.missing else ""
    return f"names match {origin}{written}"


def is_head(name: str, expected: Iterable[str]) -> bool:
    """Whether `name` is of a head of BGE-M3 that the model itself does not have."""
    return name.startswith(HEADS) and name not in expected


def is_related(naming: Naming) -> bool:
    """Whether the expectation, a base model, is recognisable: most of its names are there, what is missing or new is
    whole modules (a head, a pooler; never one of numbered layers), and shapes agree but for the rows of a vocabulary.
    """
    if naming.expectation is None:
        return False
    expected = naming.expectation.shapes
    given = set(naming.mapping.values())
    return (
        len(naming.mismatched) <= 2
        and 2 * (len(expected) - len(naming.missing) - len(naming.mismatched)) > max(len(given), len(expected))
        and _are_whole_modules(naming.missing, given)
        and _are_whole_modules(naming.unexpected, set(expected))
    )


def _are_whole_modules(names: Iterable[str], others: set[str]) -> bool:
    """Whether each of `names` is in a module of which `others` have nothing, above any numbered layer."""
    modules = {prefix for name in others for prefix in _modules(name)}
    return all(not modules.issuperset(_modules(name)) for name in names)


def _modules(name: str) -> list[str]:
    """The modules around a tensor down to the first numbered one: `a.b.3.c.weight` -> [`a`, `a.b`]."""
    parts = list(takewhile(lambda part: not part.isdigit(), name.split(".")[:-1]))
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def complaint(naming: Naming, unasked: str = "") -> WrongNames:
    """The error for names that do not fit; `unasked`: why the architecture could not be asked."""
    origin = naming.expectation.origin if naming.expectation else "the target"
    if naming.rivals:
        return _undecided(naming, origin)
    computed = [name for name in naming.unexpected if ".parametrizations." in name]
    if computed:
        return _parametrized(computed, origin)
    parts = []
    if naming.missing:
        parts.append(f"{len(naming.missing)} expected names are missing, such as {naming.missing[0]!r}")
    if naming.unexpected:
        name = naming.unexpected[0]
        from difflib import get_close_matches

        near = get_close_matches(name, naming.missing, n=2, cutoff=0.3)
        nearest = f" (nearest: {', '.join(map(repr, near))})" if near else ""
        parts.append(f"{len(naming.unexpected)} names are unknown to it, such as {name!r}{nearest}")
    if naming.mismatched:
        name = naming.mismatched[0]
        wanted = naming.expectation.shapes.get(name) if naming.expectation else None
        shape = f", expected in {list(wanted)}" if wanted is not None else ""
        parts.append(f"{len(naming.mismatched)} have another shape, such as {name!r}{shape}")
    first, *others = parts
    follows = "a loader would use random weights" + (f" ({unasked})" if unasked else "")
    return WrongNames(
        f"the names do not fit {origin}: {first}",
        consequence="; ".join([*others, follows]),
        remedy=(
            "rename with --rename FROM=TO",
            "name the right model with --base",
            "write it anyway with --allow-missing",
        ),
    )


def _undecided(naming: Naming, origin: str) -> WrongNames:
    prefixes = " and ".join(map(repr, naming.rivals))
    return WrongNames(
        f"the checkpoint has {len(naming.rivals)} models with the names of {origin}, under {prefixes}",
        consequence="nothing says which of them to write",
        remedy=tuple(f"write the one under {prefix!r} with --include '{prefix}*'" for prefix in naming.rivals),
    )


def _parametrized(names: Sequence[str], origin: str) -> WrongNames:
    """torch's parametrizations keep what a weight is computed of (`torch/nn/utils/parametrize.py`)."""
    return WrongNames(
        f"{len(names)} tensors belong to parametrized weights, such as {names[0]!r}",
        expected=f"the weights as {origin} has them",
        consequence="what a parametrization (weight_norm, spectral_norm, …) computes from them is not saved",
        remedy=(
            "remove them in the training code (torch.nn.utils.parametrize.remove_parametrizations) and save again",
            "write what is stored, under its own names, with --names stored",
        ),
    )
