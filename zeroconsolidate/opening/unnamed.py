"""A catalog with open questions -> one without, after values were read."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..archive.located import contiguous
from ..archive.names import file_name
from ..catalog.state import MasterState
from ..errors import UnsupportedLayout, at
from ..plan.pieces import View
from ..plan.witness import SAMPLED_NUMEL, both_ends
from ..run.elements import bits, blocks, rounded
from ..run.execute import BLOCK_BYTES
from .assign import Look, Master, assign, walk
from .replicated import settle
from .undeclared_ties import is_varied, tie_equal_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog, Part, Unnamed
    from ..dtypes import DType
    from ..run.inputs import Inputs

_HEAD_NUMEL = 8
"""So many elements are enough to distinguish most parameters of a flat master; only then are whole ones compared."""


def answer(catalog: Catalog, inputs: Inputs) -> Catalog:
    """The catalog with every master under its name, every tie that only values show, and no questions left.

    Reads a few elements of each master and each copy, and all of those that may be equal.

    Raises WitnessMismatch if a master belongs to no parameter, UnsupportedLayout if two cannot be distinguished.
    """
    parts = list(catalog.parts)
    for question in catalog.unnamed:
        with at(file_name(question.file)):
            found, states = _fused(question, inputs) if question.fused else _unfused(question, inputs)
        parts[question.part] = _with_masters(parts[question.part], found, states)
    named = replace(catalog, parts=tuple(parts), unnamed=())
    return settle(tie_equal_tensors(named, inputs), inputs)


def _with_masters(part: Part, found: Mapping[str, LocatedTensor], states: Mapping[str, MasterState]) -> Part:
    frozen = {name: held for name, held in part.frozen.items() if name not in found}
    return replace(part, masters=(*part.masters, found), master_states=(*part.master_states, states), frozen=frozen)


def _unfused(question: Unnamed, inputs: Inputs) -> tuple[dict[str, LocatedTensor], dict[str, MasterState]]:
    try:
        names = _assigned(question, inputs, sampled=True)
    except UnsupportedLayout:
        names = _assigned(question, inputs, sampled=False)
    masters = {
        name: master
        for of_group, masters in zip(names, question.groups, strict=True)
        for name, master in zip(of_group, masters, strict=True)
    }
    states = {
        name: state
        for of_group, states in zip(names, question.states, strict=bool(question.states))
        for name, state in zip(of_group, states, strict=True)
    }
    return masters, states


def _assigned(question: Unnamed, inputs: Inputs, *, sampled: bool) -> list[list[str]]:
    names: list[dict[str, Look]] = []
    dtypes: list[set[DType]] = []
    known: dict[int, dict[str, Look]] = {}
    for candidates in question.candidates:
        looks = known.get(id(candidates))
        if looks is None:
            looks = known[id(candidates)] = {
                name: Look(copy.shape, copy.dtype.code, _digest(copy, copy.dtype, inputs, sampled=sampled)[0])
                for name, copy in candidates.items()
            }
        names.append(looks if sampled else _first_of_equals(looks, candidates, question.groups[len(names)], inputs))
        dtypes.append({copy.dtype for copy in candidates.values()})
    groups = [
        [_master(master, dtypes[g], inputs, sampled=sampled) for master in masters]
        for g, masters in enumerate(question.groups)
    ]
    return assign(groups, names)


def _first_of_equals(
    looks: dict[str, Look],
    candidates: Mapping[str, LocatedTensor],
    masters: tuple[LocatedTensor, ...],
    inputs: Inputs,
) -> dict[str, Look]:
    """Without second names: those that look like an earlier one, are no accident, and have no master of their own."""
    kept: dict[str, Look] = {}
    for name, look in looks.items():
        like = sum(other == look for other in kept.values())
        owners = sum(master.shape == look.shape for master in masters)
        if not like or like < owners or not is_varied(candidates[name], inputs):
            kept[name] = look
    return kept


def _master(master: LocatedTensor, dtypes: set[DType], inputs: Inputs, *, sampled: bool) -> Master:
    looks, is_copy = set(), True
    for dtype in dtypes:
        digest, exact = _digest(master, dtype, inputs, sampled=sampled)
        looks.add(Look(master.shape, dtype.code, digest))
        is_copy &= exact
    own, _ = _digest(master, master.dtype, inputs, sampled=sampled)
    # Equal samples do not make equal tensors.
    unlike = sampled and master.numel > 2 * SAMPLED_NUMEL
    return Master(looks=frozenset(looks), bits=own if not unlike else _own(master), is_copy=is_copy and not unlike)


def _own(master: LocatedTensor) -> bytes:
    return f"{master.storage.key}:{master.offset}".encode()


def _digest(tensor: LocatedTensor, dtype: DType, inputs: Inputs, *, sampled: bool) -> tuple[bytes, bool]:
    """Of a tensor's bits, rounded to `dtype`; and whether rounding lost nothing."""
    digest, exact = hashlib.blake2b(digest_size=16), True
    for elements in blocks(View(tensor), both_ends(tensor.numel, everything=not sampled), inputs):
        there = rounded(elements, tensor.dtype, dtype)
        digest.update(there.view(np.uint8).data)
        exact = exact and rounded(there, dtype, tensor.dtype).tobytes() == elements.tobytes()
    return digest.digest(), exact


def _fused(question: Unnamed, inputs: Inputs) -> tuple[dict[str, LocatedTensor], dict[str, MasterState]]:
    found: dict[str, LocatedTensor] = {}
    states: dict[str, MasterState] = {}
    for g, (flat,) in enumerate(question.groups):
        with at(f"group {g}"):
            candidates = [(name, copy) for name, copy in question.candidates[g].items() if name not in found]
            names = walk(flat.numel, [(n, c.numel) for n, c in candidates], _Match(flat, candidates, inputs))
        offset = 0
        for name in names:
            shape = question.candidates[g][name].shape
            found[name] = contiguous(flat.storage, shape, flat.offset + offset)
            for (state,) in question.states[g : g + 1]:
                values = {
                    key: contiguous(value.storage, shape, value.offset + offset) for key, value in state.values.items()
                }
                states[name] = MasterState(values, state.step, state.param_group)
            offset += found[name].numel
    return found, states


class _Match:
    """Whether the elements of a flat master from an offset on, rounded, are the copy of a candidate."""

    def __init__(self, flat: LocatedTensor, candidates: list[tuple[str, LocatedTensor]], inputs: Inputs) -> None:
        self._flat = flat
        self._candidates = candidates
        self._inputs = inputs
        self._heads: dict[int, bytes] = {}
        self._here: tuple[int, dict[tuple[DType, int], bytes]] = (-1, {})

    def __call__(self, offset: int, index: int) -> bool:
        copy = self._candidates[index][1]
        head = min(copy.numel, _HEAD_NUMEL)
        if index not in self._heads:
            self._heads[index] = self._bits(copy, 0, head, copy.dtype)
        if self._here[0] != offset:
            self._here = (offset, {})
        heads = self._here[1]
        if (copy.dtype, head) not in heads:
            heads[copy.dtype, head] = self._bits(self._flat, offset, offset + head, copy.dtype)
        if heads[copy.dtype, head] != self._heads[index]:
            return False
        size = BLOCK_BYTES // 4
        return all(
            self._bits(copy, first, min(first + size, copy.numel), copy.dtype)
            == self._bits(self._flat, offset + first, offset + min(first + size, copy.numel), copy.dtype)
            for first in range(head, copy.numel, size)
        )

    def _bits(self, tensor: LocatedTensor, start: int, stop: int, dtype: DType) -> bytes:
        return bits(tensor, start, stop, dtype, self._inputs)
