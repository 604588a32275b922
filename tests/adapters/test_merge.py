"""Adapters in memory: what is added to which weight, where the weight comes from, and what is left to PEFT."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from adapted import PEFT, config, lora, merge, recipes, stored, trained
from catalogs import BF16, tensor

from zeroconsolidate.adapters.original import Original
from zeroconsolidate.adapters.recipes import Lie, Merged, OfModule, RowsReplaced, Shifted
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import BadOption, Disagreement, PlanBroken, UnsupportedLayout
from zeroconsolidate.plan.pieces import Rows, View

if TYPE_CHECKING:
    from zeroconsolidate.plan.build import Source

# --- merging ----------------------------------------------------------------------------------------------------------


def test_a_product_is_added_to_its_weight():
    result = merge(lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3), f"{PEFT}norm.weight": stored(3)})
    made = recipes(result)
    assert isinstance(made["q.weight"], Merged)
    assert isinstance(made["norm.weight"], View)
    assert (result.merged, result.replaced) == (1, 0)
    assert result.from_checkpoint == {"q.weight": "float32", "norm.weight": "float32"}


def test_several_adapters_are_merged_in_their_order_where_they_are():
    named = lora("q", 4, 3, adapter="y") | lora("q", 4, 3, adapter="x") | lora("k", 4, 3, adapter="y")
    named |= {f"{PEFT}{module}.base_layer.weight": stored(4, 3) for module in ("q", "k")}
    made = recipes(merge(named, configs={"x": config(), "y": config()}))
    assert [part.adapter for part in made["q.weight"].parts] == ["x", "y"]
    assert [part.adapter for part in made["k.weight"].parts] == ["y"]


def test_a_pattern_that_is_of_no_known_kind():
    with pytest.raises(UnsupportedLayout, match=r"a pattern of the adapter has an unknown type"):
        config(rank_pattern={"(q": 4}).rank_of("q")


def test_a_parameter_that_was_targeted_is_added_to_by_its_own_wrapper():
    """The parameters of a module have wrappers in one another; the original's files tell their order."""
    up = {f"{PEFT}experts.base_layer.lora_A.default.weight": trained(4, 3),
          f"{PEFT}experts.base_layer.lora_B.default.weight": trained(8, 4)}  # fmt: skip
    down = {
        f"{PEFT}experts.lora_A.default.weight": trained(4, 4),
        f"{PEFT}experts.lora_B.default.weight": trained(3, 4),
    }
    configs = {"default": config(target_parameters=["experts.gate_up_proj", "experts.down_proj"])}
    original = {"experts.gate_up_proj": tensor(2, 8, 3), "experts.down_proj": tensor(2, 3, 4)}
    made = recipes(merge(up | down, configs=configs, original=original))
    assert {name: recipe.parts[0].lie for name, recipe in made.items()} == {
        "experts.gate_up_proj": Lie.EXPERTS, "experts.down_proj": Lie.EXPERTS
    }  # fmt: skip
    matrix = {f"{PEFT}m.lora_A.default.weight": trained(2, 3), f"{PEFT}m.lora_B.default.weight": trained(4, 2)}
    alone = {"default": config(target_parameters=["m.weight"])}
    made = recipes(merge(matrix | {f"{PEFT}m.base_layer.weight": stored(4, 3)}, configs=alone))
    assert made["m.weight"].parts[0].rounds_first


def test_a_tied_weight_is_written_once_with_what_either_name_adds():
    named = lora("h", 9, 3) | {f"{PEFT}e.weight": stored(9, 3)}
    ties = {f"{PEFT}h.base_layer.weight": f"{PEFT}e.weight", "lost.alias": f"{PEFT}e.weight"}
    for copy_ties in (False, True):
        made = recipes(merge(named, ties=ties, copy_ties=copy_ties))
        assert {name: type(recipe) for name, recipe in made.items()} == {"e.weight": Merged}


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_added_to_the_head_is_not_added_to_an_embedding_that_was_saved_whole(*, frozen: bool):
    """LoRA on the head of a tied model whose embedding is in modules_to_save: they are no longer one tensor."""
    saved = trained(9, 3, key="saved")
    named = lora("h", 9, 3) | {f"{PEFT}e.modules_to_save.default.weight": saved}
    held = {f"{PEFT}e.original_module.weight": stored(9, 3)}
    ties = {f"{PEFT}h.base_layer.weight": f"{PEFT}e.original_module.weight"}
    result = merge(named | (held if frozen else {}), ties=ties, original={"e.weight": tensor(9, 3, key="base")})
    made = recipes(result)
    assert made["e.weight"] == saved.recipe
    assert isinstance(made["h.weight"], Merged)
    assert result.merged == 1


def test_a_tensor_that_was_trained_under_two_names_is_written_once_unless_asked():
    """modules_to_save of a tied model: both names stand for one tensor of the checkpoint."""
    both = trained(9, 3, key="one")
    named = {f"{PEFT}{module}.modules_to_save.default.weight": both for module in ("e", "h")}
    result = merge(named)
    assert (list(result.selection.named), result.selection.left_out) == (["e.weight"], ("h.weight",))
    assert list(merge(named, copy_ties=True).selection.named) == ["e.weight", "h.weight"]


def test_a_tied_base_has_one_of_the_names():
    """The frozen copy of the other is in the save, and is not what the base would round to."""
    named = lora("q", 4, 3) | {f"{PEFT}e.weight": stored(9, 3, dtype=BF16), f"{PEFT}h.weight": stored(9, 3, dtype=BF16)}
    ties = {f"{PEFT}h.weight": f"{PEFT}e.weight"}
    for kept in ("e.weight", "h.weight"):
        original = {"q.weight": tensor(4, 3), kept: tensor(9, 3, key="base")}
        result = merge(named, ties=ties, original=original)
        assert list(recipes(result)) == ["q.weight", kept]
        assert (result.untied, result.from_checkpoint) == ((), {})
    both = {"q.weight": tensor(4, 3)} | dict.fromkeys(("e.weight", "h.weight"), tensor(9, 3))
    into_both = recipes(merge(lora("h", 9, 3) | named, ties=ties, original=both))
    assert isinstance(into_both["e.weight"], Merged)
    assert into_both["e.weight"] == into_both["h.weight"]


def test_rows_that_the_run_added_come_from_its_frozen_copies():
    """A bias or a buffer of as many tokens, too; a classifier that has other labels is another one."""
    named = lora("q", 4, 3) | {
        f"{PEFT}embed_tokens.weight": stored(9, 3, dtype=BF16),
        f"{PEFT}predictions.bias": stored(9, dtype=BF16),
        f"{PEFT}tokens_bias": stored(1, 9, role="buffer"),
        f"{PEFT}positions": stored(1, 8, role="buffer"),
        f"{PEFT}classifier.weight": stored(4, 3, dtype=BF16),
    }
    original = {
        "q.weight": tensor(4, 3),
        "embed_tokens.weight": tensor(6, 3, key="base"),
        "predictions.bias": tensor(6, key="base bias"),
        "tokens_bias": tensor(1, 6),
        "positions": tensor(1, 4),
        "classifier.weight": tensor(2, 3),
    }
    result = merge(named, original=original)
    made = recipes(result)
    own = named[f"{PEFT}embed_tokens.weight"].recipe
    assert made["embed_tokens.weight"] == Rows(
        (View(original["embed_tokens.weight"]), own), 1, ((0, 0, 18), (1, 18, 9))
    )
    assert (made["embed_tokens.weight"].dtype, result.selection.named["embed_tokens.weight"].shape) == (
        DType.F32,
        (9, 3),
    )
    assert made["predictions.bias"].runs == ((0, 0, 6), (1, 6, 3))
    assert made["tokens_bias"] == named[f"{PEFT}tokens_bias"].recipe
    assert made["positions"] == View(original["positions"])
    assert made["classifier.weight"] == named[f"{PEFT}classifier.weight"].recipe
    assert set(result.added_rows) == {"embed_tokens.weight", "predictions.bias"}
    assert result.unproven["embed_tokens.weight"] == (View(original["embed_tokens.weight"]), own)


@pytest.mark.parametrize("turned", [True, False])
def test_a_square_weight_lies_as_its_siblings_do(turned: bool):
    """PEFT's flag is of the last module that it met: beside a head that is a Linear it is false, of a Conv1D too."""
    wide = (4, 12) if turned else (12, 4)
    named = lora("h.0.c_proj", 4, 4) | lora("head", 4, 4) | {
        f"{PEFT}h.0.c_proj.base_layer.weight": stored(4, 4),
        f"{PEFT}head.base_layer.weight": stored(4, 4),
        f"{PEFT}h.0.c_attn.weight": stored(*wide),
        f"{PEFT}h.0.c_attn.bias": stored(12),
    }  # fmt: skip
    for original in (None, {"h.0.c_attn.weight": tensor(*wide), "h.0.c_attn.bias": tensor(12)}):
        made = recipes(merge(named, configs={"default": config(fan_in_fan_out=False)}, original=original))
        assert made["h.0.c_proj.weight"].parts[0].lie is (Lie.COLUMNS if turned else Lie.ROWS)
        assert made["head.weight"].parts[0].lie is Lie.ROWS


@pytest.mark.parametrize("kept", ["e.weight", "h.weight"])
def test_what_is_not_the_base_s_stands_in_the_place_of_the_base_s_own(kept: str):
    """Of a tied model the base has one of the names, and the run may have stored it under the other: written beside
    the base's tensor, which a loader takes for both, it would be lost."""
    h, e = f"{PEFT}h.base_layer.weight", f"{PEFT}e.weight"
    original = {"q.weight": tensor(4, 3), kept: tensor(9, 3, key="base")}
    configs = {"default": config(init_lora_weights="olora")}
    named = lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3)}
    named |= lora("h", 9, 3) | {h: stored(9, 3, key="altered")}
    result = merge(named, configs=configs, ties={e: h}, original=original)
    assert set(recipes(result)) == {"q.weight", kept}
    assert isinstance(recipes(result)[kept], Merged)
    assert list(result.ties.values()) == [kept]


@pytest.mark.parametrize("frozen", [True, False])
def test_each_name_of_a_shared_embedding_is_written_once_they_part(*, frozen: bool):
    """modules_to_save of T5's `shared`, of which encoder and head have the original: config.json then ties nothing."""
    named = {f"{PEFT}shared.modules_to_save.default.weight": trained(9, 3)}
    held = {f"{PEFT}shared.original_module.weight": stored(9, 3)} | {
        f"{PEFT}{alias}.weight": stored(9, 3) for alias in ("encoder", "head")
    }
    ties = {f"{PEFT}{alias}.weight": f"{PEFT}shared.original_module.weight" for alias in ("encoder", "head")}
    base = tensor(9, 3, key="base")
    result = merge(named | (held if frozen else {}), ties=ties, original={"shared.weight": base})
    assert set(result.untied) == {"encoder.weight", "head.weight"}
    made = recipes(result)
    assert set(made) == {"shared.weight", "encoder.weight", "head.weight"}
    assert made["encoder.weight"] == made["head.weight"] == View(base)
    assert made["shared.weight"] != View(base)


def test_what_the_base_has_no_place_for_is_told_apart():
    named = {f"{PEFT}head.modules_to_save.default.weight": trained(2, 3), f"{PEFT}counter": stored(1, role="buffer")}
    result = merge(lora("q", 4, 3) | named, original={"q.weight": tensor(4, 3)})
    assert result.unknown == ("head.weight",)


def test_a_convolution_is_merged_whole():
    named = {
        f"{PEFT}c.lora_A.default.weight": trained(2, 3, 5, 5),
        f"{PEFT}c.lora_B.default.weight": trained(4, 2, 1, 1),
        f"{PEFT}c.base_layer.weight": stored(4, 3, 5, 5),
    }
    made = recipes(merge(named))["c.weight"]
    assert (made.row_numel, made.rows, made.blocks()) == (75, 4, (0, 4))


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
    with pytest.raises(Disagreement, match=r"a trained token is not a row of the embedding; its shape is \(9, 3\)"):
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


def quantized(*, role: str = "frozen") -> dict[str, Source]:
    """A linear module in 4 bits, as bitsandbytes and DeepSpeed save it."""
    copy = stored(6, 1, role=role, dtype=DType.U8)
    beside = {"absmax": stored(1), "quant_map": stored(16), "quant_state.bitsandbytes__nf4": stored(9, dtype=DType.U8)}
    held = {f"{PEFT}q.base_layer.weight.{key}": replace(source, role="buffer") for key, source in beside.items()}
    return {f"{PEFT}q.base_layer.weight": copy} | held


def test_a_quantized_base_is_refused():
    with pytest.raises(
        UnsupportedLayout, match=r"the base weight in the checkpoint is quantized \(int8\); .*; name the original model"
    ):
        merge(lora("q", 4, 3) | {f"{PEFT}q.base_layer.weight": stored(4, 3, dtype=DType.I8)})
    with pytest.raises(UnsupportedLayout, match=r"--base; base has no such weight"):
        merge(lora("q", 4, 3) | quantized(), original={"k.weight": tensor(4, 3)})
    with pytest.raises(UnsupportedLayout, match=r"'loftq' .* the checkpoint holds the changed ones quantized"):
        configs = {"default": config(init_lora_weights="loftq")}
        merge(lora("q", 4, 3) | quantized(), configs=configs, original={"q.weight": tensor(4, 3)})


@pytest.mark.parametrize("role", ["frozen", "buffer"])
def test_a_quantized_copy_gives_way_to_the_original(role: str):
    """Whatever its shape is, it is not the base, nor a witness of it; what belongs to it stays away."""
    result = merge(lora("q", 4, 3) | quantized(role=role), original={"q.weight": tensor(4, 3)})
    assert {name: type(recipe) for name, recipe in recipes(result).items()} == {"q.weight": Merged}
    assert (result.from_checkpoint, result.unproven) == ({}, {})


def test_two_adapters_that_trained_the_same_module():
    saved = {f"{PEFT}h.modules_to_save.{adapter}.weight": trained(4, 3) for adapter in ("x", "y")}
    with pytest.raises(BadOption, match="the adapters x, y have each trained their own copy of this module"):
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
    with pytest.raises(UnsupportedLayout, match="DoRA of an embedding and a head that share one weight"):
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
        with pytest.raises(UnsupportedLayout, match="adapters of kind IA3 are merged by PEFT one at a time"):
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
    with pytest.raises(BadOption, match="initialised by 'pissa' changes the base weights before training"):
        merge(
            lora("q", 4, 3), configs={"default": config(init_lora_weights="pissa")}, original={"q.weight": tensor(4, 3)}
        )


def test_how_the_originals_names_differ():
    def note(wanted: list[str], *names: str) -> str | None:
        return Original({name: tensor(1) for name in names}, "base", wanted).prefix_note

    assert (
        note(["layers.0.w"], "model.layers.0.w") == "prefix 'model.' added to the trained names, as in the base model"
    )
    assert note(["model.layers.0.w"], "layers.0.w") == (
        "prefix 'model.' removed from the trained names, as in the base model"
    )
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
    assert [recipe.input_bytes for recipe in (merged, shifted, replaced, of_module)] == [
        4 * (12 + 6 + 8), 4 * (4 + 4), 4 * (27 + 3), 4 * (12 + 4)
    ]  # fmt: skip
    for recipe in (merged, shifted, replaced, of_module):
        assert not recipe.is_copied
        assert not recipe.is_plain
        assert recipe.memory_bytes > 0
        # Rows of it are computed too; half of them read half.
        half = Rows((recipe,), 1, ((0, 0, recipe.numel // 2),))
        assert not half.is_copied
        assert half.input_bytes == recipe.input_bytes * (recipe.numel // 2) // recipe.numel
        assert half.memory_bytes == recipe.memory_bytes
    assert Rows((View(tensor(4)),), 1, ((0, 0, 2),)).is_copied


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
