"""Adapters in memory: what PEFT's names mean, which tensors make an adapter's file, how a product lies in a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from adapted import PEFT, config, lora, stored, trained

from zeroconsolidate.adapters.additions import in_order, low_rank
from zeroconsolidate.adapters.export import adapter_files
from zeroconsolidate.adapters.recipes import Lie
from zeroconsolidate.adapters.wrapped import collect
from zeroconsolidate.adapters.wrapping import Kind, adapters_in, take_apart
from zeroconsolidate.errors import BadOption, DamagedFile, Disagreement, UnsupportedLayout

if TYPE_CHECKING:
    from zeroconsolidate.adapters.peft_config import PeftConfig
    from zeroconsolidate.plan.build import Source

# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "module", "adapter", "in_model"),
    [
        ("base_model.model.q.base_layer.weight", Kind.OWN, "q.weight", None, "q.weight"),
        ("base_model.model.q.lora_A.x.weight", Kind.TUNER, "q", "x", "q"),
        ("base_model.model.h.original_module.weight", Kind.ORIGINAL, "h.weight", None, "h.weight"),
        ("base_model.model.h.modules_to_save.x.weight", Kind.SAVED, "h.weight", "x", "h.weight"),
        ("base_model.model.e.token_adapter.base_layer.weight", Kind.OWN, "e.weight", None, "e.weight"),
        ("base_model.lora_A.x", Kind.SHARED, "base_model.lora_A.x", "x", "base_model.lora_A.x"),
        ("value_head.weight", Kind.BESIDE, "value_head.weight", None, "value_head.weight"),
    ],
)
def test_what_a_name_stands_for(name: str, kind: Kind, module: str, adapter: str | None, in_model: str):
    parts = take_apart([name, "base_model.model.w"], ("lora_",))
    part = parts[name]
    assert (part.kind, part.module, part.adapter) == (kind, module, adapter)
    assert part.in_model == in_model
    assert adapters_in(parts.values()) == ((adapter,) if adapter else ())


def test_what_the_trainer_wrapped_around_stands_before():
    name = "model.base_model.model.q.lora_A.x.weight"
    part = take_apart([name], ("lora_",))[name]
    assert (part.wrapper, part.in_model) == ("model.", "model.q")


def test_a_model_that_was_adapted_in_place_has_no_prefix():
    part = take_apart(["q.lora_A.x.weight"], ("lora_",))["q.lora_A.x.weight"]
    assert (part.kind, part.module, part.wrapper) == (Kind.TUNER, "q", "")


# --- configurations ---------------------------------------------------------------------------------------------------


def test_ranks_and_scales_may_differ_by_module():
    made = config(rank_pattern={"q": 8}, alpha_pattern={"k": 1}, use_rslora=False)
    assert [made.rank_of(name) for name in ("m.q", "q", "xq")] == [8, 8, 2]
    assert [made.scale_of(name) for name in ("q", "k", "v")] == [0.5, 0.5, 2]
    assert config(use_rslora=True).scale_of("q") == pytest.approx(4 / 2**0.5)


def test_trained_tokens_are_by_module_or_for_the_embedding():
    assert config(trainable_token_indices=[3, 5]).tokens_of("anything") == (3, 5)
    by_module = config(trainable_token_indices={"embed": [1]})
    assert (by_module.tokens_of("m.embed"), by_module.tokens_of("m.other")) == ((1,), None)
    assert config().tokens_of("embed") is None


def test_names_may_be_one():
    assert config(target_parameters="gate_up_proj").target_parameters == ("gate_up_proj",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"r": 0}, "'r' is not a rank; expected at least 1, got 0"),
        ({"lora_alpha": "4"}, "'lora_alpha' is not a positive number"),
        ({"target_parameters": [7]}, "'target_parameters' is not a list of names"),
        ({"trainable_token_indices": [-1]}, "the token indices are not a list of row numbers"),
    ],
)
def test_configurations_that_make_no_sense(content: dict[str, Any], message: str):
    with pytest.raises(DamagedFile, match=message):
        config(**content)


# --- an adapter's own file --------------------------------------------------------------------------------------------


def files(named: dict[str, Source], *, ties: dict[str, str] | None = None, **configs: PeftConfig) -> Any:
    return adapter_files(named, take_apart(named, ("lora_", "ranknum")), ties or {}, configs or {"default": config()})


def test_the_file_has_the_adapters_parameters_without_its_name():
    named = lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3)}
    (made,), outside = files(named)
    assert list(made.tensors) == [f"{PEFT}q.lora_A.weight", f"{PEFT}q.lora_B.weight"]
    assert (made.folder, outside) == ("", ())


def test_what_is_trained_beside_the_adapters_goes_into_no_file():
    _, outside = files(lora("q", 4, 3) | {f"{PEFT}norm.weight": trained(3), "head.weight": trained(3)})
    assert outside == (f"{PEFT}norm.weight", "head.weight")


@pytest.mark.parametrize(("bias", "saved"), [("none", 0), ("all", 2), ("lora_only", 1)])
def test_biases_as_the_configuration_says(bias: str, saved: int):
    biases = {f"{PEFT}q.base_layer.bias": trained(4), f"{PEFT}norm.bias": trained(4)}
    (made,), _ = files(lora("q", 4, 3) | biases, default=config(bias=bias))
    assert len(made.tensors) == 2 + saved


@pytest.mark.parametrize(("targets", "beside"), [(["embed_tokens"], True), (".*embed_tokens", True), (["q"], False)])
def test_an_embedding_with_an_adapter_is_saved_beside_it(targets: Any, beside: bool):
    named = lora("m.embed_tokens", 4, 3) | {f"{PEFT}m.embed_tokens.base_layer.weight": stored(4, 3)}
    named[f"{PEFT}m.q.base_layer.weight"] = stored(4, 3)
    (made,), _ = files(named, default=config(target_modules=targets))
    assert (f"{PEFT}m.embed_tokens.base_layer.weight" in made.tensors) is beside
    assert f"{PEFT}m.q.base_layer.weight" not in made.tensors


def test_dora_magnitudes_have_no_weight_in_a_file():
    named = lora("q", 4, 3) | {f"{PEFT}q.lora_magnitude_vector.default.weight": trained(4)}
    (made,), _ = files(named)
    assert f"{PEFT}q.lora_magnitude_vector" in made.tensors


@pytest.mark.parametrize("content", [{"peft_type": "OTHER"}, {"peft_type": "ADALORA", "rank_pattern": {"q": 1}}])
def test_kinds_whose_file_is_computed(content: dict[str, Any]):
    with pytest.raises(UnsupportedLayout, match="whose file holds what PEFT computes from its parameters; --lora keep"):
        files(lora("q", 4, 3), default=config(**content))


def test_adaloras_own_bookkeeping_is_left_out():
    (made,), _ = files(lora("q", 4, 3) | {f"{PEFT}q.ranknum.default": stored(1)}, default=config(peft_type="ADALORA"))
    assert len(made.tensors) == 2


def test_an_adapter_of_which_nothing_is_there():
    with pytest.raises(BadOption, match="holds no parameter of the adapter 'other'"):
        files(lora("q", 4, 3), other=config())


def test_several_adapters_have_folders():
    both = lora("q", 4, 3, adapter="x") | lora("q", 4, 3, adapter="default")
    made, _ = files(both, x=config(), default=config())
    assert [file.folder for file in made] == ["x", ""]


def test_adapters_that_were_not_chosen_and_what_lies_beside():
    named = lora("q", 4, 3) | lora("q", 4, 3, adapter="x") | {"v_head.weight": trained(1, 4)}
    named["base_model.lora_A.default"] = trained(2, 2)  # as VeRA shares it: each module has it too
    model = collect(named, take_apart(named, ("lora_",)), {}, {"default": config()})
    assert model.left_out == [f"{PEFT}q.lora_A.x.weight", f"{PEFT}q.lora_B.x.weight"]
    assert list(model.beside) == ["v_head.weight"]
    assert list(model.wrappers["q"][0]) == ["default"]


# --- how a product lies in a weight -----------------------------------------------------------------------------------


def lie(a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, ...], *, embeds: bool = False, **content: Any) -> Lie:
    names = ("lora_embedding_A", "lora_embedding_B") if embeds else ("lora_A.weight", "lora_B.weight")
    factors = dict(zip(names, (trained(*a), trained(*b)), strict=True))
    return low_rank("default", config(**content), "q", factors, shape, of_parameter=False).lie


@pytest.mark.parametrize(
    ("a", "b", "shape", "content", "expected"),
    [
        ((2, 3), (4, 2), (4, 3), {}, Lie.ROWS),
        ((2, 3), (4, 2), (3, 4), {}, Lie.COLUMNS),
        ((2, 3), (3, 2), (3, 3), {}, Lie.ROWS),
        ((2, 3), (3, 2), (3, 3), {"fan_in_fan_out": True}, Lie.COLUMNS),
        ((10, 3), (4, 10), (5, 4, 3), {}, Lie.EXPERTS),
        ((10, 3), (4, 10), (5, 3, 4), {}, Lie.EXPERTS_TRANSPOSED),
        ((2, 3), (4, 2), (1, 4, 3), {}, Lie.ROWS),
        ((2, 3, 5, 5), (4, 2, 1, 1), (4, 3, 5, 5), {}, Lie.CONVOLUTION),
    ],
)
def test_how_a_product_lies_in_a_weight(a: Any, b: Any, shape: Any, content: dict[str, Any], expected: Lie):
    assert lie(a, b, shape, **content) is expected


def test_an_embeddings_product_is_transposed():
    assert lie((2, 9), (3, 2), (9, 3), embeds=True) is Lie.EMBEDDING


@pytest.mark.parametrize(
    ("a", "b", "shape", "embeds"),
    [
        ((2, 3), (4, 2), (4, 5), False),
        ((3, 3), (4, 3), (4, 3), False),  # of another rank than the configuration says
        ((9, 3), (4, 9), (5, 4, 3), False),
        ((10, 3), (4, 10), (5, 7, 7), False),
        ((2, 3), (4, 2), (1, 7, 7), False),
        ((2, 3), (4, 2), (4,), False),
        ((2, 3, 5, 5), (4, 2, 1, 1), (4, 3, 3, 3), False),
        ((2, 8), (3, 2), (9, 3), True),
    ],
)
def test_factors_that_do_not_fit(a: Any, b: Any, shape: Any, embeds: bool):
    with pytest.raises(Disagreement, match="does not fit the weight it belongs to; expected A and B of rank 2"):
        lie(a, b, shape, embeds=embeds)


def test_half_of_the_factors():
    with pytest.raises(Disagreement, match=r"lacks one of its two factors; expected A and B, got lora_A\.weight"):
        low_rank("default", config(), "q", {"lora_A.weight": trained(2, 3)}, (4, 3), of_parameter=False)


def test_dora_of_a_stack_of_experts():
    factors = {"lora_A.weight": trained(10, 3), "lora_B.weight": trained(4, 10), "lora_magnitude_vector": trained(4)}
    with pytest.raises(UnsupportedLayout, match="no DoRA for stacked experts"):
        low_rank("default", config(), "q", factors, (5, 4, 3), of_parameter=True)


def test_nested_wrappers_are_the_parameters_from_inside_out():
    up = {"default": {"lora_A.weight": trained(10, 3), "lora_B.weight": trained(8, 10)}}
    down = {"default": {"lora_A.weight": trained(10, 4), "lora_B.weight": trained(3, 10)}}
    shapes = {"gate_up_proj": (5, 8, 3), "down_proj": (5, 3, 4)}
    order = ["gate_up_proj", "down_proj"]
    assert in_order({0: down, 1: up}, order, shapes) == {"gate_up_proj": 1, "down_proj": 0}
    with pytest.raises(Disagreement, match=r"does not fit the parameter gate_up_proj of shape \(5, 8, 3\)"):
        in_order({0: up, 1: down}, order, shapes)
    with pytest.raises(Disagreement, match=r"names 2 parameters here .*, but there are 1 adapters"):
        in_order({0: down}, order, shapes)
