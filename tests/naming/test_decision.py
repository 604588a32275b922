"""Names, decided from what a target expects: which prefix goes, what a base model tells, and when it is an error."""

from __future__ import annotations

from typing import Any

import pytest
from catalogs import half, model, stage2, tensor

from zeroconsolidate.errors import BadOption, UnsupportedLayout
from zeroconsolidate.naming.base import filled, missing_frozen, without_parts
from zeroconsolidate.naming.decision import (
    best_change,
    best_mapping,
    decide,
    judge,
    renamed,
    unique,
    without_expectation,
)
from zeroconsolidate.naming.expectation import Expectation, Naming, complaint, is_related, outcome
from zeroconsolidate.naming.hub_layout import Conversion, to_hub
from zeroconsolidate.plan.build import Selection, Source
from zeroconsolidate.plan.sources import sources

BERT = {"embeddings.weight": (9, 4), "encoder.layer.0.weight": (4, 4), "encoder.layer.1.weight": (4, 4)}


def expecting(
    shapes: dict[str, Any], *, exact: bool = True, ties: dict[str, str] | None = None, origin: str = "config.json"
) -> Expectation:
    return Expectation(origin=origin, shapes=shapes, ties=ties or {}, exact=exact)


def prefixed(prefix: str, shapes: dict[str, Any] = BERT) -> dict[str, Any]:
    return {prefix + name: shape for name, shape in shapes.items()}


# --- against what is expected -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "expected", "how"),
    [
        (BERT, BERT, ""),
        (prefixed("model."), BERT, "prefix 'model.' removed"),
        (BERT, prefixed("bert."), "prefix 'bert.' added"),
        (prefixed("module.model."), prefixed("bert."), "prefix 'module.model.' removed, prefix 'bert.' added"),
        (prefixed("0.auto_model."), BERT, "prefix '0.auto_model.' removed"),
    ],
)
def test_the_prefix_that_makes_names_expected(stored: dict[str, Any], expected: dict[str, Any], how: str):
    naming = best_mapping(stored, {}, expecting(expected))
    assert naming.fits
    assert list(naming.mapping.values()) == list(expected)
    assert naming.change == how
    assert outcome(naming) == "names match config.json"


MASKED = {**prefixed("bert."), "cls.transform.dense.weight": (4, 4), "cls.bias": (9,)}


@pytest.mark.parametrize("by", ["best_mapping", "best_change", "filled"])
def test_what_is_in_the_place_of_a_pooler_is_no_pooler(by: str):
    """A change of prefix is a wrapper's, around the layers: the masked head's transform is not brought to the pooler
    that the class has in its place, though one more name is then expected."""
    expected = {**prefixed("bert."), "bert.pooler.dense.weight": (4, 4)}
    if by == "best_mapping":
        naming = best_mapping(MASKED, {}, expecting(expected))
        assert naming.missing == ("bert.pooler.dense.weight",)
        assert set(naming.unexpected) == {"cls.transform.dense.weight", "cls.bias"}
    elif by == "best_change":
        assert best_change([*prefixed("bert."), "cls.transform.dense.weight"], expected).prefixes == ("", "")
    else:
        base = {name: tensor(*shape) for name, shape in MASKED.items()}
        assert list(filled(Selection(named={}, left_out=()), expecting(expected), base)) == list(prefixed("bert."))


def test_wrappers_inside_of_names_go_too():
    stored = {"encoder.layer.0._checkpoint_wrapped_module.weight": (4, 4), "_orig_mod.embeddings.weight": (9, 4)}
    naming = best_mapping(stored, {}, expecting({"embeddings.weight": (9, 4), "encoder.layer.0.weight": (4, 4)}))
    assert naming.fits
    assert naming.change == "wrappers inside names removed"


def test_wrappers_that_tell_two_tensors_apart_stay():
    stored = {"a._orig_mod.w": (2,), "a.w": (2,)}
    assert list(best_mapping(stored, {}, expecting({"a.w": (2,)})).mapping) == list(stored)
    assert best_mapping(stored, {}, expecting({"a.w": (2,)})).mapping["a._orig_mod.w"] == "a._orig_mod.w"
    assert without_expectation(stored, bare=False).mapping == {name: name for name in stored}


def test_modules_called_module_inside_go_where_the_target_has_none():
    stored = {"model.embeddings.weight": (9, 4), "model.encoder.layer.0.module.module.weight": (4, 4)}
    stored["model.encoder.layer.1.weight"] = (4, 4)
    naming = best_mapping(stored, {}, expecting(BERT))
    assert naming.fits
    assert naming.change == "prefix 'model.' removed, wrappers inside names removed"
    own = {"a.module.w": (2,), "b.w": (2,)}
    assert best_mapping(own, {}, expecting(own)).fits
    assert best_mapping({"a.module.w": (2,)}, {}, expecting({"a.w": (2,), "module.w": (2,)})).missing


def test_what_a_parametrization_leaves_is_called_by_its_name():
    stored = BERT | {"encoder.layer.2.parametrizations.weight.original0": (4, 1)}
    said = str(complaint(best_mapping(stored, {}, expecting(BERT))))
    assert "parametrized weights, such as 'encoder.layer.2.parametrizations.weight.original0'" in said
    assert "remove_parametrizations" in said
    assert best_mapping(stored, {}, expecting(stored)).fits  # a model may have them itself


def test_the_first_expectation_that_is_met_decides():
    other = expecting({"x": (1,)}, origin="another")
    found = decide(prefixed("model."), {}, [other, expecting(BERT), expecting(prefixed("model."))])
    assert found is not None
    assert outcome(found) == "names match config.json"


def test_if_none_is_met_the_nearest_says_what_is_wrong():
    near = expecting(BERT | {"pooler.weight": (4, 4)}, origin="near")
    for expectations in ([near, expecting({"x": (1,)})], [expecting({"x": (1,)}), near]):
        found = decide(BERT, {}, expectations)
        assert found is not None
        assert (found.fits, found.missing) == (False, ("pooler.weight",))
    assert decide(BERT, {}, []) is None


def test_a_base_model_may_have_other_heads():
    base = expecting(BERT | {"lm_head.weight": (9, 4)}, exact=False)
    found = decide(prefixed("model.") | {"classifier.weight": (2, 4)}, {}, [base])
    assert found is not None
    assert found.mapping["model.embeddings.weight"] == "embeddings.weight"
    assert not found.fits


def test_without_an_expectation_nothing_is_related():
    assert not is_related(without_expectation(BERT, bare=False))


def test_names_that_a_user_chose_are_judged_too():
    mapping = {name: name.upper() for name in BERT}
    naming = judge(mapping, BERT, {}, expecting(BERT))
    assert naming.missing == tuple(BERT)
    assert (naming.loads, naming.wrong) == (False, 6)


def test_the_complaint_says_what_is_missing_unknown_and_of_another_shape():
    stored = {"embeddings.weight": (8, 4), "encoder.layer.0.weight": (4, 4), "encoder.layer.1.weights": (4, 4)}
    said = str(complaint(best_mapping(stored, {}, expecting(BERT)), "transformers is not installed"))
    assert "1 expected names are missing, such as 'encoder.layer.1.weight'" in said
    assert "such as 'encoder.layer.1.weights' (nearest: 'encoder.layer.1.weight')" in said
    assert "1 have another shape, such as 'embeddings.weight', expected in [9, 4]" in said
    assert "(transformers is not installed)" in said


def test_names_may_be_all_that_is_missing_or_unknown():
    only_missing = str(complaint(best_mapping({}, {}, expecting({"a": (1,)}))))
    assert "1 expected names are missing, such as 'a'; a loader" in only_missing
    only_unknown = str(complaint(best_mapping({"zz": (1,)}, {}, expecting({}))))
    assert "1 names are unknown to it, such as 'zz'; a loader" in only_unknown


# --- where nothing is expected ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "bare", "mapped", "how"),
    [
        (prefixed("module."), False, list(BERT), "the wrapper's prefix 'module.' removed"),
        (prefixed("module._orig_mod."), False, list(BERT), "the wrapper's prefix 'module.' removed"),
        (prefixed("module._forward_module."), False, list(BERT),
         "the wrapper's prefix 'module._forward_module.' removed"),
        (prefixed("pretrained_model.") | {"v_head.weight": (1, 4)}, False, [*BERT, "v_head.weight"],
         "the wrapper's prefix 'pretrained_model.' removed"),
        # `model.` is a Llama's own, unless config.json names a model without a head.
        (prefixed("model."), False, list(prefixed("model.")), ""),
        (prefixed("model."), True, list(BERT), "the wrapper's prefix 'model.' removed"),
        # A wrapper is around everything.
        (prefixed("module.") | {"other": (1,)}, False, [*prefixed("module."), "other"], ""),
    ],
)  # fmt: skip
def test_only_what_is_a_wrappers_in_any_model_is_undone(
    stored: dict[str, Any], bare: bool, mapped: list[str], how: str
):
    naming = without_expectation(stored, bare=bare)
    assert list(naming.mapping.values()) == mapped
    assert naming.change == how
    assert outcome(naming) == "names not checked"


def test_the_outcome_says_how_names_differ():
    """What is not written is no difference, nor what was left out on purpose."""
    stored = {"embeddings.weight": (8, 4), "encoder.layer.0.weight": (4, 4), "inv_freq": (2,)}
    naming = judge({name: name for name in stored}, stored, {}, expecting(BERT))
    assert outcome(naming) == "names differ from config.json: 1 missing, 1 unknown to it, 1 of another shape"
    assert outcome(naming, ignored=["inv_freq"], partial=True) == "names differ from config.json: 1 of another shape"
    stored["embeddings.weight"] = (9, 4)
    naming = judge({name: name for name in stored}, stored, {}, expecting(BERT))
    assert outcome(naming, ignored=["inv_freq"], partial=True) == ("names match config.json; 1 of its 3 names left out")


def test_heads_of_bge_m3_show_that_model_is_a_wrappers():
    stored = prefixed("model.") | {"colbert_linear.weight": (4, 4), "sparse_linear.bias": (1,)}
    naming = without_expectation(stored, bare=False)
    assert list(naming.mapping.values()) == list(BERT)
    assert naming.heads == {name: name for name in ("colbert_linear.weight", "sparse_linear.bias")}


# --- rules of renaming ------------------------------------------------------------------------------------------------


def test_rules_are_prefixes_or_expressions():
    names = ["model.a", "model.b.1", "x.model.c"]
    assert renamed(names, [("model.", "")]) == {"model.a": "a", "model.b.1": "b.1", "x.model.c": "x.model.c"}
    assert renamed(names, [(r"^model\.(.)", r"\1x"), (r"/\d/", "n")])["model.b.1"] == "bx.n"
    assert renamed(names, [("model.", "x."), ("x.", "y.")])["model.a"] == "y.a"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("^(", "x")], r"--rename \^\(=x is not a regular expression"),
        ([("/a/", r"\9")], "is not a regular expression"),
        ([("/a|b/", "x")], "gives 'a' and 'b' the same name 'x'"),
        ([("a", "")], "leaves 'a' without a name; got ''"),
    ],
)
def test_rules_that_do_not_work(rules: list[tuple[str, str]], message: str):
    with pytest.raises(BadOption, match=message):
        renamed(["a", "b"], rules)


def test_a_name_is_text():
    with pytest.raises(BadOption, match="leaves 'a' without a name; got 7"):
        unique({"a": 7})


# --- what the base model has to give ----------------------------------------------------------------------------------


def tied() -> Any:
    """`a` and `b` trained, `t` a second name of `a`, a buffer `n`."""
    return stage2(module=model()["module"] | {"t": half(3, 2, key="a")}, shared_params={"t": "a"})


def given(base: dict[str, Any]) -> tuple[list[str], str | None]:
    found = tied()
    new, reason = missing_frozen(found, sources(found), base)
    return list(new), reason


def test_frozen_parameters_are_taken_from_the_same_model():
    base = {"a": tensor(3, 2), "b": tensor(3), "f": tensor(2, 2)}
    assert given(base) == (["f"], None)
    # Under its second name it is the same model as well, and what the base has of the checkpoint is not taken.
    assert given({"t": tensor(3, 2), "b": tensor(3), "n": tensor(9), "f": tensor(2, 2)}) == (["f"], None)


def test_a_base_model_that_has_nothing_new():
    assert given({"a": tensor(3, 2)}) == ([], None)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ({"a": tensor(3, 2), "f": tensor(2)}, "the base model has no b"),
        ({"a": tensor(2, 3), "b": tensor(3), "f": tensor(2)}, "a has shape [3, 2], in the base model [2, 3]"),
    ],
)
def test_another_model_gives_nothing(base: dict[str, Any], reason: str):
    assert given(base) == ([], reason)


@pytest.mark.parametrize("exact", [True, False])
def test_parts_of_the_base_that_were_not_trained_are_left_out(exact: bool):
    """T5's encoder alone was trained: the base's decoder is none of its. What the run has is never left out."""
    stored = {**prefixed("encoder."), **prefixed("decoder."), "projection.weight": (4, 4)}
    naming = best_mapping(stored, {}, expecting(prefixed("encoder."), exact=exact))
    named = {name: Source.of_model(name, tensor(*shape)) for name, shape in stored.items()}
    selection = Selection(named=named, left_out=("lost",))
    kept, judged = without_parts(selection, naming, prefixed("decoder."))
    if not exact:  # a relative does not tell what the class has
        assert (kept, judged) == (selection, naming)
        return
    assert list(kept.named) == [*prefixed("encoder."), "projection.weight"]
    assert kept.left_out == ("lost", *prefixed("decoder."))
    assert judged.unexpected == ("projection.weight",)
    assert set(judged.mapping) == set(kept.named)
    assert without_parts(kept, judged, prefixed("encoder.")) == (kept, judged)


def test_what_the_target_lacks_is_filled_from_the_base():
    found = tied()
    selection = Selection(named={"a": sources(found)["a"]}, left_out=())
    expected = expecting({"a": (3, 2), "b": (3,), "head": (2,), "t": (3, 2), "odd": (7,)}, ties={"t": "a"})
    base = {
        f"model.{name}": tensor(*shape) for name, shape in {"b": (3,), "head": (2,), "t": (3, 2), "odd": (8,)}.items()
    }
    filled_in = filled(selection, expected, base)
    # `t` is there as `a`, and `odd` has another shape.
    assert {name: (source.name, source.role) for name, source in filled_in.items()} == {
        "b": ("model.b", "frozen"),
        "head": ("model.head", "frozen"),
    }


# --- the hub's layout -------------------------------------------------------------------------------------------------


def conversion(output: str, inputs: tuple[str, ...], *, opaque: bool = False) -> Conversion:
    runs = tuple((number, 0, 1) for number in range(len(inputs)))
    return Conversion(output=output, shape=(len(inputs), 2), inputs=inputs, row_numel=2, runs=runs, opaque=opaque)


def stacked() -> Selection:
    found = tied()
    return Selection(named=dict(sources(found)), left_out=("z",))


def test_a_tensor_of_the_hub_stands_where_its_first_piece_stood():
    hub = to_hub(stacked(), [conversion("ab", ("b", "a")), conversion("first", ("a",))])
    assert list(hub.named) == ["ab", "first", "n"]
    assert (hub.named["ab"].shape, hub.named["ab"].name, hub.left_out) == ((2, 2), "b", ("z",))


def test_without_all_of_its_pieces_a_tensor_is_written_as_it_is():
    assert list(to_hub(stacked(), [conversion("ax", ("a", "x"), opaque=True)]).named) == ["a", "b", "n"]


def test_a_conversion_that_rows_cannot_say_is_refused():
    with pytest.raises(
        UnsupportedLayout, match=r"in another order in memory than in the hub's files.*--names in-memory \(at ab\)"
    ):
        to_hub(stacked(), [conversion("ab", ("a", "b"), opaque=True)])


def test_namings_know_what_is_wrong_with_them():
    naming = Naming(mapping={}, heads={}, change="", missing=(), unexpected=("u",), mismatched=(), expectation=None)
    assert (naming.fits, naming.loads, naming.wrong) == (False, True, 1)
