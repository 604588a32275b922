"""Which name each tensor gets, judged by the names and shapes that the target expects.

Training code wraps models, and every wrapper leaves its prefix: `module.`, `_forward_module.`, FlagEmbedding's
`model.` beside heads that have none. A file with such names loads without an exception and gives random weights.
No list of prefixes can tell `model.` of a wrapper from `model.` of a Llama; what the target expects can:

    stored                               expected                        prefix taken off
    model.encoder.layer.0.output.weight  encoder.layer.0.output.weight   `model.`
    colbert_linear.weight                                                (a head: kept apart)

Each expectation (weights of the same model, the architecture itself) is asked in turn; the first that some
mapping satisfies decides. If there are expectations and none is satisfied, the names are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ..errors import BadOption, WrongNames

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..catalog.facts import Shape

HEADS = ("colbert_linear.", "sparse_linear.")
"""Heads of BGE-M3, which FlagEmbedding keeps in files of their own (`colbert_linear.pt`, `sparse_linear.pt`)."""

WRAPPERS = ("module.", "_forward_module.", "_orig_mod.", "pretrained_model.")
"""Prefixes that are a wrapper's whatever the model: data parallelism, Lightning, torch.compile, TRL's value head."""

_INNER_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""Wrappers of submodules, which may stand anywhere in a name and never in an expected one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The names a target expects."""

    origin: str
    """For people: where the names come from."""
    shapes: Mapping[str, Shape | None]
    """None where only the name is known."""
    ties: Mapping[str, str]
    """alias -> kept name: an alias need not be present if its parameter is."""
    optional: frozenset[str]
    """Names that may be absent, such as buffers that are computed anew."""
    exact: bool
    """Whether it is the target itself, so that nothing may be missing or unexpected. A base model is not: heads
    may have been added or dropped since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The decision: new names, and why."""

    mapping: Mapping[str, str]
    """stored name -> output name."""
    heads: Mapping[str, str]
    """stored name -> name of a BGE-M3 head's tensor."""
    reason: str
    missing: tuple[str, ...]
    """Expected names that nothing has."""
    unexpected: tuple[str, ...]
    """Output names that the target does not expect."""
    mismatched: tuple[str, ...]
    """Output names that the target expects in another shape."""
    expectation: Expectation | None

    @property
    def fits(self) -> bool:
        """Whether the target will find every parameter, in its shape, and nothing else."""
        return not (self.missing or self.unexpected or self.mismatched)


def decide(stored: Mapping[str, Shape], ties: Mapping[str, str], expectations: Iterable[Expectation]) -> Naming:
    """Choose names for the stored tensors, aliases (`ties`: alias -> owner) included.

    If no expectation is satisfied, the one that came nearest is returned, with what it misses (`Naming.fits`).
    """
    best: Naming | None = None
    for expectation in expectations:
        naming = best_mapping(stored, ties, expectation)
        if naming.fits or (not expectation.exact and is_kin(naming)):
            return naming
        if best is None or _wrong(naming) < _wrong(best):
            best = naming
    return best or without_evidence(stored)


def best_mapping(stored: Mapping[str, Shape], ties: Mapping[str, str], expectation: Expectation) -> Naming:
    """The change of prefix that brings most names to where they are expected."""
    clean = {name: _without_inner(name) for name in stored}
    heads = {name: new for name, new in clean.items() if _is_head(new, expectation)}
    body = {name: new for name, new in clean.items() if name not in heads}
    candidates = _candidates(body.values(), expectation.shapes)

    def hits(change: tuple[str, str]) -> int:
        return sum(1 for name, new in body.items() if _agrees(_moved(new, change), stored[name], expectation.shapes))

    # On a tie the earlier candidate wins: no change, then taking a prefix off, then putting one on.
    change = max(candidates, key=hits)
    mapping = {name: _moved(new, change) for name, new in body.items()}
    taken, put = change
    how = (
        "names as trained"
        if all(name == new for name, new in mapping.items())
        else " and ".join(
            part
            for part in (
                f"the prefix {taken!r} taken off" if taken else "",
                f"the prefix {put!r} put on" if put else "",
                "wrappers inside names taken out" if any(n != c for n, c in clean.items()) else "",
            )
            if part
        )
    )
    return _judged(mapping, heads, stored, ties, expectation, f"{how}: those of {expectation.origin}")


def judge(
    mapping: Mapping[str, str], stored: Mapping[str, Shape], ties: Mapping[str, str], expectation: Expectation
) -> Naming:
    """Compare names that a user chose with what is expected."""
    heads = {name: new for name, new in mapping.items() if _is_head(new, expectation)}
    body = {name: new for name, new in mapping.items() if name not in heads}
    return _judged(body, heads, stored, ties, expectation, f"renamed as asked: those of {expectation.origin}")


def without_evidence(stored: Mapping[str, Shape]) -> Naming:
    """Undo what is a wrapper's in any model; leave all else as it is, and say that nothing was there to compare."""
    names = {name: _without_inner(name) for name in stored}
    taken = []
    while prefix := next((p for p in WRAPPERS if _carried(p, names.values())), None):
        taken.append(prefix)
        names = {name: new.removeprefix(prefix) for name, new in names.items()}
    how = f"the wrapper's prefix {''.join(taken)!r} taken off" if taken else "names as trained"
    return Naming(
        mapping=names,
        heads={},
        reason=f"{how}; nothing was there to compare them with (install transformers, or name the original "
        "model with --base)",
        missing=(),
        unexpected=(),
        mismatched=(),
        expectation=None,
    )


def renamed(stored: Mapping[str, Shape], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Apply `FROM=TO` rules in order: a prefix, or a regular expression if FROM begins with `^` or is `/…/`.

    Raises BadOption for a bad expression, or if two tensors would get one name.
    """
    import re

    names = {name: name for name in stored}
    for old, new in rules:
        pattern = old[1:-1] if len(old) > 1 and old[0] == old[-1] == "/" else old if old.startswith("^") else None
        try:
            compiled = None if pattern is None else re.compile(pattern)
            for name, current in names.items():
                if compiled is not None:
                    names[name] = compiled.sub(new, current)
                elif current.startswith(old):
                    names[name] = new + current[len(old) :]
        except re.error as error:
            raise BadOption(f"the renaming rule {old!r} is no regular expression: {error}") from None
    return unique(names)


def unique(names: dict[str, str]) -> dict[str, str]:
    """`names` if no two tensors get the same one. Raises BadOption."""
    owners: dict[str, str] = {}
    for name, new in names.items():
        if not new or owners.setdefault(new, name) != name:
            raise BadOption(f"the renaming gives {name!r} and {owners.get(new)!r} the same name {new!r}")
    return names


def _candidates(names: Iterable[str], expected: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs (prefix to take off, prefix to put on) that bring at least one name to an expected one."""
    found: dict[tuple[str, str], None] = {("", ""): None}
    tails = {tail: head for name in expected for head, tail in _cuts(name)}
    for name in names:
        for head, tail in (("", name), *_cuts(name)):
            if tail in expected:
                found[head, ""] = None
            elif tail in tails and "." in tail:
                found[head, tails[tail]] = None
    return sorted(found, key=lambda change: (bool(change[1]), len(change[0]) + len(change[1])))


def _cuts(name: str) -> list[tuple[str, str]]:
    """(prefix with its dot, rest) at each dot."""
    return [(name[: i + 1], name[i + 1 :]) for i, letter in enumerate(name) if letter == "."]


def _moved(name: str, change: tuple[str, str]) -> str:
    taken, put = change
    return put + name.removeprefix(taken) if name.startswith(taken) else name


def _without_inner(name: str) -> str:
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(f".{wrapper}", ".").removeprefix(wrapper)
    return name


def _is_head(name: str, expectation: Expectation) -> bool:
    return name.startswith(HEADS) and name not in expectation.shapes


def _carried(prefix: str, names: Iterable[str]) -> bool:
    return all(name.startswith((prefix, "v_head.", *HEADS)) for name in names) and any(
        name.startswith(prefix) for name in names
    )


def _agrees(name: str, shape: Shape, expected: Mapping[str, Shape | None]) -> bool:
    return name in expected and expected[name] in (None, shape)


def _judged(
    mapping: Mapping[str, str],
    heads: Mapping[str, str],
    stored: Mapping[str, Shape],
    ties: Mapping[str, str],
    expectation: Expectation,
    reason: str,
) -> Naming:
    given = {new: stored[name] for name, new in mapping.items()}
    expected = expectation.shapes
    tied = _partners(expectation.ties)
    own = _partners({mapping[alias]: mapping[owner] for alias, owner in ties.items() if {alias, owner} <= set(mapping)})
    missing = tuple(
        name
        for name in expected
        if name not in given
        and name not in expectation.optional
        and not any(partner in given for partner in tied.get(name, ()))
    )
    unexpected = tuple(
        name
        for name in given
        if name not in expected
        and name not in expectation.ties
        and not any(partner in expected for partner in own.get(name, ()))
    )
    return Naming(
        mapping=mapping,
        heads=heads,
        reason=reason,
        missing=missing,
        unexpected=unexpected,
        mismatched=tuple(name for name, shape in given.items() if expected.get(name) not in (None, shape)),
        expectation=expectation,
    )


def _partners(ties: Mapping[str, str]) -> dict[str, set[str]]:
    """Every name of a tied parameter -> all of its names."""
    groups: dict[str, set[str]] = {}
    for alias, owner in ties.items():
        groups.setdefault(owner, {owner}).add(alias)
    return {name: group for group in groups.values() for name in group}


def is_kin(naming: Naming) -> bool:
    """Whether the expectation, a base model, is recognisable: one side's names contain the other's, and shapes agree
    but for the rows of a vocabulary that was resized."""
    expected = naming.expectation.shapes if naming.expectation else {}
    hits = len(expected) - len(naming.missing)
    nested = not naming.missing or not naming.unexpected
    return nested and len(naming.mismatched) <= 2 and hits > len(naming.mismatched)


def _wrong(naming: Naming) -> int:
    return len(naming.missing) + len(naming.unexpected) + len(naming.mismatched)


def complaint(naming: Naming) -> WrongNames:
    """The error for names that do not fit."""
    origin = naming.expectation.origin if naming.expectation else "the target"
    parts = []
    if naming.missing:
        parts.append(f"{len(naming.missing)} expected names are missing, such as {naming.missing[0]!r}")
    if naming.unexpected:
        name = naming.unexpected[0]
        near = get_close_matches(name, naming.missing, n=2, cutoff=0.3)
        nearest = f" (nearest: {', '.join(map(repr, near))})" if near else ""
        parts.append(f"{len(naming.unexpected)} names are unknown to it, such as {name!r}{nearest}")
    if naming.mismatched:
        parts.append(f"{len(naming.mismatched)} have another shape, such as {naming.mismatched[0]!r}")
    return WrongNames(
        f"the names do not fit {origin}: {'; '.join(parts)}; a loader would leave random weights; "
        "rename with --rename FROM=TO, name the right model with --base, or insist with --allow-missing"
    )
