"""What the two witnesses notice, in every family of fixtures: one weight that is a little off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from answers import answers
from model_cases import ModelCase, model_cases
from true_models import adapted, merged, trained
from witnesses import assert_as_recorded, assert_equal, assert_same_weights, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="needs transformers 5 or newer")

FAMILIES = [case for case in model_cases() if case.stage == 3 or case.name == "m3_dense_only_z2"]
"""Stage 2 has the same models with other values."""

FORMS: dict[str, tuple[Callable[[ModelCase], torch.nn.ModuleDict], str]] = {
    "fp32": (lambda case: trained(case, torch.float32), "float32"),
    "bf16": (lambda case: trained(case, torch.bfloat16), "live"),
    "merged": (merged, "merged"),
    "adapted": (adapted, "float32"),
}


def forms(case: ModelCase) -> list[str]:
    if case.has_adapter:
        return ["merged", "adapted"]
    return ["fp32", "bf16"] if case.provenance["case"]["bf16"] else ["fp32"]


MODELS = [pytest.param(case, form, id=f"{case.name}-{form}") for case in FAMILIES for form in forms(case)]


def test_these_are_all_families() -> None:
    def name(case: ModelCase) -> str:
        return case.name.rpartition("_")[0]

    assert {name(case) for case in FAMILIES} == {name(case) for case in model_cases()}


def off_by_a_unit(values: torch.Tensor) -> None:
    """The largest value by one unit in the last place."""
    at = values.abs().argmax()
    values[at] = torch.nextafter(values[at], torch.tensor(torch.inf, dtype=values.dtype))


def off_by_a_percent(values: torch.Tensor) -> None:
    """All values."""
    values *= 1.01


@torch.no_grad()
def each_off(model: torch.nn.Module, change: Callable[[torch.Tensor], None]) -> Iterator[str]:
    """Names of parameters, each of them changed until the next is asked for. The last ones first: they show most."""
    for name, parameter in reversed(list(model.named_parameters())):
        before = parameter.clone()
        change(parameter.view(-1))
        if not torch.equal(parameter, before):
            yield name
        parameter.copy_(before)


@pytest.mark.parametrize(("case", "form"), MODELS)
def test_one_value_off_by_one_unit_in_the_last_place(case: ModelCase, form: str) -> None:
    """The first witness sees it in every weight, by the weights, and the answers alone tell too."""
    make, _ = FORMS[form]
    truth, model = make(case), make(case)
    assert_same_weights(model, truth)
    looked_at = 0
    for name in each_off(model, off_by_a_unit):
        with pytest.raises(AssertionError, match=name):
            assert_same_weights(model, truth)
        looked_at += 1
    assert looked_at > 15
    right = answers(case, truth, case.base)
    assert_equal(answers(case, model, case.base), right)
    assert any(notices(assert_equal, answers(case, model, case.base), right) for _ in each_off(model, off_by_a_unit))


@pytest.mark.parametrize(
    ("case", "form"), [model for model in MODELS if model.values[1] != "bf16" or model.values[0].recipe == "causal"]
)
def test_one_weight_off_by_one_percent(case: ModelCase, form: str) -> None:
    """The second witness sees it. Not in the bf16 vectors of an embedder: one percent is a unit or two in the last
    place there, and what is scaled to length one has little of it left. Its float32 vectors tell."""
    make, kind = FORMS[form]
    model = make(case)
    assert_as_recorded(case, answers(case, model, case.base), kind, model)
    assert any(
        notices(assert_as_recorded, case, answers(case, model, case.base), kind, model)
        for _ in each_off(model, off_by_a_percent)
    )
