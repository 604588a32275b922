"""Where the elements of optimizer states are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from catalogs import catalog, model, optimizer, optimizer3, stage2, stage3, tensor

from zeroconsolidate.errors import Disagreement, MissingFiles, UnsupportedLayout
from zeroconsolidate.opening.open import open_catalog
from zeroconsolidate.plan.states import (
    MASTERS,
    every_state,
    local_experts,
    param_groups,
    plain_step,
    state_replicas,
    states,
    steps,
)

if TYPE_CHECKING:
    from pathlib import Path


def of_states(state: dict[str, object], *, rank: int = 0, **changes: object) -> dict[str, object]:
    base = {"state": {0: state}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return optimizer(rank, base_optimizer_state=base, **changes)


def test_states_lie_like_the_masters_in_storages_of_their_own():
    moment = [tensor(6, key="m0"), tensor(5, key="m1")]  # the last is as long as its rank's buffer, padding and all
    found = states(catalog([model()], [of_states({"exp_avg": moment[r], "step": 5}, rank=r) for r in range(2)]))
    assert list(found) == [MASTERS, "exp_avg"]
    assert list(found[MASTERS]) == list(found["exp_avg"]) == ["a", "b"]
    for name in ("a", "b"):
        ours, masters = found["exp_avg"][name], found[MASTERS][name]
        assert (ours.shape, ours.role) == (masters.shape, "trainable")
        assert [copy.run_numel for copy in ours.recipe.copies()] == [c.run_numel for c in masters.recipe.copies()]
        assert [copy.start for copy in ours.recipe.copies()] == [copy.start for copy in masters.recipe.copies()]


def test_states_at_stage_3_are_striped():
    files = [
        optimizer3(rank, optimizer_state_dict={"state": {0: {"sum": tensor(5)}}, "param_groups": []})
        for rank in range(2)
    ]
    found = states(catalog([stage3(0), stage3(1)], files, stage=3))
    assert list(found) == [MASTERS, "sum"]
    assert [copy.run_numel for copy in found["sum"]["a"].recipe.copies()] == [3, 3]


def test_a_group_without_a_state_does_not_have_it():
    found = states(catalog([model()], [of_states({"step": 3}, rank=r) for r in range(2)]))
    assert list(found) == [MASTERS]


def test_groups_may_differ_in_their_states():
    found = states(open_catalog("tests/fixtures/layouts/muon_z2/checkpoint", None))
    assert found.keys() == {MASTERS, "momentum_buffer", "exp_avg", "exp_avg_sq"}
    assert found["exp_avg"].keys() == found["exp_avg_sq"].keys()
    assert found["exp_avg"].keys() | found["momentum_buffer"].keys() == found[MASTERS].keys()
    assert not found["exp_avg"].keys() & found["momentum_buffer"].keys()


def test_a_state_that_not_every_rank_has():
    checkpoint = catalog([model()], [of_states({"exp_avg": tensor(6)}), of_states({}, rank=1)])
    with pytest.raises(
        Disagreement, match=r"not every rank has the optimizer's state 'exp_avg'.*2 of all ranks, got 1"
    ):
        states(checkpoint)


def test_a_state_that_was_swapped_out(tmp_path: Path):
    whole = states(open_catalog("tests/fixtures/layouts/nvme_z3/checkpoint", None))
    files = {copy.file for source in whole["exp_avg"].values() for copy in source.recipe.copies()}
    assert sum(name.endswith("exp_avg-0_8.tensor.swp") for name in files) == 2
    shutil.copytree("tests/fixtures/layouts/nvme_z3/checkpoint", tmp_path / "in")
    next((tmp_path / "in").glob("*/offloaded_tensors/rank01/exp_avg-*")).unlink()
    with pytest.raises(UnsupportedLayout, match=r"'exp_avg' is shorter than the masters.*swapped out to NVMe"):
        states(open_catalog(str(tmp_path / "in"), None))


def test_a_state_that_is_laid_out_in_another_way():
    """Muon's momentum at stages 1 and 2, where a matrix lies on two ranks: each of them has all of it."""
    checkpoint = catalog([model()], [of_states({"exp_avg": tensor(10)}), of_states({"exp_avg": tensor(10)}, rank=1)])
    with pytest.raises(UnsupportedLayout, match=r"'exp_avg' is longer than the masters.*Muon keeps all of a matrix"):
        states(checkpoint)


def test_an_incomplete_checkpoint_has_no_plan():
    with pytest.raises(MissingFiles):
        states(replace(stage2(), missing=("zero_pp_rank_1_mp_rank_00_optim_states.pt",)))


def test_the_first_stage_1_has_no_states_by_group():
    found = states(open_catalog("tests/fixtures/layouts/ds0_3_16_z1/checkpoint", None))
    assert list(found) == [MASTERS]


def test_steps_are_those_of_the_groups():
    assert steps(catalog([model()], [of_states({"step": 3}, rank=r) for r in range(2)])) == {"a": 3, "b": 3}
    assert [step and step.item for step in steps(stage2()).values()] == [5.0, 5.0]
    assert steps(catalog([model()], [of_states({"step": "3"}, rank=r) for r in range(2)])) == {"a": None, "b": None}


def test_which_param_group_a_parameter_is_in():
    found = param_groups(open_catalog("tests/fixtures/z3_subgroups_groups/checkpoint", None))
    assert {name: group for name, group in found.items() if name.startswith("layers.0.")} == {
        "layers.0.norm.weight": 0, "layers.0.up.weight": 0, "layers.0.down.weight": 0,
        "layers.0.norm.bias": 1, "layers.0.up.bias": 1, "layers.0.scale": 2,
    }  # fmt: skip
    assert param_groups(open_catalog("tests/fixtures/z2_elastic/checkpoint", None)) == {}
    for case in ("z0_bf16_groups", "z0_fp16_fused"):
        whole = open_catalog(f"tests/fixtures/layouts/{case}/checkpoint", None)
        found = param_groups(whole)
        assert found.keys() == whole.parts[0].saved_masters.keys()
        assert set(found.values()) == {0, 1}
    assert param_groups(replace(stage2(), training=None)) == {}
    base = {"state": {}, "param_groups": [{"lr": 0.1, "params": [1]}]}
    with pytest.raises(Disagreement, match="no param group lists flat group 0"):
        param_groups(catalog([model()], [optimizer(rank, base_optimizer_state=base) for rank in range(2)]))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"unplaced": ("absmax1",)}, "the optimizer's state 'absmax1' is not laid out like the parameters"),
        ({"parts": ()}, "nothing says of which parameters the optimizer's state 'exp_avg' is"),
    ],
)
def test_states_of_which_some_would_be_lost(changes: dict[str, Any], why: str):
    with pytest.raises(UnsupportedLayout, match=f"{why}.*; do without"):
        every_state(replace(stage2(), **changes), remedy="do without")


def test_states_with_a_value_that_is_not_understood():
    base = {"state": {0: {"step": 3, "mu_product": tensor(item=0.5)}}, "param_groups": [{"params": [0]}]}
    checkpoint = catalog([model()], [optimizer(rank, base_optimizer_state=base) for rank in range(2)])
    with pytest.raises(UnsupportedLayout, match="'mu_product': the value is not plain, and would be lost"):
        every_state(checkpoint, remedy=None)
    for case in ("universal_z1", "ds0_3_16_z1"):
        with pytest.raises(UnsupportedLayout, match="of such a checkpoint keeps is not read"):
            every_state(open_catalog(f"tests/fixtures/layouts/{case}/checkpoint", None), remedy=None)
    apart = replace(stage2().training or pytest.fail(), unread=(), differs=("lr",))
    with pytest.raises(UnsupportedLayout, match="model-parallel ranks differ in 'lr'"):
        every_state(replace(stage2(), training=apart), remedy=None)
    without_optimizer = replace(stage2(), training=None)
    assert list(every_state(without_optimizer, remedy=None)) == [MASTERS, "exp_avg"]


def test_replicas_of_states_are_compared_under_their_names():
    found = state_replicas(open_catalog("tests/fixtures/layouts/pp2_z1_dp2/checkpoint", None))
    assert {replica.name.partition(" of ")[0] for replica in found} == {"exp_avg", "exp_avg_sq"}
    assert state_replicas(stage2()) == []


def test_states_of_masters_that_are_saved_whole():
    """Stage 0: by number in the file, by name once the masters have names."""
    checkpoint = open_catalog("tests/fixtures/layouts/z0_bf16_groups/checkpoint", None)
    found, counted = states(checkpoint), steps(checkpoint)
    assert found.keys() == {MASTERS, "exp_avg", "exp_avg_sq"}
    assert found[MASTERS].keys() == found["exp_avg"].keys() == counted.keys()
    # DeepSpeed's optimizer of stage 0 takes one step without gradients before the three of the run.
    assert {plain_step(step) for step in counted.values()} == {4.0}
    assert state_replicas(checkpoint) == []


def test_masters_of_which_nothing_says_what_the_optimizer_keeps():
    checkpoint = open_catalog("tests/fixtures/layouts/z0_fp32/checkpoint", None)
    assert list(states(checkpoint)) == [MASTERS]
    assert set(steps(checkpoint).values()) == {None}


def test_model_parallel_ranks_that_differ_in_the_step():
    whole = open_catalog("tests/fixtures/layouts/pp2_z1_bf16/checkpoint", None)
    (part,) = whole.parts
    *others, last = part.groups
    odd = replace(part, groups=(*others, replace(last, step=4.0)))
    with pytest.raises(Disagreement, match=r"ranks differ in the step; expected 3\.0, got 4\.0 \(at 0\.weight\)"):
        steps(replace(whole, parts=(odd,)))


def test_what_expert_ranks_call_their_experts():
    for case in ("moe_ep2_dp4_z1", "moe_ep2_z0_bf16"):
        found = local_experts(open_catalog(f"tests/fixtures/layouts/{case}/checkpoint", None))
        experts = "layers.0.mixtures.0.deepspeed_moe.experts.deepspeed_experts."
        assert found[f"{experts}1.0.weight"] == (f"{experts}1.0.weight", f"{experts}3.0.weight")
        assert len(found) == 8  # two layers, two experts a rank, weight and bias
    assert local_experts(stage2()) == {}
