"""Mixtures of experts: which ranks share a group, what each expert is called, how AutoEP's stacks are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from catalogs import UNSET, half, model, of_files, optimizer, optimizer3, stage3, tensor

from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.catalog.experts import (
    global_names,
    local_names,
    of_rank,
    router_aliases,
    stacked_copies,
    stacks,
    unstacked,
)
from zeroconsolidate.catalog.rules import Affine, AffinePiece, Concatenated, Join
from zeroconsolidate.errors import DamagedFile, Disagreement, MissingFiles, UnsupportedLayout
from zeroconsolidate.plan.sources import sources

if TYPE_CHECKING:
    from zeroconsolidate.archive.located import LocatedTensor
    from zeroconsolidate.catalog.facts import Catalog

LAYER = "m.deepspeed_moe.experts.deepspeed_experts."


def expert(number: int, name: str = "w") -> str:
    return f"{LAYER}{number}.{name}"


def address(start: int, numel: int) -> Inert:
    """DeepSpeed's `fragment_address`."""
    made = Inert("fragment_address", ())
    made.state = {"numel": numel, "start": start}
    return made


# --- native: experts are numbered anew on each rank ------------------------------------------------------------------


def native(
    *, ranks: int = 4, ep: int = 2, model_changes: dict[str, Any] | None = None, **changes: Any
) -> dict[str, dict[str, Any]]:
    """`a` [3, 2] on all ranks; two experts [4] on each expert rank, whose group is cut over ranks / ep ranks."""
    own = [expert(0), expert(1)]
    told: dict[str, Any] = {
        "module": {"a": half(3, 2, key="a")},
        "buffer_names": [],
        "param_shapes": [{"a": (3, 2)}, dict.fromkeys(own, (4,))],
        "frozen_param_shapes": {},
        "dp_world_size": ranks,
    }
    contents = {"mp_rank_00_model_states.pt": model(**(told | (model_changes or {})))}
    for rank in range(ranks):
        dense, experts = -(-6 // ranks), 8 * ep // ranks
        state: dict[str, Any] = {
            "single_partition_of_fp32_groups": [
                tensor(max(min(dense, 6 - rank * dense), 0), key=f"dense {rank}"),
                tensor(experts, key=f"experts {rank}"),
            ],
            "partition_count": [ranks, ranks // ep],
            "base_optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}, {"lr": 0.1, "moe": True}]},
        }
        contents[f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"] = optimizer(**(state | changes))
    for number in range(2 * ep):
        name = f"layer_0_expert_{number}_mp_rank_00_model_states.pt"
        contents[name] = {expert(number): half(4, key=f"expert {number}")}
    return contents


def shared(found: Catalog) -> dict[str, tuple[str, list[str]]]:
    """By member: who holds its group, and the keys of the partitions."""
    return {
        member.name: (group.holder, [partition.storage.key for partition in group.partitions])
        for group in found.groups
        for member in group.members
    }


def test_every_second_rank_holds_the_experts_of_one_of_two_expert_ranks():
    found = of_files(native())
    assert shared(found) == {
        "a": ("all ranks", ["dense 0", "dense 1", "dense 2", "dense 3"]),
        expert(0): ("expert rank 0 of 2", ["experts 0", "experts 2"]),
        expert(1): ("expert rank 0 of 2", ["experts 0", "experts 2"]),
        expert(2): ("expert rank 1 of 2", ["experts 1", "experts 3"]),
        expert(3): ("expert rank 1 of 2", ["experts 1", "experts 3"]),
    }
    assert found.origin.degrees.ep == 2
    assert list(found.module) == ["a", *map(expert, range(4))]
    assert sorted(sources(found)) == sorted(["a", *map(expert, range(4))])


def test_experts_that_are_on_all_ranks_are_cut_like_the_rest():
    found = of_files(native(ep=1))
    assert found.origin.degrees.ep == 1
    assert shared(found)[expert(1)] == ("all ranks", ["experts 0", "experts 1", "experts 2", "experts 3"])


def test_experts_and_others_in_one_group():
    mixed = {"param_shapes": [{"a": (3, 2)}, {expert(0): (4,), "b": (4,)}]}
    with pytest.raises(UnsupportedLayout, match="the flat group holds experts and other parameters together"):
        of_files(native(model_changes=mixed))


def test_ranks_that_do_not_divide():
    with pytest.raises(Disagreement, match=r"cut over 3 ranks, which do not divide 4 \(at bf16.*group 1"):
        of_files(native(partition_count=[4, 3]))


def test_an_expert_in_two_files():
    contents = native()
    contents["layer_1_expert_0_mp_rank_00_model_states.pt"] = {expert(0): half(4)}
    with pytest.raises(Disagreement, match=r"0\.w is in two expert files \(at layer_1_expert_0"):
        of_files(contents)


def test_names_in_the_model_follow_from_the_rank():
    local = [expert(0), expert(0, "b"), expert(1), "other"]
    assert global_names(local, 0) == {expert(0): expert(0), expert(0, "b"): expert(0, "b"), expert(1): expert(1)}
    assert global_names(local, 2) == {expert(0): expert(4), expert(0, "b"): expert(4, "b"), expert(1): expert(5)}
    with pytest.raises(Disagreement, match=r"are not numbered from 0; got \[1, 2\]"):
        global_names([expert(1), expert(2)], 0)


def test_the_experts_of_a_rank():
    names = [expert(number) for number in range(6)]
    assert of_rank([*names, "other"], 1, 3) == {expert(2), expert(3)}
    with pytest.raises(Disagreement, match=r"6 experts of .* do not divide into 4 expert ranks"):
        of_rank(names, 0, 4)


# --- native, before param_shapes knew experts (DeepSpeed < 0.16) ------------------------------------------------------


def addressed(*groups: dict[str, tuple[int, int]]) -> list[dict[str, Inert]]:
    return [{name: address(*where) for name, where in group.items()} for group in groups]


def test_experts_without_shapes_are_taken_in_the_order_of_their_files():
    """The addresses of experts are computed for another number of ranks, and are not looked at."""
    contents = native(ranks=2, ep=2, model_changes={"param_shapes": None})
    for rank in (0, 1):
        state = contents[f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"]["optimizer_state_dict"]
        state["param_slice_mappings"] = addressed({"a": (0, 3)}, {expert(0): (7, 1), expert(1): (9, 9)})
    found = of_files(contents)
    assert shared(found)[expert(3)] == ("expert rank 1 of 2", ["experts 1"])
    assert [member.shape for member in found.groups[1].members] == [(4,), (4,)]


def test_two_groups_of_experts_without_shapes():
    contents = native(ranks=2, ep=2, model_changes={"param_shapes": None})
    for rank in (0, 1):
        state = contents[f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"]["optimizer_state_dict"]
        state["param_slice_mappings"] = addressed({expert(0): (0, 4)}, {expert(1): (0, 4)})
    with pytest.raises(UnsupportedLayout, match="several groups hold experts, and 'param_shapes' does not say which"):
        of_files(contents)


# --- addresses where there are no shapes at all (BF16_Optimizer) ------------------------------------------------------


def by_addresses(*ranks: dict[str, tuple[int, int]], **changes: Any) -> Catalog:
    """Two ranks whose only statement of what they hold are the addresses."""
    states = {
        f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt": optimizer(
            single_partition_of_fp32_groups=[tensor(5, key=str(rank))],
            param_slice_mappings=addressed(where),
            zero_stage=UNSET,
            partition_count=UNSET,
        )
        for rank, where in enumerate(ranks)
    }
    told = {"module": {"a": half(3, 2, key="a"), "b": half(3, key="b")}, "buffer_names": [], "param_shapes": None}
    return of_files({"mp_rank_00_model_states.pt": model(**(told | changes)), **states})


def test_a_parameter_that_two_ranks_share_is_the_sum_of_its_addresses():
    found = by_addresses({"a": (0, 5)}, {"a": (0, 1), "b": (1, 3)})
    assert [(member.name, member.shape) for member in found.groups[0].members] == [("a", (3, 2)), ("b", (3,))]
    assert found.origin.stage == 1


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (({"a": (1, 5)}, {"a": (0, 1), "b": (1, 3)}), "does not tile the partition; got a at 1"),
        (({"a": (0, 5)}, {"a": (0, 1), "b": (2, 3)}), "does not tile the partition; got b at 2"),
        # `a` goes on behind `b`: no order of parameters looks so.
        (({"a": (0, 5)}, {"b": (0, 3), "a": (3, 1)}), "does not tile the partition; got a at 3"),
        (({"a": (0, 5)}, {"b": (0, 3)}), "a has 5 elements in the flat group; expected 6"),
    ],
)
def test_addresses_that_do_not_tile(ranks: tuple[dict[str, tuple[int, int]], ...], message: str):
    with pytest.raises(Disagreement, match=message):
        by_addresses(*ranks)


@pytest.mark.parametrize("where", [{"a": 7}, {"a": address(-1, 5)}, {"a": Inert("fragment_address", ())}])
def test_addresses_that_are_none(where: dict[str, object]):
    states = [optimizer(rank, param_slice_mappings=[where]) for rank in (0, 1)]
    files = {f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt": state for rank, state in enumerate(states)}
    with pytest.raises(DamagedFile, match="'param_slice_mappings' has no usable address for 'a'"):
        of_files({"mp_rank_00_model_states.pt": model(), **files})


# --- native at stage 0 ------------------------------------------------------------------------------------------------


def whole(*masters: LocatedTensor, moe: LocatedTensor | None = None) -> dict[str, Any]:
    groups = [list(masters)] + ([[moe]] if moe is not None else [])
    settings = [{"lr": 0.1}, {"lr": 0.1, "moe": True}][: len(groups)]
    return {"fp32_groups": groups, "optimizer_state_dict": {"state": {}, "param_groups": settings}}


def stage0(**optimizers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One expert on each of two expert ranks; `optimizers`: by `expp_rank_N`."""
    told = {"module": {"a": half(3, key="a")}, "buffer_names": [], "param_shapes": None, "frozen_param_shapes": None}
    contents = {"mp_rank_00_model_states.pt": model(**told, optimizer=whole(tensor(3), moe=tensor(4)))}
    for number in (0, 1):
        contents[f"layer_0_expert_{number}_mp_rank_00_model_states.pt"] = {expert(number): half(4, key=f"e{number}")}
    return contents | {f"{name}_mp_rank_00_optim_states.pt": {"optimizer": o} for name, o in optimizers.items()}


def test_each_expert_rank_asks_for_the_names_of_its_own_experts():
    found = of_files(stage0(expp_rank_0=whole(tensor(3), moe=tensor(4)), expp_rank_1=whole(tensor(3), moe=tensor(4))))
    assert [[list(names) for names in question.candidates] for question in found.unnamed] == [
        [["a"], [expert(0)]],
        [["a"], [expert(1)]],
    ]
    assert found.origin.degrees.ep == 2


def test_without_groups_of_experts_any_group_may_hold_them():
    found = of_files(stage0(expp_rank_0=whole(tensor(3), tensor(4)), expp_rank_1=whole(tensor(3), tensor(4))))
    assert [[list(names) for names in question.candidates] for question in found.unnamed] == [
        [["a", expert(0)]],
        [["a", expert(1)]],
    ]


def test_names_that_several_expert_ranks_use_name_nothing():
    """What one calls expert 0 is not what another does."""
    groups = [{"params": [0, 1], "param_names": ["a", expert(0)]}]
    of_rank = {"state": {}, "param_groups": groups}
    found = of_files(stage0(expp_rank_0=of_rank, expp_rank_1=of_rank))
    assert [part.master_states for part in found.parts] == [({},)]


def test_the_file_of_an_expert_rank_is_missing():
    with pytest.raises(MissingFiles, match="an expert-parallel rank has no file; expected rank 0, got 1") as caught:
        of_files(stage0(expp_rank_1=whole(tensor(3), moe=tensor(4))))
    assert caught.value.files == ("expp_rank_0_mp_rank_00_optim_states.pt",)


def test_masters_that_do_not_fit_the_param_groups():
    odd = whole(tensor(3), moe=tensor(4)) | {"fp32_groups": [[tensor(3)]]}
    with pytest.raises(DamagedFile, match=r"do not fit the param groups; expected 2 groups, got 1 \(at expp_rank_0"):
        of_files(stage0(expp_rank_0=odd))


def test_local_names_are_those_of_the_first_rank():
    ranks = [[expert(0), expert(1), "dense"], [expert(2), expert(3)]]
    assert local_names(ranks) == {expert(0): (expert(0), expert(2)), expert(1): (expert(1), expert(3))}
    assert local_names([[expert(0)], [expert(0, "b")]]) == {expert(0): (expert(0),), expert(0, "b"): (expert(0, "b"),)}
    with pytest.raises(Disagreement, match=r"experts of m\.deepspeed_moe\..* are not spread evenly over ranks"):
        local_names([[expert(0), expert(1)], [expert(2)]])


def test_experts_of_a_universal_checkpoint_are_taken_apart():
    stacked = {expert(0): tensor(6, 2), expert(1): tensor(6, 2), "dense": tensor(6, 2)}
    found = unstacked(stacked, {expert(0): (3, 2), expert(1): (3, 2), "dense": (3, 2)})
    assert list(found) == [expert(0), expert(2), expert(1), expert(3), "dense"]
    assert {name: one.shape for name, one in found.items()} == {
        **{expert(i): (3, 2) for i in range(4)},
        "dense": (6, 2),
    }
    assert [found[expert(i)].offset for i in range(4)] == [0, 0, 6, 6]
    # What every rank has is not stacked, and one without dimensions has one in the file.
    assert unstacked({expert(0): tensor(1)}, {expert(0): ()})[expert(0)].shape == (1,)
    assert unstacked({expert(0): tensor(3, 2)}, {}) == {expert(0): tensor(3, 2)}


@pytest.mark.parametrize("held", [tensor(5, 2), tensor(0, 2), tensor(6, 2, stride=(1, 6))])
def test_experts_that_do_not_divide(held: Any):
    with pytest.raises(Disagreement, match=r"experts of all ranks do not divide; expected a multiple of \(3, 2\)"):
        unstacked({expert(0): held}, {expert(0): (3, 2)})


# --- AutoEP: a rank's experts are stacked in one tensor ---------------------------------------------------------------


def autoep(**changes: Any) -> dict[str, Any]:
    """What a model file says of one layer with 4 experts on two ranks."""
    placed = {"ranks": [{"experts": [0, 1]}, {"experts": [2, 3]}]}
    layer = {"expert_key_prefix": "m.experts", "module_path": "m", "ep_size": 2, "expert_placement": placed}
    return {key: value for key, value in (layer | changes).items() if value is not UNSET}


def test_stacks_are_laid_in_the_order_of_ranks():
    names = ["m.experts.w1", "m.experts.w2", "m.experts.w3"]
    assert stacks([autoep()]) == dict.fromkeys(names, Join(rule=Concatenated(0), stacks_experts=True))
    # Where nothing says where experts are, they are where DeepSpeed puts them by default.
    assert stacks([autoep(expert_placement=UNSET)]) == stacks([autoep()])


def test_the_recorded_map_has_the_last_word():
    piece = {"shape": [2, 3], "source": [0, [3, 1]], "dest": [0, [3, 1]]}
    other = piece | {"source": [6, [3, 1]]}
    maps = {
        "params": {
            "m.experts.w1": {"logical_shape": [4, 3], "ranks": {0: {"pieces": [piece]}, "1": {"pieces": [other]}}}
        }
    }
    joins = stacks([autoep(affine_maps=maps, expert_placement={"ranks": [{"experts": [3, 1]}]})])
    first = AffinePiece((2, 3), (0, (3, 1)), (0, (3, 1)))
    second = AffinePiece((2, 3), (6, (3, 1)), (0, (3, 1)))
    assert joins == {"m.experts.w1": Join(rule=Affine((4, 3), ((first,), (second,))), stacks_experts=True)}


@pytest.mark.parametrize(
    ("placement", "error", "message"),
    [
        ([{"experts": [2, 3]}, {"experts": [0, 1]}], UnsupportedLayout, "not placed on the 2 ranks in order"),
        ([{"experts": [0, 1, 2, 3]}], UnsupportedLayout, "not placed on the 2 ranks in order"),
        ([{"experts": 7}], DamagedFile, "'expert_placement' is not a list of ranks with their experts"),
        ([7], DamagedFile, "'expert_placement' is not a list of ranks with their experts"),
    ],
)
def test_a_placement_that_is_not_that_of_ranks(placement: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=rf"{message}.*\(at m.experts\)"):
        stacks([autoep(expert_placement={"ranks": placement})])


def test_a_router_has_the_name_of_the_gate_it_replaced_as_well():
    names = ["m.router.weight", "m.gate.weight", "m.gate.bias", "m.experts.w1", "other.gate.weight"]
    assert router_aliases([autoep()], names) == {"m.gate.weight": "m.router.weight"}


def test_the_copies_of_a_stack_are_by_expert():
    copies = {f"m.experts.w1.{number}": half(3, key=str(number)) for number in (1, 0)} | {"m.gate.0": half(3)}
    found = stacked_copies(stacks([autoep()]), copies)
    assert {name: [copy.storage.key for copy in of_stack] for name, of_stack in found.items()} == {
        "m.experts.w1": ["0", "1"]
    }
    with pytest.raises(Disagreement, match=r"the expert files of m.experts.w1 are incomplete; got the experts \[1\]"):
        stacked_copies(stacks([autoep()]), {"m.experts.w1.1": half(3)})


def striped(sets: list[list[int]] | Any, **changes: Any) -> dict[str, dict[str, Any]]:
    """AutoEP at stage 3, 2 ranks: `a` on both, the stack `m.experts.w1` [1, 4] of each in a group of its own."""
    told = {
        "module": {"a": half(0), "m.experts.w1": half(0)},
        "buffer_names": [],
        "param_shapes": [{"a": (6,)}, {"m.experts.w1": (1, 4)}],
        "ds_autoep_layers": [autoep(expert_placement=UNSET)],
    }
    groups = [{"partition_ranks": ranks} for ranks in sets] if isinstance(sets, list) else sets
    contents = {f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt": stage3(**(told | changes)) for rank in (0, 1)}
    for rank in (0, 1):
        own = groups
        if isinstance(sets, list) and len(sets) == 3:
            own = [groups[0], groups[1 + rank]]
        contents[f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"] = optimizer3(
            fp32_flat_groups=[tensor(3, key=f"a {rank}"), tensor(4, key=f"w1 {rank}")],
            ds_zero_partition_groups=own,
        )
    return contents


def test_stacks_of_stage_3_are_those_of_the_recorded_ranks():
    found = of_files(striped([[0, 1], [0], [1]]))
    assert [(part.index, [group.holder for group in part.groups]) for part in found.parts] == [
        (0, ["all ranks", "expert rank 0"]),
        (1, ["expert rank 1"]),
    ]
    assert sources(found)["m.experts.w1"].shape == (2, 4)
    assert found.origin.degrees.ep == 2


def test_shard_groups_that_are_recorded_hold_copies():
    found = of_files(striped([[0, 1], [0], [1]], ds_autoep_layers=[]))
    assert [group.holder for group in found.groups] == ["all ranks", "shard group 0", "shard group 1"]
    assert sources(found)["m.experts.w1"].shape == (1, 4)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (7, "'ds_zero_partition_groups' does not fit; expected one for each of 2 groups"),
        ([[0, 1]], "'ds_zero_partition_groups' does not fit; expected one for each of 2 groups"),
        ([[0, 1], [-1]], "has a group without usable 'partition_ranks'"),
        ({0: {"partition_ranks": [0, 1]}, 1: 7}, "has a group without usable 'partition_ranks'"),
    ],
)
def test_groups_without_ranks(sets: Any, message: str):
    with pytest.raises(DamagedFile, match=message):
        of_files(striped(sets))


def test_stacks_and_split_tensors_at_once():
    told = {"mp_world_size": 2, "ds_autoep_layers": [autoep()]}
    contents = {f"mp_rank_{mp:02d}_model_states.pt": model(**told) for mp in (0, 1)}
    for mp in (0, 1):
        for rank in (0, 1):
            contents[f"zero_pp_rank_{rank}_mp_rank_{mp:02d}_optim_states.pt"] = optimizer(rank)
    with pytest.raises(UnsupportedLayout, match=r"experts are stacked \(AutoEP\) and tensors are split"):
        of_files(contents)
