"""Join what the ranks recorded into the expected tensors of a fixture, refusing anything doubtful."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from . import megatron

if TYPE_CHECKING:
    from pathlib import Path

    from .case import Case

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(slots=True)
class Expected:
    """The truth about one checkpoint."""

    weights: dict[str, torch.Tensor]
    """Trainable and frozen parameters in fp32 (exact), buffers in their own dtype."""
    moments: dict[str, torch.Tensor]
    """`exp_avg:NAME` and the like, full shape."""
    lagging: list[str] = field(default_factory=list)
    """Masters that are not what the 16-bit weight was rounded from."""
    frozen: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    ties: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts of rank 0: ds_config, optimizer class."""


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype, shape and bytes (NaN included)."""
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def assemble(case: Case, live: Path) -> Expected:
    """Raises ValueError when ranks contradict each other or a rounded master is not the 16-bit weight."""
    joined, facts = join_ranks(case, live)
    masters, halves, buffers = joined.pop("master", {}), joined.pop("half"), joined.pop("buffer", {})
    frozen = sorted(set().union(*(fact["frozen"] for fact in facts)))
    lagging = confirm(case, masters, halves)
    unexplained = halves.keys() - masters.keys() - set(frozen)
    if unexplained:
        raise ValueError(f"{case.name}: neither master nor frozen: {sorted(unexplained)}")
    aliases: dict[str, str] = {}
    for fact in facts:
        aliases.update(fact["aliases"])
    expected = Expected(
        weights={**masters, **{name: halves[name].float() for name in frozen}, **buffers},
        moments={f"{kind}:{name}": v for kind, by_name in joined.items() for name, v in by_name.items()},
        lagging=lagging,
        frozen=frozen,
        buffers=sorted(buffers),
        ties=aliases,
        facts=facts[0],
    )
    if not case.moments:
        expected.moments = {}
    if case.model == "megatron":
        drop_padding(expected)
    return pipeline_names(expected) if case.pp > 1 or case.model == "pipeline" else expected


def join_ranks(case: Case, live: Path) -> tuple[dict[str, dict[str, torch.Tensor]], list[dict[str, Any]]]:
    joined: dict[str, dict[str, torch.Tensor]] = {}
    facts: list[dict[str, Any]] = []
    stacks: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    copies: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    for rank in range(case.world):
        with safe_open(live / f"rank_{rank}.safetensors", "pt") as file:
            fact = json.loads(file.metadata()["facts"])
            facts.append(fact)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a handle is no mapping
        for key, value in tensors.items():
            kind, name = key.split(":", 1)
            where = f"{key} on rank {rank}"
            if kind == "positions":
                continue
            if name in fact["stacked"]:
                put(stacks.setdefault((kind, name), {}), fact["stacked"][name][0], value, where)
            elif name in fact["whole_shapes"]:
                whole = joined.setdefault(kind, {}).setdefault(name, torch.zeros(fact["whole_shapes"][name]).to(value))
                whole.view(-1)[tensors[f"positions:{name}"].flatten()] = value.flatten()
            elif case.model == "megatron" and "position_embeddings" in name:
                # The last stage's copy is not kept in step: the first stage's is the parameter.
                if rank < case.world // case.pp:
                    put(copies.setdefault((kind, name), {}), rank % case.tp, value, where)
            elif not (case.drift and name in joined.get(kind, {})):
                put(joined.setdefault(kind, {}), name, value, where)
    for (kind, name), pieces in stacks.items():
        joined.setdefault(kind, {})[name] = torch.cat([pieces[i] for i in range(case.ep)])
    for (kind, name), ranks in copies.items():
        joined.setdefault(kind, {})[name] = sum(ranks.values()) / len(ranks)
    return joined, facts


def put(into: dict[Any, torch.Tensor], key: object, value: torch.Tensor, where: str) -> None:
    if key in into and not equal(into[key], value):
        raise ValueError(f"{where} differs from the same value on an earlier rank")
    into[key] = value


def confirm(case: Case, masters: dict[str, torch.Tensor], halves: dict[str, torch.Tensor]) -> list[str]:
    """Names whose rounded master is not the module's value; an error unless the case expects some."""
    lagging = []
    for name, master in masters.items():
        if case.model == "megatron" and "position_embeddings" in name:
            continue  # averaged over ranks that differ: rounding and averaging do not commute
        if not equal(master.to(DTYPES[case.dtype]), halves[name]):
            lagging.append(name)
    if lagging and case.witness:
        raise ValueError(f"{case.name}: the master rounded to {case.dtype} is not the module's value: {lagging}")
    return lagging


def pipeline_names(expected: Expected) -> Expected:
    """`tied_modules.KEY.x` -> `0.x`: the full model knows a tied layer by the index of its first use."""

    def rename(name: str) -> str:
        return re.sub(r"^tied_modules\.[^.]+\.", "0.", name)

    ties = {name: rename(name) for name in expected.weights if rename(name) != name}
    expected.weights = {rename(name): value for name, value in expected.weights.items()}
    expected.moments = {rename(name): value for name, value in expected.moments.items()}
    expected.frozen = [rename(name) for name in expected.frozen]
    expected.ties = {**expected.ties, **ties}
    return expected


def drop_padding(expected: Expected) -> None:
    """The padded rows of a Megatron vocabulary belong to no token."""
    for tensors in (expected.weights, expected.moments):
        for name, value in tensors.items():
            if name.endswith("word_embeddings.weight"):
                tensors[name] = value[: megatron.VOCAB].clone()
