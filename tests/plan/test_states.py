"""Where the elements of optimizer states are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from catalogs import catalog, model, optimizer, optimizer3, stage2, stage3, tensor

from zeroconsolidate.errors import Disagreement, MissingFiles, UnsupportedLayout
from zeroconsolidate.opening.open import open_catalog
from zeroconsolidate.plan.states import MASTERS, state_replicas, states, steps


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


def test_replicas_of_states_are_compared_under_their_names():
    found = state_replicas(open_catalog("tests/fixtures/layouts/pp2_z1_dp2/checkpoint", None))
    assert {replica.name.partition(" of ")[0] for replica in found} == {"exp_avg", "exp_avg_sq"}
    assert state_replicas(stage2()) == []
