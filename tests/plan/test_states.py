"""Where the elements of optimizer states are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from catalogs import catalog, model, optimizer, optimizer3, stage2, stage3, tensor

from zeroconsolidate.errors import Disagreement, MissingFiles, UnsupportedLayout
from zeroconsolidate.opening.open import open_catalog
from zeroconsolidate.plan.states import MASTERS, every_state, param_groups, state_replicas, states, steps


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


def test_a_state_that_was_swapped_out():
    with pytest.raises(UnsupportedLayout, match=r"'exp_avg' is shorter than the masters.*swapped out to NVMe"):
        states(open_catalog("tests/fixtures/layouts/nvme_z3/checkpoint", None))


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
    assert param_groups(replace(stage2(), training=None)) == {}
    base = {"state": {}, "param_groups": [{"lr": 0.1, "params": [1]}]}
    with pytest.raises(Disagreement, match="no param group lists flat group 0"):
        param_groups(catalog([model()], [optimizer(rank, base_optimizer_state=base) for rank in range(2)]))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"unplaced": ("absmax1",)}, "the optimizer's state 'absmax1' is not laid out like the parameters"),
        ({"parts": ()}, "the optimizer's state 'exp_avg' is not laid out .*read for it"),
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
    with pytest.raises(UnsupportedLayout, match="of such a checkpoint is not read"):
        every_state(open_catalog("tests/fixtures/layouts/universal_z1/checkpoint", None), remedy=None)
    without_optimizer = replace(stage2(), training=None)
    assert list(every_state(without_optimizer, remedy=None)) == [MASTERS, "exp_avg"]


def test_replicas_of_states_are_compared_under_their_names():
    found = state_replicas(open_catalog("tests/fixtures/layouts/pp2_z1_dp2/checkpoint", None))
    assert {replica.name.partition(" of ")[0] for replica in found} == {"exp_avg", "exp_avg_sq"}
    assert state_replicas(stage2()) == []
