"""What an engine reads at resume besides tensors."""

from __future__ import annotations

from typing import Any

import pytest
from catalogs import stage2, tensor

from zeroconsolidate.archive.inert import Inert, Name
from zeroconsolidate.catalog.training import Scaler, Training, of_all, training_of
from zeroconsolidate.dtypes import DType
from zeroconsolidate.opening.open import open_catalog

DYNAMIC = "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"


def scaler(state: Any, name: str = DYNAMIC, args: tuple[object, ...] = ()) -> Inert:
    made = Inert(name, args)
    made.state = state
    return made


def test_the_settings_flags_and_scaler_of_a_run_in_fp16():
    found = open_catalog("tests/fixtures/z2_fp16/checkpoint", None).training
    assert found is not None
    assert found.unread == ()
    assert [group["lr"] for group in found.param_groups] == [0.003]
    assert found.flags == {"dynamic_loss_scale": True, "overflow": False, "clip_grad": 1.0}
    assert found.scaler is not None
    assert (found.scaler.name, found.scaler.attributes["cur_scale"]) == ("DynamicLossScaler", 128)
    assert found.scaler.attributes["dtype"] is DType.F16


def test_what_is_not_plain_is_named():
    content = {"overflow": tensor(), "loss_scaler": scaler({}, "other.Scaler")}
    found = training_of(content, [{"lr": tensor(), "eps": 1e-8, "params": [0]}, 3], {}, {})
    assert found.param_groups == ({"eps": 1e-8}, {})
    assert found.unread == ("'loss_scaler'", "'overflow'", "the setting 'lr' of a param group")
    assert found.flags == {}


@pytest.mark.parametrize(
    "saved",
    [
        scaler({"cur_scale": tensor()}),
        scaler({"dtype": Name("torch.nothing")}),
        scaler({3: 3}),
        scaler((1, 2)),
        scaler({}, args=(3,)),
        3,
    ],
)
def test_a_scaler_that_is_not_understood(saved: object):
    assert training_of({"loss_scaler": saved}, [], {}, {}).unread == ("'loss_scaler'",)


def test_a_scaler_without_attributes():
    for state in ({}, None):
        found = training_of({"loss_scaler": scaler(state)}, [], {}, {})
        assert found.scaler == Scaler(name="DynamicLossScaler", attributes={})


def test_a_universal_checkpoint_has_no_optimizer_file():
    assert open_catalog("tests/fixtures/layouts/universal_z1/checkpoint", None).training is None
    assert stage2().training is not None


def test_the_training_state_of_stage_0_is_in_the_model_file():
    found = open_catalog("tests/fixtures/layouts/z0_fp16_fused/checkpoint", None).training
    assert found is not None
    assert [group["weight_decay"] for group in found.param_groups] == [0.01, 0.0]
    assert (found.flags, found.scaler, found.unread) == ({"clip_grad": 1.0}, None, ())


def test_names_that_optimizer_files_call_otherwise():
    assert stage2().listed == {}
    listed = open_catalog("tests/fixtures/layouts/pp2_z1_dp2/checkpoint", None).listed
    assert listed
    assert all(name.startswith("tied_modules.") for name in listed.values())


@pytest.mark.parametrize(
    ("zero", "shuffled"),
    [
        ({"round_robin_gradients": True}, True),
        ({"round_robin_gradients": True, "parameter_alignment": True}, False),
        ({"round_robin_gradients": False}, False),
        (None, False),
    ],
)
def test_a_round_robin(zero: object, shuffled: bool):
    assert training_of({}, [], {"zero_optimization": zero}, {}).is_shuffled is shuffled


def test_which_flat_groups_a_param_group_has():
    found = open_catalog("tests/fixtures/z3_subgroups_groups/checkpoint", None).training
    assert found is not None
    assert len(found.flat_groups) == len(found.param_groups)
    assert max(map(len, found.flat_groups)) > 1
    assert training_of({}, [{"params": "all"}, {}], {}, {}).flat_groups == ((), ())


def test_one_value_for_a_whole_flat_group_is_named():
    states = {0: {"step": tensor(item=1.0), "mu_product": tensor(item=0.5), "exp_avg": tensor(3), "flag": 2}}
    assert training_of({}, [], {}, states).unread == ("the optimizer's state 'mu_product'",)


def test_settings_in_which_model_parallel_ranks_differ():
    def of(*groups: dict[str, object]) -> Training:
        return training_of({}, groups, {}, {})

    assert of_all([]) is None
    alike = of_all([of({"lr": 0.1}), of({"lr": 0.1})])
    assert alike is not None
    assert alike.differs == ()
    apart = of_all([of({"lr": 0.1, "eps": 1, "a": 1}), of({"lr": 0.2, "eps": 1, "b": 1}, {"more": 1})])
    assert apart is not None
    assert apart.param_groups == ({"lr": 0.1, "eps": 1, "a": 1},)
    assert apart.differs == ("a", "b", "lr", "more")
