"""Adapters in memory: what PEFT's names mean, which tensors make an adapter's file, what is added to which weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from catalogs import BF16, tensor

from zeroconsolidate.catalog.peft_config import PeftConfig, read_peft_config
from zeroconsolidate.catalog.wrapping import Kind, adapters_in, take_apart
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import BadOption, DamagedFile, Disagreement, PlanBroken, UnsupportedLayout
from zeroconsolidate.plan.adapter import adapter_files
from zeroconsolidate.plan.additions import in_order, low_rank
from zeroconsolidate.plan.build import Source
from zeroconsolidate.plan.merge import Merger, MergeResult
from zeroconsolidate.plan.merging import Lie, Merged, OfModule, RowsReplaced, Shifted, is_computed, memory_bytes, nbytes
from zeroconsolidate.plan.original import Original
from zeroconsolidate.plan.pieces import Rows, View
from zeroconsolidate.plan.wrapped import collect

PEFT = "base_model.model."


def stored(*shape: int, role: str = "frozen", dtype: DType = DType.F32, key: str = "0") -> Source:
    return Source(name=key, shape=shape, recipe=View(tensor(*shape, dtype=dtype, key=key)), role=role)


def trained(*shape: int, key: str = "0") -> Source:
    return stored(*shape, role="trainable", key=key)


def config(**content: Any) -> PeftConfig:
    return read_peft_config({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | content)


def lora(module: str, outputs: int, inputs: int, *, rank: int = 2, adapter: str = "default") -> dict[str, Source]:
    """The factors of one linear module."""
    return {
        f"{PEFT}{module}.lora_A.{adapter}.weight": trained(rank, inputs, key=f"{module} A"),
        f"{PEFT}{module}.lora_B.{adapter}.weight": trained(outputs, rank, key=f"{module} B"),
    }


def merge(
    named: dict[str, Source],
    *,
    configs: dict[str, PeftConfig] | None = None,
    ties: dict[str, str] | None = None,
    original: dict[str, Any] | None = None,
    directories: tuple[str, str] | None = ("model", "adapter"),
    copy_ties: bool = False,
) -> MergeResult:
    configs = {"default": config()} if configs is None else configs
    parts = take_apart([*named, *(ties or {})], ("lora_", "ia3_"))
    model = collect(named, parts, ties or {}, configs)
    base = None if original is None else Original(original, "base", model.own or ["q.weight"])
    return Merger(model, configs, base, None, directories).result(copy_ties=copy_ties)


def recipes(result: MergeResult) -> dict[str, Any]:
    return {name: source.recipe for name, source in result.selection.named.items()}


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


@pytest.mark.parametrize("content", [{"peft_type": "VERA"}, {"peft_type": "ADALORA", "rank_pattern": {"q": 1}}])
def test_kinds_whose_file_is_more_than_their_parameters(content: dict[str, Any]):
    with pytest.raises(UnsupportedLayout, match="whose file holds more than its parameters; --lora keep"):
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


def test_several_peft_models_in_one_checkpoint():
    names = {f"{side}.{PEFT}q.lora_A.default.weight": trained(2, 3) for side in ("query", "passage")}
    with pytest.raises(Disagreement, match=r"holds several PEFT models, behind passage\., query\."):
        collect(names, take_apart(names, ("lora_",)), {}, {"default": config()})


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
    with pytest.raises(Disagreement, match=r"only half of its factors here; expected A and B, got lora_A\.weight"):
        low_rank("default", config(), "q", {"lora_A.weight": trained(2, 3)}, (4, 3), of_parameter=False)


def test_dora_of_a_stack_of_experts():
    factors = {"lora_A.weight": trained(10, 3), "lora_B.weight": trained(4, 10), "lora_magnitude_vector": trained(4)}
    with pytest.raises(UnsupportedLayout, match="DoRA of a stack of experts"):
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


# --- merging ----------------------------------------------------------------------------------------------------------


def test_a_product_is_added_to_its_weight():
    result = merge(lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3), f"{PEFT}norm.weight": stored(3)})
    made = recipes(result)
    assert isinstance(made["q.weight"], Merged)
    assert isinstance(made["norm.weight"], View)
    assert (result.merged, result.replaced) == (1, 0)
    assert result.from_checkpoint == {"q.weight": "float32", "norm.weight": "float32"}


def test_a_bias_of_the_adapter_is_added_to_the_modules():
    named = lora("q", 4, 3) | {f"{PEFT}q.lora_B.default.bias": trained(4), f"{PEFT}q.base_layer.weight": stored(4, 3)}
    made = recipes(merge(named | {f"{PEFT}q.base_layer.bias": stored(4)}))
    assert isinstance(made["q.bias"], Shifted)
    assert made["q.bias"].shifts[0][1] == 2
    with pytest.raises(
        BadOption, match=r"is not in the checkpoint .*name the original model with --base \(at q.bias\)"
    ):
        merge(named)


def test_trained_tokens_take_the_places_of_rows():
    tokens = {"default": config(trainable_token_indices=[1, 8])}
    named = {
        f"{PEFT}e.token_adapter.base_layer.weight": stored(9, 3),
        f"{PEFT}e.token_adapter.trainable_tokens_delta.default": trained(2, 3),
    }
    made = recipes(merge(named, configs=tokens))
    assert isinstance(made["e.weight"], RowsReplaced)
    assert made["e.weight"].replacements[0][0] == (1, 8)
    with pytest.raises(Disagreement, match=r"the trained tokens of 'default' do not fit .* expected 1 rows, got 2"):
        merge(named, configs={"default": config(trainable_token_indices=[1])})
    with pytest.raises(Disagreement, match="expected 0 rows, got 2"):
        merge(named)
    with pytest.raises(Disagreement, match=r"the trained tokens are beyond the embedding; its shape is \(9, 3\)"):
        merge(named, configs={"default": config(trainable_token_indices=[1, 9])})


def test_the_head_of_a_tied_model_has_the_embeddings_rows():
    tokens = {"default": config(trainable_token_indices={"e": [1]})}
    named = {
        f"{PEFT}e.token_adapter.base_layer.weight": stored(9, 3),
        f"{PEFT}e.token_adapter.trainable_tokens_delta.default": trained(1, 3),
        f"{PEFT}h.token_adapter.trainable_tokens_delta.default": trained(1, 3),
    }
    ties = {f"{PEFT}h.token_adapter.base_layer.weight": f"{PEFT}e.token_adapter.base_layer.weight"}
    assert list(recipes(merge(named, configs=tokens, ties=ties))) == ["e.weight"]


def test_a_parameter_of_an_adapter_that_is_not_known():
    odd = {f"{PEFT}q.trainable_tokens_scale.default": trained(1), f"{PEFT}q.base_layer.weight": stored(4, 3)}
    with pytest.raises(UnsupportedLayout, match="not known how to merge trainable_tokens_scale of the adapter"):
        merge(lora("q", 4, 3) | odd)


def test_a_quantized_base_is_refused():
    with pytest.raises(UnsupportedLayout, match=r"the base weight is quantized \(int8\); name the original model"):
        merge(lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3, dtype=DType.I8)})


def test_two_adapters_that_trained_the_same_module():
    saved = {f"{PEFT}h.modules_to_save.{adapter}.weight": trained(4, 3) for adapter in ("x", "y")}
    with pytest.raises(BadOption, match="the adapters x, y have each trained a module of their own here"):
        merge(saved, configs={"x": config(), "y": config()})


def test_a_module_trained_whole_takes_the_place_of_the_original():
    named = {f"{PEFT}h.modules_to_save.default.weight": trained(4, 3), f"{PEFT}h.original_module.weight": stored(4, 3)}
    result = merge(named)
    assert result.selection.named["h.weight"].role == "trainable"
    assert result.replaced == 1


def test_dora_of_an_embedding_and_a_head_that_share_a_weight():
    named = lora("h", 9, 3) | {
        f"{PEFT}h.lora_magnitude_vector.default.weight": trained(9),
        f"{PEFT}e.lora_embedding_A.default": trained(2, 9),
        f"{PEFT}e.lora_embedding_B.default": trained(3, 2),
        f"{PEFT}e.lora_magnitude_vector.default": trained(3),
        f"{PEFT}e.base_layer.weight": stored(9, 3),
    }
    ties = {f"{PEFT}h.base_layer.weight": f"{PEFT}e.base_layer.weight"}
    with pytest.raises(UnsupportedLayout, match="DoRA of an embedding and of a head that share one weight"):
        merge(named, ties=ties)


def test_target_parameters_of_which_nothing_is_there():
    with pytest.raises(BadOption, match=r"is not in the checkpoint .*\(at q\)"):
        merge(lora("q", 4, 3), configs={"default": config(target_parameters=["q.up"])})


def test_a_target_that_matches_modules_without_such_a_parameter():
    """`down_proj` may be a parameter of experts, and is a module elsewhere."""
    named = lora("down_proj", 4, 3) | {f"{PEFT}down_proj.base_layer.weight": stored(4, 3)}
    assert isinstance(
        recipes(merge(named, configs={"default": config(target_parameters=["down_proj"])}))["down_proj.weight"], Merged
    )


# --- kinds that PEFT merges -------------------------------------------------------------------------------------------


def ia3() -> dict[str, Source]:
    return {f"{PEFT}q.ia3_l.default": trained(4, 1), f"{PEFT}q.base_layer.weight": stored(4, 3)}


def test_other_kinds_are_left_to_peft_a_module_at_a_time():
    named = ia3() | {f"{PEFT}q.base_layer.bias": stored(4)}
    made = recipes(merge(named, configs={"default": config(peft_type="IA3")}))
    assert {type(recipe) for recipe in made.values()} == {OfModule}
    job = made["q.weight"].job
    assert [one.name for one in job.tensors] == ["base_layer.weight", "base_layer.bias", "ia3_l.default"]
    assert job.setting == ("model", "adapter", "default", "float32")
    assert made["q.bias"].job is job


def test_peft_needs_the_models_configuration_and_one_adapter():
    kind = config(peft_type="IA3")
    for how in ({"directories": None, "configs": {"default": kind}}, {"configs": {"default": kind, "x": kind}}):
        with pytest.raises(UnsupportedLayout, match="adapters of kind IA3 are merged by PEFT, one at a time"):
            merge(ia3(), **how)  # type: ignore[arg-type]


def test_a_module_whose_weight_is_nowhere():
    only = {f"{PEFT}q.ia3_l.default": trained(4, 1)}
    with pytest.raises(BadOption, match="is not in the checkpoint"):
        merge(only, configs={"default": config(peft_type="IA3")})


# --- the original model -----------------------------------------------------------------------------------------------


def test_untrained_weights_come_from_the_original():
    named = lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3, dtype=BF16)}
    result = merge(named, original={"model.q.weight": tensor(4, 3), "model.k.weight": tensor(4, 3)})
    assert list(result.selection.named) == ["model.q.weight", "model.k.weight"]
    assert list(result.unproven) == ["q.weight"]
    assert result.from_checkpoint == {}


def test_a_buffer_that_the_originals_files_do_without_is_left_out():
    named = lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3), f"{PEFT}inv_freq": stored(2, role="buffer")}
    assert list(recipes(merge(named, original={"q.weight": tensor(4, 3)}))) == ["q.weight"]


def test_an_original_that_lacks_the_weight_names_the_nearest():
    with pytest.raises(BadOption, match=r"in base has no weight q\.weight; the nearest names there are q_proj\.weight"):
        merge(lora("q", 4, 3), original={"q_proj.weight": tensor(4, 3)})


def test_an_adapter_whose_beginning_altered_the_base():
    """PiSSA takes what it begins with out of the weights: those of the original are not its."""
    with pytest.raises(BadOption, match="initialised by 'pissa' belongs to what it left of the base weights"):
        merge(
            lora("q", 4, 3), configs={"default": config(init_lora_weights="pissa")}, original={"q.weight": tensor(4, 3)}
        )


def test_how_the_originals_names_differ():
    def note(wanted: list[str], *names: str) -> str | None:
        return Original({name: tensor(1) for name in names}, "base", wanted).prefix_note

    assert note(["layers.0.w"], "model.layers.0.w") == (
        "the base's names have 'model.' before those of the trained model"
    )
    assert note(["model.layers.0.w"], "layers.0.w") == "the base's names lack 'model.' of the trained model"
    assert note(["layers.0.w"], "layers.0.w") is None


def stack(**changes: Any) -> Original:
    """Two experts as Mixtral's files have them."""
    names = {f"m.block_sparse_moe.experts.{e}.{w}.weight": tensor(4, 3) for e in (0, 1) for w in ("w1", "w3")}
    names |= {"m.block_sparse_moe.gate.weight": tensor(2, 3), "m.norm.weight": tensor(3)} | changes
    return Original({name: value for name, value in names.items() if value is not None}, "base", ["m.norm.weight"])


def test_a_stack_is_found_in_the_matrices_of_experts():
    found = stack().find("m.mlp.experts.gate_up_proj")
    assert found is not None
    assert found.source.shape == (2, 8, 3)
    assert [name.rpartition("experts.")[2] for name, _ in found.pieces] == [
        "0.w1.weight", "0.w3.weight", "1.w1.weight", "1.w3.weight"
    ]  # fmt: skip
    spread = found.spread(found.source.recipe, "trainable")
    assert [source.recipe.runs for source in spread.values()] == [((0, start, 12),) for start in (0, 12, 24, 36)]
    assert stack().find("m.mlp.gate.weight") is not None
    assert stack().in_order("m.mlp.experts", ["down_proj", "gate_up_proj"]) == ["gate_up_proj"]


@pytest.mark.parametrize(
    "changes",
    [
        {"m.block_sparse_moe.experts.1.w3.weight": None},
        {"m.block_sparse_moe.experts.1.w3.weight": tensor(12)},
        {"m.block_sparse_moe.experts.1.w3.weight": tensor(5, 3)},
        {"m.block_sparse_moe.experts.1.w3.weight": tensor(4, 3, dtype=BF16)},
        {"m.block_sparse_moe.experts.0.w1.weight": None},
    ],
)
def test_matrices_that_make_no_stack(changes: dict[str, Any]):
    assert stack(**changes).find("m.mlp.experts.gate_up_proj") is None


# --- computed recipes -------------------------------------------------------------------------------------------------


def computed() -> list[Any]:
    tokens = {"default": config(trainable_token_indices=[1])}
    rows = {f"{PEFT}e.token_adapter.base_layer.weight": stored(9, 3),
            f"{PEFT}e.token_adapter.trainable_tokens_delta.default": trained(1, 3)}  # fmt: skip
    biased = lora("q", 4, 3) | {f"{PEFT}q.lora_B.default.bias": trained(4), f"{PEFT}q.base_layer.weight": stored(4, 3),
                                f"{PEFT}q.base_layer.bias": stored(4)}  # fmt: skip
    made = recipes(merge(biased))
    module = recipes(merge(ia3(), configs={"default": config(peft_type="IA3")}))
    return [made["q.weight"], made["q.bias"], recipes(merge(rows, configs=tokens))["e.weight"], module["q.weight"]]


def test_computed_tensors_read_what_goes_into_them():
    merged, shifted, replaced, of_module = computed()
    assert [nbytes(recipe) for recipe in (merged, shifted, replaced, of_module)] == [
        4 * (12 + 6 + 8), 4 * (4 + 4), 4 * (27 + 3), 4 * (12 + 4)
    ]  # fmt: skip
    for recipe in (merged, shifted, replaced, of_module):
        assert is_computed(recipe)
        assert not recipe.is_plain
        assert memory_bytes(recipe) > 0
        # Rows of it are computed too; half of them read half.
        half = Rows((recipe,), 1, ((0, 0, recipe.numel // 2),))
        assert is_computed(half)
        assert nbytes(half) == nbytes(recipe) * (recipe.numel // 2) // recipe.numel
    assert not is_computed(Rows((View(tensor(4)),), 1, ((0, 0, 2),)))


def test_what_is_computed_has_no_copies():
    for recipe in computed():
        with pytest.raises(PlanBroken, match="computed"):
            recipe.copies()


def test_blocks_are_whole_rows_and_experts_are_not_cut_across():
    merged = computed()[0]
    assert merged.blocks() == (0, 4)
    wide = replace(merged, base=View(tensor(256, 4096)), shape=(256, 4096))
    assert wide.blocks() == (0, 128, 256)
    alone, both = ((192, 4096), (2, 96, 4096))
    assert replace(merged, base=View(tensor(*alone)), shape=alone).blocks() == (0, 192)
    assert replace(merged, base=View(tensor(*both)), shape=both).blocks() == (0, 96, 192)
