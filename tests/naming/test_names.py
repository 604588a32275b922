"""Names are decided by evidence: wrappers are undone, what fits nothing is refused, and the report says why.

Checkpoints are cut from the weights of tiny real models by `zero_model`; what a loader expects is told by transformers
or by the header of a weights file. The oracle is the model itself: its names, its bits.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import refusal
from command import zeroconsolidate as command
from converted import ask_in_this_process
from hypothesis import given
from hypothesis import strategies as st
from model_cases import ROOT
from safetensors.torch import load_file, save_file
from zero_model import Run, save

from zeroconsolidate import Report, consolidate
from zeroconsolidate.errors import BadOption, Disagreement, WrongNames
from zeroconsolidate.naming import asking, sources
from zeroconsolidate.naming.decision import best_mapping, decide, renamed, without_expectation
from zeroconsolidate.naming.expectation import Expectation, outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASES = ROOT / "_bases"
MODELS = ["llama", "xlmr"]
"""`model.` belongs to the names of the one, and is a wrapper's around those of the other."""
PREFIXES = [
    "module.",
    "_forward_module.",
    "_orig_mod.",
    "module._orig_mod.",
    "model.",
    "base_model.model.",
    "pretrained_model.",
    "0.auto_model.",
    "net.backbone.",
]


def weights(model: str) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(BASES / model / "model.safetensors").items()}


def same(name: str) -> str:
    return name


def trained(
    root: Path,
    model: str,
    rename: Callable[[str], str] = same,
    *,
    config: bool = True,
    change: Callable[[dict[str, torch.Tensor]], object] = lambda _: None,
    **facts: Any,
) -> dict[str, torch.Tensor]:
    """A checkpoint of the model under other names, with its config.json; returns what a loader is to get."""
    truth = weights(model)
    change(truth)
    save(Run(stage=2, world_size=2, groups=[{rename(name): t for name, t in truth.items()}], **facts), root)
    if config:
        shutil.copy(BASES / model / "config.json", root)
    return truth


def written(report: Report) -> dict[str, torch.Tensor]:
    return load_file(f"{report.output}/model.safetensors")


def assert_equal(ours: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == truth.keys()
    assert [name for name, tensor in truth.items() if not torch.equal(ours[name], tensor)] == []


def edit_config(root: Path, **changes: object) -> None:
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers were not installed, and the built-in table had no such model."""
    monkeypatch.setattr(asking, "find_spec", lambda _: None)
    monkeypatch.setattr(sources, "looked_up", lambda _: None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers is asked here, which saves starting a process for every config."""
    pytest.importorskip("transformers", minversion="5")
    monkeypatch.setattr(asking, "ask", ask_in_this_process)


class TestWrappers:
    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("prefix", ["", *PREFIXES])
    def test_the_architecture_tells_them_from_names(self, asked: None, model: str, prefix: str, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", model, lambda name: prefix + name)
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert_equal(written(report), truth)
        assert report.warnings == ()
        undone = prefix.replace("_orig_mod.", "")
        said = "wrappers inside names removed; " if prefix and not undone else f"prefix {undone!r} removed"
        assert report.names.startswith(said if prefix else "names match ")
        assert re.search(r"names match \w+ \(transformers 5[.\d]+(, built-in table)?\)$", report.names)
        assert report.checks[0].startswith("names and shapes match ")

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("prefix", ["", *PREFIXES])
    def test_so_does_the_base_model(self, alone: None, model: str, prefix: str, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", model, lambda name: prefix + name)
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / model)
        assert_equal(written(report), truth)
        assert report.warnings == ()
        assert report.names.endswith(f"names match the base model {BASES / model}")

    @pytest.mark.parametrize("wrapper", ["_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."])
    def test_inside_of_names_too(self, alone: None, wrapper: str, tmp_path: Path) -> None:
        """torch.compile and activation checkpointing of single layers."""
        truth = trained(tmp_path / "in", "llama", lambda name: name.replace("self_attn.", f"self_attn.{wrapper}"))
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "llama")
        assert_equal(written(report), truth)
        assert report.names.startswith("wrappers inside names removed; names match")

    def test_a_prefix_may_be_lacking(self, asked: None, tmp_path: Path) -> None:
        """A trainer that was given the inner model of one with a head."""
        truth = trained(tmp_path / "in", "qwen2", lambda name: name.removeprefix("model."))
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert_equal(written(report), truth)
        assert report.names.startswith("prefix 'model.' added; names match")

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_without_expectation_those_that_are_always_wrappers(self, alone: None, prefix: str, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", lambda name: prefix + name)
        report = consolidate(tmp_path / "in", tmp_path / "out")
        known = prefix in ("module.", "_forward_module.", "_orig_mod.", "module._orig_mod.", "pretrained_model.")
        assert_equal(written(report), {name if known else prefix + name: tensor for name, tensor in truth.items()})
        (warning,) = report.warnings
        assert "not compared with those the model expects" in warning and "transformers is not installed" in warning

    def test_without_expectation_model_is_a_wrapper_around_a_model_without_a_head(
        self, alone: None, tmp_path: Path
    ) -> None:
        truth = trained(tmp_path / "in", "xlmr", lambda name: "model." + name)
        assert_equal(written(consolidate(tmp_path / "in", tmp_path / "out")), truth)

    def test_heads_beside_a_wrapped_model_are_kept_apart(self, alone: None, tmp_path: Path) -> None:
        """FlagEmbedding's M3: `model.` around the encoder, none around the heads."""
        heads = {"colbert_linear.weight": torch.randn(16, 16), "colbert_linear.bias": torch.randn(16),
                 "sparse_linear.weight": torch.randn(1, 16), "sparse_linear.bias": torch.randn(1)}  # fmt: skip
        truth = trained(
            tmp_path / "in",
            "xlmr",
            lambda name: name if name in heads else "model." + name,
            change=lambda tensors: tensors.update(heads),
        )
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "xlmr")
        assert_equal(written(report), {name: tensor for name, tensor in truth.items() if name not in heads})
        for head in ("colbert_linear", "sparse_linear"):
            state = torch.load(tmp_path / "out" / f"{head}.pt", weights_only=True)
            assert_equal(state, {key: heads[f"{head}.{key}"] for key in ("weight", "bias")})

    def test_the_value_head_of_trl_stays_beside_the_model(self, asked: None, tmp_path: Path) -> None:
        def add(tensors: dict[str, torch.Tensor]) -> None:
            tensors["v_head.summary.weight"] = torch.randn(1, 16)

        truth = trained(
            tmp_path / "in", "llama", lambda n: n if n.startswith("v_head.") else f"pretrained_model.{n}", change=add
        )
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert_equal(written(report), truth)
        assert report.warnings == ("v_head.summary.weight: TRL reads them, transformers ignores them",)


SHAPES = {name: tuple(tensor.shape) for name, tensor in weights("llama").items()}
ENCODER = {name: tuple(tensor.shape) for name, tensor in weights("xlmr").items()}
PART = st.from_regex(r"[a-z_][a-z_0-9]{0,6}", fullmatch=True)


def expectation(shapes: dict[str, tuple[int, ...]], **facts: Any) -> Expectation:
    return Expectation(**({"origin": "the target", "shapes": shapes, "ties": {}, "exact": True} | facts))


class TestMapping:
    @given(parts=st.lists(PART, min_size=1, max_size=4), shapes=st.sampled_from([SHAPES, ENCODER]))
    def test_any_constant_prefix_is_undone(self, parts: list[str], shapes: dict[str, tuple[int, ...]]) -> None:
        prefix = ".".join(parts) + "."
        naming = best_mapping({prefix + name: shape for name, shape in shapes.items()}, {}, expectation(shapes))
        assert naming.mapping == {prefix + name: name for name in shapes}
        assert naming.fits

    @given(parts=st.lists(PART, min_size=1, max_size=4), shapes=st.sampled_from([SHAPES, ENCODER]))
    def test_any_constant_prefix_is_put_on(self, parts: list[str], shapes: dict[str, tuple[int, ...]]) -> None:
        prefix = ".".join(parts) + "."
        naming = best_mapping(shapes, {}, expectation({prefix + name: shape for name, shape in shapes.items()}))
        assert naming.mapping == {name: prefix + name for name in shapes}
        assert naming.fits

    def test_shapes_decide_between_names(self) -> None:
        """Two parts of a model of the same names: the prefix is that of the part with the expected shapes."""
        stored = {f"small.{name}": (1, *shape) for name, shape in ENCODER.items()}
        stored |= {f"large.{name}": shape for name, shape in ENCODER.items()}
        naming = best_mapping(stored, {}, expectation(ENCODER))
        assert [naming.mapping[f"large.{name}"] for name in ENCODER] == list(ENCODER)
        assert not naming.missing
        assert len(naming.unexpected) == len(ENCODER)

    def test_no_two_tensors_get_one_name(self) -> None:
        stored = {f"model.{name}": shape for name, shape in ENCODER.items()} | ENCODER
        naming = best_mapping(stored, {}, expectation(ENCODER))
        assert len(set(naming.mapping.values())) == len(stored)

    def test_the_first_expectation_that_is_satisfied_decides(self) -> None:
        other = expectation({f"x.{name}": (7, *shape) for name, shape in ENCODER.items()}, origin="another")
        naming = decide(ENCODER, {}, [other, expectation(ENCODER), expectation(ENCODER, origin="later")])
        assert naming is not None
        assert naming.fits
        assert (naming.change, outcome(naming)) == ("", "names match the target")

    def test_if_none_is_satisfied_the_nearest_is_told(self) -> None:
        near = expectation(ENCODER | {"head.weight": (2, 2)}, origin="near")
        naming = decide(ENCODER, {}, [expectation(SHAPES, origin="far"), near])
        assert naming is not None
        assert not naming.fits
        assert naming.expectation is near
        assert naming.missing == ("head.weight",)

    def test_one_name_of_a_tied_parameter_is_enough(self) -> None:
        stored = {name: shape for name, shape in SHAPES.items() if name != "lm_head.weight"}
        tied = expectation(SHAPES, ties={"lm_head.weight": "model.embed_tokens.weight"})
        assert best_mapping(stored, {}, tied).fits
        assert best_mapping(stored, {}, expectation(SHAPES)).missing == ("lm_head.weight",)

    def test_heads_come_and_go_with_a_base_but_no_layer_does(self) -> None:
        base = expectation(ENCODER, exact=False)
        head = {f"roberta.{name}": shape for name, shape in ENCODER.items()} | {"classifier.dense.weight": (16, 16)}
        assert decide(head, {}, [base, expectation(SHAPES)]) == best_mapping(head, {}, base)
        short = {name: shape for name, shape in ENCODER.items() if ".layer.1." not in name}
        nearest = decide(short, {}, [base, expectation(short, origin="nearer")])
        assert nearest is not None
        assert nearest.expectation is not None
        assert nearest.expectation.origin.endswith("nearer")

    def test_without_expectation_nothing_else_changes(self) -> None:
        naming = without_expectation(SHAPES, bare=False)
        assert naming.mapping == {name: name for name in SHAPES}
        assert naming.expectation is None


class TestOrderOfEvidence:
    def test_weights_beside_the_checkpoint_come_before_the_base_model(self, alone: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", lambda name: "module." + name)
        own = {f"own.{name}": tensor for name, tensor in truth.items()}
        save_file(own, tmp_path / "in/model.safetensors")
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "llama")
        assert_equal(written(report), own)
        assert report.names.endswith("names match the weights saved beside the checkpoint")

    def test_but_not_before_the_architecture(self, asked: None, tmp_path: Path) -> None:
        """DeepSpeed's own converter puts such a file there: the shards' names, wrapper and all."""
        truth = trained(tmp_path / "in", "xlmr", lambda name: "model." + name)
        save_file({f"model.{name}": tensor for name, tensor in truth.items()}, tmp_path / "in/model.safetensors")
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert_equal(written(report), truth)
        assert "XLMRobertaModel (transformers 5" in report.names

    def test_empty_weights_still_tell_names(self, alone: None, tmp_path: Path) -> None:
        """What ZeRO-3 leaves behind; BERT's kin with the names transformers gave them in 2019."""
        truth = trained(tmp_path / "in", "xlmr", lambda name: "wrapper." + name)
        old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
               for name in truth}  # fmt: skip
        assert old != set(truth)
        save_file({name: torch.empty(0) for name in old}, tmp_path / "in/model.safetensors")
        assert_equal(written(consolidate(tmp_path / "in", tmp_path / "out")), truth)

    def test_a_converters_file_with_heads_in_it_tells_nothing(self, alone: None, tmp_path: Path) -> None:
        """It has every name of the shards, and would fit them perfectly."""
        heads = {"sparse_linear.weight": torch.ones(1, 16), "sparse_linear.bias": torch.ones(1)}
        stored = trained(
            tmp_path / "in",
            "xlmr",
            change=lambda tensors: [tensors.update({f"model.{n}": tensors.pop(n) for n in list(tensors)} | heads)],
        )
        save_file(stored, tmp_path / "in/model.safetensors")
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "xlmr")
        assert_equal(written(report), weights("xlmr"))


class TestNothingFits:
    def strange(self, name: str) -> str:
        return name.replace("self_attn", "attention").replace("mlp.", "ffn.")

    def test_the_command_says_what_is_wrong_and_what_to_do(self, tmp_path: Path) -> None:
        """The whole command, transformers asked in a process of its own."""
        pytest.importorskip("transformers", minversion="5")
        trained(tmp_path / "in", "llama", self.strange)
        said = refusal(command("convert", tmp_path / "in", tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        assert said.startswith("the names do not fit LlamaForCausalLM (transformers 5")
        assert "14 expected names are missing, such as 'model.layers.0.self_attn.q_proj.weight'" in said
        assert "14 names are unknown to it, such as 'model.layers.0." in said
        assert "(nearest: 'model.layers.0." in said
        for way_out in ("--rename FROM=TO", "--base", "--allow-missing"):
            assert way_out in said

    def test_the_nearest_names_are_those_of_the_same_tensor(self, alone: None, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama", lambda name: name.replace("1.self_attn", "1.attention"))
        with pytest.raises(WrongNames, match=r"such as 'model\.layers\.1\.attention\.(.)_proj\.weight' "
                                             r"\(nearest: 'model\.layers\.1\.self_attn\.\1_proj\.weight'"):  # fmt: skip
            consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "llama")

    def test_without_transformers_the_error_says_so(self, alone: None, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama", self.strange)
        with pytest.raises(WrongNames, match=r"the base model .*\(transformers is not installed\)"):
            consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "llama")

    def test_the_wrong_base_fits_nothing(self, alone: None, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama")
        with pytest.raises(WrongNames, match="do not fit the base model"):
            consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "xlmr")

    def test_who_insists_gets_it_with_a_warning(self, asked: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", self.strange)
        report = consolidate(tmp_path / "in", tmp_path / "out", allow_missing=True)
        assert_equal(written(report), {self.strange(name): tensor for name, tensor in truth.items()})
        (warning,) = report.warnings
        assert warning.startswith("the names do not fit LlamaForCausalLM")


class TestWhatIsWritten:
    """Each of these would load without an exception, and give random or wrong weights."""

    def test_nothing_may_be_missing(self, asked: None, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama", change=lambda tensors: tensors.pop("model.norm.weight"))
        with pytest.raises(WrongNames, match=r"1 expected names are missing, such as 'model\.norm\.weight'"):
            consolidate(tmp_path / "in", tmp_path / "out")

    def test_nothing_may_be_unexpected(self, asked: None, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama", change=lambda t: t.update({"model.layers.0.gate": torch.ones(3)}))
        with pytest.raises(WrongNames, match=r"1 names are unknown to it, such as 'model\.layers\.0\.gate'"):
            consolidate(tmp_path / "in", tmp_path / "out")

    @pytest.mark.parametrize("shape", [(3,), (0,)])
    def test_shapes_are_those_expected(self, asked: None, shape: tuple[int, ...], tmp_path: Path) -> None:
        """A tensor of no elements, too: such is what a gather that went wrong leaves."""
        trained(tmp_path / "in", "llama", change=lambda t: t.update({"model.norm.weight": torch.ones(shape)}))
        with pytest.raises(WrongNames, match=r"have another shape, such as 'model\.norm\.weight', expected in \[16\]"):
            consolidate(tmp_path / "in", tmp_path / "out")

    def test_two_tensors_that_config_ties(self, asked: None, tmp_path: Path) -> None:
        """transformers 4 would take the embedding for both, 5 would untie them."""
        trained(tmp_path / "in", "qwen2", change=lambda t: t.update({"lm_head.weight": torch.randn_like(
            t["model.embed_tokens.weight"])}))  # fmt: skip
        with pytest.raises(WrongNames, match=r"config\.json ties 'lm_head\.weight' to 'model\.embed_tokens\.weight'"):
            consolidate(tmp_path / "in", tmp_path / "out")
        edit_config(tmp_path / "in", tie_word_embeddings=False)
        assert "lm_head.weight" in written(consolidate(tmp_path / "in", tmp_path / "out"))

    def test_one_tensor_that_config_does_not_tie(self, asked: None, tmp_path: Path) -> None:
        """A head that no file has would be random: the tied parameter is written under both names."""
        ties = {"lm_head.weight": "model.embed_tokens.weight"}
        trained(tmp_path / "in", "qwen2", ties=ties)
        assert "lm_head.weight" not in written(consolidate(tmp_path / "in", tmp_path / "tied"))
        edit_config(tmp_path / "in", tie_word_embeddings=False)
        ours = written(consolidate(tmp_path / "in", tmp_path / "out"))
        assert torch.equal(ours["lm_head.weight"], ours["model.embed_tokens.weight"])

    def test_buffers_that_nothing_expects_are_left_out(self, asked: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", buffers={"model.rotary_emb.inv_freq": torch.ones(2)})
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert_equal(written(report), truth)
        assert report.left_out == ("model.rotary_emb.inv_freq",)

    @pytest.mark.parametrize("rows", [-1, 1])
    def test_the_vocabulary_is_that_of_config(self, asked: None, rows: int, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama")
        size = weights("llama")["model.embed_tokens.weight"].shape[0]
        edit_config(tmp_path / "in", vocab_size=size + rows)
        with pytest.raises(WrongNames, match=rf"vocab_size={size}, by the shape .* got vocab_size={size + rows}"):
            consolidate(tmp_path / "in", tmp_path / "out")

    def test_without_transformers_too(self, alone: None, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama")
        size = weights("llama")["model.embed_tokens.weight"].shape[0]
        edit_config(tmp_path / "in", vocab_size=size + 1)
        with pytest.raises(
            Disagreement, match=rf"'vocab_size' is {size + 1}, but model.embed_tokens.weight has {size}"
        ):
            consolidate(tmp_path / "in", tmp_path / "out")
        for options in ({"allow_missing": True}, {"names": "stored"}):
            report = consolidate(tmp_path / "in", tmp_path / "out", overwrite=True, **options)
            assert any("'vocab_size'" in warning for warning in report.warnings)


class TestRename:
    def test_a_prefix(self, asked: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "xlmr", lambda name: "a.b." + name)
        report = consolidate(tmp_path / "in", tmp_path / "out", rename=["a.b.="])
        assert_equal(written(report), truth)
        assert report.names.startswith("renamed with --rename; names match XLMRobertaModel (transformers 5")
        assert report.warnings == ()

    def test_by_the_command(self, alone: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", lambda name: name.replace("layers.", "blocks."), config=False)
        done = command("convert", tmp_path / "in", tmp_path / "out", "--rename", r"/\.blocks\.(\d+)\./=.layers.\1.")
        assert done.returncode == 0, done.stderr
        assert_equal(load_file(tmp_path / "out/model.safetensors"), truth)

    def test_a_callable(self, alone: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", str.upper)
        lower = {name.upper(): name for name in truth}
        report = consolidate(tmp_path / "in", tmp_path / "out", rename=lower.__getitem__, base=BASES / "llama")
        assert_equal(written(report), truth)
        assert report.names.startswith("renamed with --rename; names match the base model")

    def test_it_overrides_the_evidence_but_is_told_what_that_means(self, asked: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama")
        report = consolidate(tmp_path / "in", tmp_path / "out", rename=["model.=x."])
        assert set(written(report)) == {name.replace("model.", "x.") for name in truth}
        (warning,) = report.warnings
        assert "names are unknown to it, such as 'x." in warning

    def test_rules_apply_in_order(self) -> None:
        assert renamed(["a.b", "c.b"], [("a.", "c.x."), ("^c", "d"), ("/[.]b$/", ".weight")]) == {
            "a.b": "d.x.weight",
            "c.b": "d.weight",
        }

    @pytest.mark.parametrize(
        ("rules", "said"),
        [
            (["no equals sign"], "FROM=TO; got 'no equals sign'"),
            (["=x"], "FROM=TO; got '=x'"),
            (["/(/=x"], "not a regular expression"),
            ([r"/model/=\1"], "not a regular expression"),
            (["/^.*$/=one"], "the same name 'one'"),
            (["/^.*$/="], "without a name; got ''"),
        ],
    )
    def test_rules_that_make_no_sense(self, rules: list[str], said: str, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama", config=False)
        with pytest.raises(BadOption) as error:
            consolidate(tmp_path / "in", tmp_path / "out", rename=rules)
        assert said in str(error.value)

    def test_a_callable_must_give_names(self, tmp_path: Path) -> None:
        trained(tmp_path / "in", "llama", config=False)
        with pytest.raises(BadOption, match="without a name; got None"):
            consolidate(tmp_path / "in", tmp_path / "out", rename=lambda _: None)  # type: ignore[arg-type,return-value]


class TestLayouts:
    """Experts that transformers 5 fuses in memory."""

    CASE = ROOT / "mixtral_z3/checkpoint"

    def test_the_hubs_in_memory_and_as_stored(self, asked: None, tmp_path: Path) -> None:
        stored = set(load_file(self.CASE.parent / "expected.safetensors"))
        hub = consolidate(self.CASE, tmp_path / "hub")
        assert "model.layers.0.block_sparse_moe.experts.3.w1.weight" in written(hub)
        assert hub.names.endswith("; 26 tensors converted to the hub's layout")
        memory = consolidate(self.CASE, tmp_path / "memory", names="in-memory")
        assert set(written(memory)) == stored
        assert "MixtralForCausalLM" in memory.names
        as_stored = consolidate(self.CASE, tmp_path / "stored", names="stored")
        assert set(written(as_stored)) == stored
        assert as_stored.names == "names as in the checkpoint (--names stored)"
        assert as_stored.checks[0].startswith("names and shapes match MixtralForCausalLM")

    def test_in_memory_undoes_wrappers_and_stored_does_not(self, asked: None, tmp_path: Path) -> None:
        truth = trained(tmp_path / "in", "llama", lambda name: "module." + name)
        assert set(written(consolidate(tmp_path / "in", tmp_path / "a", names="in-memory"))) == set(truth)
        stored = written(consolidate(tmp_path / "in", tmp_path / "b", names="stored"))
        assert set(stored) == {"module." + name for name in truth}

    def test_without_transformers_it_says_what_to_install(self, alone: None, tmp_path: Path) -> None:
        with pytest.raises(WrongNames, match=r"install transformers 5, or write them fused with names=.in-memo"):
            consolidate(self.CASE, tmp_path / "out")
        consolidate(self.CASE, tmp_path / "out", names="in-memory")

    def test_no_other_layouts(self, tmp_path: Path) -> None:
        with pytest.raises(BadOption, match="names must be 'hub', 'in-memory' or 'stored'; got 'v4'"):
            consolidate(self.CASE, tmp_path / "out", names="v4")


class TestTheReport:
    def test_the_command_tells_the_decision_and_its_reason(self, tmp_path: Path) -> None:
        trained(tmp_path / "in", "xlmr", lambda name: "net." + name, config=False)
        done = command("convert", tmp_path / "in", tmp_path / "out", "--base", BASES / "xlmr", "--rename", "net.=")
        (line,) = [line for line in done.stdout.splitlines() if "names and shapes match" in line]
        assert line.split()[:6] == "checked names and shapes match XLMRobertaModel".split()
        assert "renamed with --rename" in done.stdout
        as_json = command("convert", tmp_path / "in", tmp_path / "json", "--names", "stored", "--json")
        assert json.loads(as_json.stdout)["names"] == "names as in the checkpoint (--names stored)"


class TestFrozenFromBase:
    """A save without the frozen parameters, `exclude_frozen_parameters`: they are the base model's, bit for bit."""

    FROZEN = "layers.0."

    def partial(self, root: Path, stage: int, prefix: str = "", model: str = "llama", **how: Any) -> None:
        truth = weights(model)
        run = Run(
            stage=stage,
            world_size=2,
            groups=[{prefix + n: t + 1 for n, t in truth.items() if self.FROZEN not in n and "embed" not in n}],
            frozen={prefix + n: t.bfloat16() for n, t in truth.items() if self.FROZEN in n or "embed" in n},
            exclude_frozen=True,
        )
        save(run, root)
        shutil.copy(BASES / model / "config.json", root)

    def expected(self, model: str = "llama") -> dict[str, torch.Tensor]:
        return {n: t if self.FROZEN in n or "embed" in n else t + 1 for n, t in weights(model).items()}

    @pytest.mark.parametrize("stage", [2, 3])
    @pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.x."])
    @pytest.mark.parametrize("witness", ["alone", "asked"])
    def test_under_any_wrapper(
        self, stage: int, prefix: str, witness: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        request.getfixturevalue(witness)
        self.partial(tmp_path / "in", stage, prefix)
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "llama")
        assert_equal(written(report), self.expected())
        assert report.from_base == sum(self.FROZEN in n or "embed" in n for n in self.expected()) > 5
        assert report.warnings == ()

    def test_in_bf16_they_are_rounded_with_the_rest(self, alone: None, tmp_path: Path) -> None:
        self.partial(tmp_path / "in", 2)
        report = consolidate(tmp_path / "in", tmp_path / "out", base=BASES / "llama", dtype="bf16")
        assert_equal(written(report), {name: tensor.bfloat16() for name, tensor in self.expected().items()})

    @pytest.mark.parametrize("witness", ["alone", "asked"])
    @pytest.mark.parametrize("prefix", ["", "net."])
    def test_a_base_of_other_shapes_gives_nothing(
        self, witness: str, prefix: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        request.getfixturevalue(witness)
        self.partial(tmp_path / "in", 2, prefix)
        shutil.copytree(BASES / "llama", tmp_path / "base")
        other = {
            n: torch.ones(17) if "norm" in n else t for n, t in load_file(BASES / "llama/model.safetensors").items()
        }
        save_file(other, tmp_path / "base/model.safetensors")
        with pytest.raises(WrongNames):
            consolidate(tmp_path / "in", tmp_path / "out", base=tmp_path / "base")

    def test_without_the_base_it_is_an_error(self, asked: None, tmp_path: Path) -> None:
        self.partial(tmp_path / "in", 3)
        with pytest.raises(WrongNames, match="expected names are missing"):
            consolidate(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("lost", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_head_whose_tied_embedding_was_left_out(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that untied them, froze the embedding and left it out: a loader would take the trained head for both."""
    pytest.importorskip("transformers", minversion="5")
    monkeypatch.setattr(asking, "ask", ask_in_this_process)
    trained(tmp_path / "in", "llama", change=lambda state: state.pop(lost))
    config = json.loads((tmp_path / "in" / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    if lost == "lm_head.weight":  # nothing tells of a head that was left out: it may be that the run ties it
        consolidate(tmp_path / "in", tmp_path / "out")
        return
    with pytest.raises(WrongNames, match=r"ties 'lm_head.weight' to 'model.embed_tokens.weight'.*has only the first"):
        consolidate(tmp_path / "in", tmp_path / "out")
    consolidate(tmp_path / "in", tmp_path / "part", include=["lm_head*"])
    consolidate(tmp_path / "in", tmp_path / "out", allow_missing=True)
