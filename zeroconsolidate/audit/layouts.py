"""Two sides, one of which has tensors as transformers 5 holds them in memory -> both as the hub's files have them.

The experts of Mixtral are a stack in memory, and one matrix for each in files:

    model.layers.0.mlp.experts.gate_up_proj               [experts, 64, 16]
    model.layers.0.block_sparse_moe.experts.3.w1.weight            [32, 16]    expert 3, rows 0 to 31
    model.layers.0.block_sparse_moe.experts.3.w3.weight            [32, 16]    expert 3, rows 32 to 63

A matrix of the files becomes rows of the stack: nothing is read here, and what is read later is read in blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.discover import natural
from ..archive.model_config import has_config
from ..archive.phrases import counted
from ..naming.asking import architecture
from ..naming.check import is_fused
from ..naming.decision import best_change, moved
from ..naming.hub_layout import to_hub
from ..naming.sources import in_table
from ..plan.build import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..naming.hub_layout import Architecture, Conversion
    from .sides import Side


def in_one_layout(a: Side, b: Side) -> tuple[Side, Side]:
    """Both in the layout of files, if one of them has another and it is known how the two belong together."""
    for side, other in ((a, b), (b, a)):
        fused = [name for name in side.tensors if is_fused(name) and name not in other.tensors]
        known, why = _architecture(side, other)
        conversions = () if known is None else _conversions(known, side, other)
        if conversions:
            turned = _turned(side, conversions)
            return (turned, b) if side is a else (a, turned)
        if fused and known is None and not any(map(is_fused, other.tensors)):
            said = f"{side.path}: which expert has which rows of {fused[0]} is not known: {why}"
            told = replace(side, notes=(*side.notes, said))
            return (told, b) if side is a else (a, told)
    return a, b


def _architecture(side: Side, other: Side) -> tuple[Architecture | None, str]:
    """What is known of the class of a side; if nothing is, why."""
    places = [each.directory for each in (side, other) if each.directory is not None and has_config(each.directory)]
    why = "no config.json"
    for place in places:
        found = in_table(place)
        if found is None:
            found, why = architecture(place, remember=True)
        if found is not None:
            return found, ""
    return None, why


def _conversions(known: Architecture, side: Side, other: Side) -> tuple[Conversion, ...]:
    """What makes the tensors of `side` those of files, under its own prefix; none if that brings nothing closer to
    the other side."""
    taken, put = best_change(list(side.tensors), known.expectation.shapes).prefixes
    theirs = best_change(list(other.tensors), known.hub.shapes).prefixes
    there = {moved(name, theirs) for name in other.tensors}
    whole = _whole(known, side, (taken, put))
    if not any(conversion.output in there for conversion in whole):
        return ()
    return tuple(
        replace(
            conversion,
            output=moved(conversion.output, (put, taken)),
            inputs=tuple(moved(name, (put, taken)) for name in conversion.inputs),
        )
        for conversion in whole
    )


def _whole(known: Architecture, side: Side, change: tuple[str, str]) -> list[Conversion]:
    """The conversions of which the side has every input, in its shape, and not the output already. Those that share a
    tensor are all among them, or none."""
    held: Mapping[str, object] = {
        moved(name, change): source.shape
        for name, source in side.tensors.items()
        if name not in side.stored and name not in side.schemes
    }
    without = {name for name in held if held[name] != known.expectation.shapes.get(name)}
    found = list(known.conversions)
    while True:
        whole = [
            conversion
            for conversion in found
            if conversion.inputs
            and not conversion.opaque
            and held.keys() >= set(conversion.inputs)
            and without.isdisjoint(conversion.inputs)
            and (conversion.output not in held or conversion.output in conversion.inputs)
        ]
        if len(whole) == len(found):
            return whole
        kept = {conversion.output for conversion in whole}
        without.update(name for conversion in found if conversion.output not in kept for name in conversion.inputs)
        found = whole


def _turned(side: Side, conversions: tuple[Conversion, ...]) -> Side:
    """The side with tensors in the layout of files in place of those they are made of."""
    named = to_hub(Selection(named=dict(side.tensors), left_out=()), conversions).named
    of = {conversion.output: conversion.inputs[0] for conversion in conversions}
    count = len({name for conversion in conversions for name in conversion.inputs})
    return replace(
        side,
        tensors={name: named[name] for name in natural(list(named))},
        roles={name: side.roles[of.get(name, name)] for name in named if of.get(name, name) in side.roles},
        notes=(
            *side.notes,
            f"{side.path}: {counted(count, 'tensor')} as transformers holds them in memory, compared as the hub's "
            "files have them",
        ),
    )
