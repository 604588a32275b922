"""Masters and states of a checkpoint -> the fragments of a universal checkpoint, and what stands around each tensor.

A fragment is `{"param": tensor in full shape, …}`. Around the tensor is how DeepSpeed's loader cuts it over the ranks
of whoever resumes (mirrors `load_hp_checkpoint_state` in `deepspeed/checkpoint/universal_checkpoint.py`):

    cat_dim                          the dimension along which it is cut; without it, every rank has all of it
    cat_dim, param_n_sub_params      it is so many equal tensors along that dimension, each of which is cut
    sub_param_shape                  the same with sizes of their own, and the tensor seen in that shape
    vocab_tensor                     its rows are padded, so that they can be cut: the padding is not in the file
    is_expert_param, ep_num_experts  dimension 0 is cut over expert-parallel ranks

AutoTP and AutoEP describe their parameters themselves and need none of these. An expert of DeepSpeed's own MoE has
the same name on every expert-parallel rank. Each rank looks into the folder of that name and takes its share of
dimension 0, so what the ranks call expert 0 is stacked there:

    …deepspeed_experts.0.w/fp32.pt   [expert 0 of rank 0 | expert 0 of rank 1]     ep_num_experts: rows of both
    …deepspeed_experts.1.w/fp32.pt   [expert 1 of rank 0 | expert 1 of rank 1]

With other expert-parallel ranks than these the shapes do not fit, and the loader says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...catalog.experts import is_native
from ...catalog.rules import Concatenated
from ...errors import Disagreement, UnsupportedLayout, at
from ...plan.fragment import fragment, plain_fragment
from ...plan.layout import TensorPlan
from ...plan.pieces import Rows
from ...plan.states import MASTERS, local_experts
from .state import stored_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...catalog.facts import Catalog
    from ...catalog.rules import Join
    from ...catalog.state import Step
    from ...plan.congruent import Sharing
    from ...plan.layout import FilePlan
    from ...plan.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of fragments: what a rank calls a parameter."""

    name: str
    held: tuple[str, ...]
    """Stored names of the parameters in it: one, or the experts of that name, by expert-parallel rank."""


def folders(catalog: Catalog, masters: Mapping[str, Source]) -> Iterator[Folder]:
    """All folders, in the order of the module, so that each file that is read is read from beginning to end."""
    experts = local_experts(catalog)
    for name in masters:
        if not is_native(name):
            yield Folder(name=catalog.listed.get(name, name), held=(name,))
        elif name in experts:
            yield Folder(name=catalog.listed.get(name, name), held=experts[name])


def fragments(
    catalog: Catalog,
    zero: str,
    within: Sequence[Folder],
    by_state: Mapping[str, Mapping[str, Source]],
    step_of: Mapping[str, Step],
    sharing: Sharing | None,
) -> Iterator[FilePlan]:
    """The files of the folders `within` the folder `zero`. `sharing`: what the disk can share, None to copy everything.

    Raises Disagreement if expert-parallel ranks differ, UnsupportedLayout for experts that the loader would not find.
    """
    for folder in within:
        own = f"{zero}/{folder.name}"
        for state, sources in by_state.items():
            held = [sources[name] for name in folder.held if name in sources]
            if held:
                with at(folder.name):
                    whole = _whole(held, len(folder.held))
                around = _around_expert(catalog, folder, whole) or _around(catalog.joins.get(folder.held[0]))
                yield fragment(f"{own}/{state}.pt", _tensor(state, whole), around, sharing=sharing)
        step = step_of[folder.held[0]]
        if step is not None:
            yield plain_fragment(f"{own}/step.pt", *stored_step(step))


def _whole(held: Sequence[Source], ranks: int) -> Source:
    """A parameter, or the experts of one name stacked. One without dimensions has one: the loader cuts the first."""
    first = replace(held[0], shape=held[0].shape or (1,))
    if len(held) != ranks or len({source.shape for source in held}) != 1:
        raise Disagreement("expert-parallel ranks differ in shape, or in what the optimizer keeps of their experts")
    if ranks == 1:
        return first
    rows, *row = first.shape
    stacked = Rows(
        of=tuple(source.recipe for source in held),
        row_numel=math.prod(row),
        runs=tuple((rank, 0, rows) for rank in range(ranks)),
    )
    return replace(first, shape=(rows * ranks, *row), recipe=stacked)


def _around_expert(catalog: Catalog, folder: Folder, whole: Source) -> dict[str, object] | None:
    """Experts that every rank has, in a model that spreads others, are as any parameter to the loader. It cuts all that
    are marked by the largest degree. Raises UnsupportedLayout for experts of a smaller one."""
    join = catalog.joins.get(folder.held[0])
    ranks, most = len(folder.held), catalog.origin.degrees.ep
    if 1 < ranks < most:
        with at(folder.name):
            raise UnsupportedLayout(
                f"experts are spread over {ranks} ranks, and others over {most}",
                consequence="DeepSpeed's loader would cut them over as many as those",
            )
    is_spread = is_native(folder.held[0]) and ranks == most
    if not is_spread and not (join and join.stacks_experts):
        return None
    return {"cat_dim": 0, "is_expert_param": True, "ep_num_experts": whole.shape[0]}


def _around(join: Join | None) -> dict[str, object]:
    if join is None:
        return {"cat_dim": 0}
    around: dict[str, object] = {} if join.rows is None else {"vocab_tensor": True}
    rule = join.rule
    if isinstance(rule, Concatenated):
        if rule.declared is not None:
            around["sub_param_shape"] = rule.declared
        else:
            around |= {"cat_dim": rule.dim, **({"param_n_sub_params": len(rule.widths)} if rule.widths else {})}
    return around


def _tensor(state: str, source: Source) -> TensorPlan:
    return TensorPlan(
        name=f"{source.name} ({state})",
        dtype=source.recipe.dtype,
        shape=source.shape,
        recipe=source.recipe,
        is_parameter=state == MASTERS,
    )
