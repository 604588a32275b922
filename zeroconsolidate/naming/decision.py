"""Stored names and shapes, expected names and shapes -> the output name of each tensor.

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

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..catalog.plain import plain_names, without_modules
from ..errors import BadOption
from .expectation import HEADS, Naming, compare, is_head, is_related
from .shared import agree, is_one_to_one, rivals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..catalog.facts import Shape
    from .expectation import Expectation

WRAPPERS = ("module.", "_forward_module.", "_orig_mod.", "pretrained_model.")
"""Prefixes that are a wrapper's whatever the model: data parallelism, Lightning, torch.compile, TRL's value head."""

VALUE_HEAD = "v_head."
"""TRL's head beside a wrapped causal model, which transformers ignores and TRL reads from the same file
(`trl/models/modeling_value_head.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of prefix."""

    prefixes: tuple[str, str]
    """What is taken off, and what is put on."""
    hits: int
    """How many names it brings to expected ones."""
    rival: tuple[str, str] | None
    """Where it brings one of the names, and where another change that is as good would."""


def decide(stored: Mapping[str, Shape], ties: Mapping[str, str], expectations: Iterable[Expectation]) -> Naming | None:
    """Choose names for the stored tensors, aliases (`ties`: alias -> owner) included.

    If no expectation is satisfied, the one that came nearest is returned, with what it misses (`Naming.fits`); None
    if there is no expectation.
    """
    best: Naming | None = None
    for expectation in expectations:
        naming = best_mapping(stored, ties, expectation)
        if naming.fits or (not expectation.exact and is_related(naming)):
            return naming
        if best is None or naming.wrong < best.wrong:
            best = naming
    return best


def best_mapping(stored: Mapping[str, Shape], ties: Mapping[str, str], expectation: Expectation) -> Naming:
    """The change of prefix that brings most names to where they are expected, and no two tensors to one."""
    clean = plain_names(stored)
    best = _best(clean, stored, ties, expectation)
    bare = None if best.fits else without_modules(clean, expectation.shapes)
    other = best if bare is None else _best(bare, stored, ties, expectation)
    return other if other.wrong < best.wrong else best


def _best(
    clean: Mapping[str, str], stored: Mapping[str, Shape], ties: Mapping[str, str], expectation: Expectation
) -> Naming:
    """`clean`: stored name -> name without what stands inside of it."""
    heads = {name: new for name, new in clean.items() if is_head(new, expectation.shapes)}
    body = {name: new for name, new in clean.items() if name not in heads}
    expected = expectation.shapes
    # On a tie the earlier candidate wins: no change, then taking a prefix off, then putting one on. But of two names of
    # one tensor, it is the one it is stored under.
    best, most = dict(body), (-1, -1)
    found = ("", "")
    equal: list[tuple[str, str]] = []
    for change in _candidates(body.values(), expected):
        there = {name: moved(new, change) for name, new in body.items()}
        hits = [name for name, new in there.items() if new in expected and agree(stored[name], expected[new])]
        reached = (len({there[name] for name in hits}), sum(name not in ties for name in hits))
        if reached < most or not is_one_to_one(there, ties):
            continue
        equal = [*equal, change] if reached == most else [change]
        if reached > most:
            best, most, found = there, reached, change
    taken, put = found
    parts = [
        f"prefix {taken!r} removed" if taken else "",
        f"prefix {put!r} added" if put else "",
        "wrappers inside names removed" if any(name != new for name, new in clean.items()) else "",
    ]
    removals = [(old, {name: moved(new, (old, "")) for name, new in body.items()}) for old, new in equal if not new]
    # Plain names are the model's, whatever else has the same names behind a prefix.
    apart = rivals(stored, ties, removals, expected) if len(removals) > 1 and ("", "") not in equal else ()
    return compare(
        best | heads,
        stored,
        ties,
        expectation,
        ", ".join(filter(None, parts)),
        rivals=apart,
    )


def judge(
    mapping: Mapping[str, str], stored: Mapping[str, Shape], ties: Mapping[str, str], expectation: Expectation
) -> Naming:
    """Compare names that a user chose with what is expected."""
    return compare(mapping, stored, ties, expectation, "renamed with --rename")


def without_expectation(stored: Mapping[str, Shape], *, bare: bool) -> Naming:
    """Names without the prefixes that are a wrapper's in any model, for a model without expected names.

    `bare`: config.json names a model without a head (`XLMRobertaModel`). Those have several children, so a `model.`
    around all of them is a wrapper's. It also is beside the heads of BGE-M3, which are FlagEmbedding's.
    """
    names = plain_names(stored)
    has_heads = any(name.startswith(HEADS) for name in names.values())
    wrappers = (*WRAPPERS, "model.") if bare or has_heads else WRAPPERS
    taken = ""
    while prefix := next((p for p in wrappers if _carried(p, names.values())), None):
        taken += prefix
        names = {name: new.removeprefix(prefix) for name, new in names.items()}
    heads = {name: new for name, new in names.items() if new.startswith(HEADS)}
    return Naming(
        mapping={name: new for name, new in names.items() if name not in heads},
        heads=heads,
        change=f"the wrapper's prefix {taken!r} removed" if taken else "",
        missing=(),
        unexpected=(),
        mismatched=(),
        expectation=None,
    )


def renamed(stored: Iterable[str], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Apply `FROM=TO` rules in order: a prefix, or a regular expression if FROM begins with `^` or is `/…/`.

    Raises BadOption for a bad expression, or if two tensors would get one name.
    """
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
        except (re.error, IndexError) as error:
            raise BadOption(f"--rename {old}={new} is not a regular expression: {error}") from None
    return unique(names)


def unique(names: Mapping[str, object]) -> dict[str, str]:
    """`names` (stored -> output) if all are names, and no two tensors get the same one. Raises BadOption."""
    owners: dict[str, str] = {}
    for name, new in names.items():
        if not isinstance(new, str) or not new:
            raise BadOption(f"--rename leaves {name!r} without a name", found=repr(new))
        if owners.setdefault(new, name) != name:
            raise BadOption(f"--rename gives {owners[new]!r} and {name!r} the same name {new!r}")
    return {name: new for new, name in owners.items()}


def _candidates(names: Iterable[str], expected: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs (prefix to take off, prefix to put on) that bring at least one name to an expected one."""
    found = {("", "")}
    heads: dict[str, set[str]] = {}
    for name in expected:
        for head, tail in _cuts(name):
            heads.setdefault(tail, set()).add(head)
    for name in names:
        for head, tail in (("", name), *_cuts(name)):
            if tail in expected:
                found.add((head, ""))
            if "." in tail:
                found.update((head, put) for put in heads.get(tail, ()))
    return sorted(found, key=lambda change: (bool(change[1]), len(change[0]) + len(change[1]), change))


def _cuts(name: str) -> list[tuple[str, str]]:
    """(prefix with its dot, rest) at each dot above numbered layers: wrappers are around a model, not inside.

    The first part may be a number: SentenceTransformer is a sequence, `0.auto_model.encoder.layer.0.…`.
    """
    found = []
    upto = name.find(".") + 1
    while upto:
        found.append((name[:upto], name[upto:]))
        following = name.find(".", upto) + 1
        if name[upto : following - 1].isdigit():
            break
        upto = following
    return found


def best_change(names: Sequence[str], expected: Mapping[str, object]) -> Change:
    """The change of prefix that brings most `names` to expected ones."""
    best = Change(prefixes=("", ""), hits=-1, rival=None)
    for prefixes in _candidates(names, expected):
        hits = sum(1 for name in names if moved(name, prefixes) in expected)
        if hits > best.hits:
            best = Change(prefixes=prefixes, hits=hits, rival=None)
        elif hits == best.hits > 0 and best.prefixes != ("", ""):
            other = next((name for name in names if moved(name, prefixes) != moved(name, best.prefixes)), None)
            if other is not None:
                both = (moved(other, best.prefixes), moved(other, prefixes))
                best = Change(prefixes=best.prefixes, hits=hits, rival=both)
    return best


def moved(name: str, change: tuple[str, str]) -> str:
    """`name` with one prefix in the place of another, as it is if it does not begin with it."""
    taken, put = change
    return put + name.removeprefix(taken) if name.startswith(taken) else name


def _carried(prefix: str, names: Iterable[str]) -> bool:
    """Whether the wrapper's prefix is around every tensor but heads."""
    around = [name.startswith(prefix) for name in names if not name.startswith((VALUE_HEAD, *HEADS))]
    return bool(around) and all(around)
