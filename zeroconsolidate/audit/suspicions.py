"""Figures of two models -> what may be a fault, in words. Pure: nothing is read here."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from .kinds import across_layers
from .requantized import beyond_quantizing, requantized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..run.statistics import Values
    from .comparison import ComparedTensor
    from .pairing import Pairing
    from .probes import Probed
    from .sides import Side

LARGEST_FLOAT16 = 65504.0
_ADDED = (".lora_B", ".lora_embedding_B")
"""The factor that a LoRA begins with at zero (`reset_lora_parameters` in PEFT's `LoraLayer`)."""
_UNLIKE_COSINE, _ALIKE_COSINE = 0.5, 0.9
"""A tensor with less in common than the first is another one, if most have more than the second."""
_SAME_SCALE = 0.05
"""Factors that are nearer are the same: they come from weights that were rounded."""
_FEW_NUMEL = 32
"""Of fewer elements an angle says nothing."""


def suspicions(
    a: Side,
    b: Side,
    pairing: Pairing,
    tensors: Sequence[ComparedTensor],
    alone: tuple[Mapping[str, Values], Mapping[str, Values]],
    probed: Probed,
) -> tuple[str, ...]:
    """Sentences, the gravest first. `alone`: what the elements of tensors are like that only A, or only B, has."""
    explained = {*probed.orders, *probed.exchanged}
    quantized = requantized(a, b, tensors)
    return (
        *_not_finite(tensors),
        *_reordered(probed),
        *_zeros(tensors, alone),
        *_without_effect(a, b, tensors, alone),
        *_of_base(probed, a, b),
        *_other_scales(probed),
        *_untied(probed, pairing, a, b),
        *_unrelated(tensors, explained),
        *beyond_quantizing(a, b, tensors),
        *_multiples(tensors, explained),
        *_frozen_that_moved(tensors, quantized),
        *_did_not_move(tensors, quantized),
        *_only_few_differ(tensors, pairing, quantized),
        *_beyond_range(tensors, alone),
    )


def _named(names: Sequence[str]) -> str:
    return listed(list(names), 3)


def _not_finite(tensors: Sequence[ComparedTensor]) -> Iterator[str]:
    for letter, other in (("a", "b"), ("b", "a")):
        odd = [
            (each.name, getattr(each.figures, f"nan_{letter}"), getattr(each.figures, f"infinite_{letter}"))
            for each in tensors
            if each.figures is not None
            and getattr(each.figures, f"nan_{letter}") + getattr(each.figures, f"infinite_{letter}")
            > getattr(each.figures, f"nan_{other}") + getattr(each.figures, f"infinite_{other}")
        ]
        for name, nan, infinite in odd[:3]:
            has = " and ".join(
                [
                    *([f"{nan:,} NaN"] if nan else []),
                    *([counted(infinite, "infinite element")] if infinite else []),
                ]
            )
            yield f"{name} has {has} in {letter.upper()}, more than in {other.upper()}"
        if len(odd) > 3:
            yield f"{len(odd) - 3} more tensors have NaN or infinite elements in {letter.upper()}"


def _reordered(probed: Probed) -> Iterator[str]:
    for name, other in probed.exchanged.items():
        yield f"{name} of B is {other} of A"
    for what, words in (("rows", "rows"), ("elements", "elements")):
        names = [name for name, order in probed.orders.items() if order == what]
        if names:
            has = "has" if len(names) == 1 else "have"
            yield f"{_named(names)} {has} the same {words} in both, in another order: scrambled"


def _zeros(
    tensors: Sequence[ComparedTensor], alone: tuple[Mapping[str, Values], Mapping[str, Values]]
) -> Iterator[str]:
    for letter, other in (("a", "b"), ("b", "a")):
        zeros = [
            each.name
            for each in tensors
            if each.figures is not None
            and each.figures.numel
            and getattr(each.figures, f"zeros_{letter}") == each.figures.numel
            and getattr(each.figures, f"zeros_{other}") < each.figures.numel
            and each.kind != "adapter"
            and not each.name.endswith("bias")  # which begin as zeros
        ]
        if zeros:
            yield f"all zeros in {letter.upper()} only: {_named(zeros)}"
    both = [
        each.name
        for each in tensors
        if each.figures is not None
        and len(each.shape_a) > 1
        and each.figures.zeros_a == each.figures.zeros_b == each.figures.numel > 0
        and each.kind != "adapter"
        and "buffer" not in (each.role_a, each.role_b)
    ]
    if both:
        yield f"all zeros in both: {_named(both)}"
    for letter, values in zip("AB", alone, strict=True):
        zeros = [
            name
            for name, found in values.items()
            if name.endswith("weight") and not found.square and not found.nan and not found.infinite and found.zeros > 1
            and not any(added in name for added in _ADDED)
        ]  # fmt: skip
        if zeros:
            yield f"all zeros, and only {letter} has it: {_named(zeros)}"


def _without_effect(
    a: Side,
    b: Side,
    tensors: Sequence[ComparedTensor],
    alone: tuple[Mapping[str, Values], Mapping[str, Values]],
) -> Iterator[str]:
    """LoRAs that add nothing."""
    for letter, values in zip("ab", alone, strict=True):
        is_zero = {name: not found.square for name, found in values.items() if any(part in name for part in _ADDED)}
        for each in tensors:
            if each.figures is not None and any(part in each.name for part in _ADDED):
                is_zero[each.name] = not getattr(each.figures, f"norm_{letter}")
        zero = [name for name, zeros in is_zero.items() if zeros]
        if zero and len(zero) == len(is_zero):
            yield f"the LoRA of {letter.upper()} has no effect: all {len(zero)} of its factors B are zero"
        elif zero:
            yield f"the LoRA of {letter.upper()} has no effect on {_named(zero)}: the factor B is zero"
    for letter, side, other in (("A", a, b), ("B", b, a)):
        if side.merged_into is not None and side.merged_into == other.directory and all(t.is_same for t in tensors):
            yield f"the adapter of {letter} has no effect: merged, every tensor is that of its base"


def _of_base(probed: Probed, a: Side, b: Side) -> Iterator[str]:
    for letter, other in (("A", b), ("B", a)):
        names = probed.of_base.get(letter, ())
        if names:
            lacks = ", without the adapter" if other.merged_into is not None else ""
            is_are = "is" if len(names) == 1 else "are"
            yield f"{_named(names)} {is_are} the base's in {letter}{lacks}"


def _other_scales(probed: Probed) -> Iterator[str]:
    for found in probed.scales:
        other = "B" if found.adapter == "A" else "A"
        if abs(found.times - 2) < _SAME_SCALE:
            why = "merged twice, or with another scale"
        elif found.scale is not None and abs(found.times * found.scale - 1) < _SAME_SCALE:
            why = f"merged without the scale lora_alpha / r, which is {found.scale:.4g}"
        else:
            why = "merged with another scale"
        where = "" if len(found.names) == found.compared else f", in {_named(found.names)}"
        yield (
            f"the differences of {other} from the base are {found.times:.2f} times what the adapter of {found.adapter} "
            f"gives{where}: {why}"
        )


def _untied(probed: Probed, pairing: Pairing, a: Side, b: Side) -> Iterator[str]:
    for letter, (head, embedding) in probed.untied.items():
        yield (f"config.json of {letter} says that {head} is {embedding}, but they differ: a loader takes one for both")
    for letter, side, only in (("B", b, pairing.only_a), ("A", a, pairing.only_b)):
        heads = [name for name in only if name.endswith(("lm_head.weight", "embed_out.weight"))]
        if heads and side.is_tied:
            other = "A" if letter == "B" else "B"
            yield f"{heads[0]} of {other} is not in {letter}, which takes its embedding as the head"


def _unrelated(tensors: Sequence[ComparedTensor], explained: set[str]) -> Iterator[str]:
    cosines = {
        each.name: each.figures.cosine
        for each in tensors
        if each.figures is not None and each.figures.cosine is not None and each.figures.numel >= _FEW_NUMEL
    }
    if len(cosines) < 3 or statistics.median(cosines.values()) < _ALIKE_COSINE:
        return
    odd = [name for name, cosine in cosines.items() if cosine < _UNLIKE_COSINE and name not in explained]
    if odd:
        shown = [f"{name} (cosine {cosines[name]:.2f})" for name in odd]
        yield f"nothing in common, though most tensors are alike: {_named(shown)}: as if initialised again"


def _multiples(tensors: Sequence[ComparedTensor], explained: set[str]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for each in tensors:
        its = each.figures
        if its is None or its.cosine is None or each.name in explained or its.numel < 2 or its.unlike:
            continue
        factor = its.norm_b / its.norm_a  # neither is 0 where there is an angle
        if 1 - its.cosine < 1e-10 and abs(factor - 1) > 1e-3:
            found.setdefault(f"{factor:.4g}", []).append(each.name)
    for times, names in found.items():
        yield f"B is A times {times}: {_named(names)}"


def _frozen_that_moved(tensors: Sequence[ComparedTensor], quantized: frozenset[str]) -> Iterator[str]:
    moved = [each.name for each in tensors if "frozen" in (each.role_a, each.role_b) and each.state == "differs"
             and "trainable" not in (each.role_a, each.role_b) and each.name not in quantized]  # fmt: skip
    if moved:
        yield f"frozen in the run, but {_not_same(moved)}: {_named(moved)}"


def _not_same(names: Sequence[str]) -> str:
    return "not the same in both" if len(names) > 1 else "it is not the same in both"


def _did_not_move(tensors: Sequence[ComparedTensor], quantized: frozenset[str]) -> Iterator[str]:
    """Tensors that are the same in both, though most of those they belong with are not."""
    free = [
        each
        for each in tensors
        if not {"frozen", "buffer"} & {each.role_a, each.role_b}
        and each.figures is not None
        and each.figures.numel
        and each.name not in quantized  # these differ whether they moved or not
    ]
    said: set[str] = set()
    trained = [each for each in free if "trainable" in (each.role_a, each.role_b)]
    moved = [each for each in trained if not each.is_same]
    if 2 * len(moved) > len(trained):
        still = [each.name for each in trained if each.is_same]
        said.update(still)
        if still:
            yield (
                f"trained, but the same in both, though {len(moved)} of {len(trained)} trained tensors moved: "
                f"{_named(still)}"
            )
    groups: dict[str, list[ComparedTensor]] = {}
    for each in free:
        if each.layer is not None:
            groups.setdefault(across_layers(each.name), []).append(each)
    behind: dict[int, list[str]] = {}
    for group in groups.values():
        still = [each.name for each in group if each.is_same and each.name not in said]
        if still and 2 * len(still) < len(group):
            said.update(still)
            behind.setdefault(len(group) - len(still), []).extend(still)
    for others, names in behind.items():
        yield f"did not move, though the same tensors of {counted(others, 'other layer')} did: {_named(names)}"
    outside = [each for each in free if each.layer is None and each.is_same and each.name not in said]
    inside = [each for each in free if each.layer is not None]
    if outside and inside and 10 * sum(not each.is_same for each in inside) >= 9 * len(inside):
        heads = [each.name for each in outside if each.kind in ("head", "embedding")]
        if heads:
            yield f"the same in both, though the layers moved: {_named(heads)}"


def _only_few_differ(tensors: Sequence[ComparedTensor], pairing: Pairing, quantized: frozenset[str]) -> Iterator[str]:
    tensors = [each for each in tensors if each.name not in quantized]
    differing = [each.name for each in tensors if not each.is_same]
    if 0 < len(differing) <= 3 and 10 * len(differing) <= len(tensors) and not (pairing.only_a or pairing.only_b):
        others = counted(len(tensors) - len(differing), "other tensor")
        where = "of what is not quantized, only" if quantized else "only"
        yield f"{where} {_named(differing)} {'differs' if len(differing) == 1 else 'differ'}; {others} are the same"


def _beyond_range(
    tensors: Sequence[ComparedTensor], alone: tuple[Mapping[str, Values], Mapping[str, Values]]
) -> Iterator[str]:
    for letter, values in zip("ab", alone, strict=True):
        peaks = {name: found.peak for name, found in values.items()}
        peaks |= {
            each.name: getattr(each.figures, f"peak_{letter}") for each in tensors if each.figures is not None
            and getattr(each, f"dtype_{letter}").startswith(("float", "bfloat"))
        }  # fmt: skip
        large = [f"{name} ({largest:.3g})" for name, largest in peaks.items() if largest > LARGEST_FLOAT16]
        if large:
            yield f"values in {letter.upper()} that float16 does not hold: {_named(large)}"
