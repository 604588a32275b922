"""Two models compared: figures against torch, names matched, faults named."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import run_directories
import torch
import zero_model
from command import zeroconsolidate as run
from fixtures import FIXTURES
from reported import Case
from safetensors.torch import load_file, save_file

import zeroconsolidate
from zeroconsolidate import BadOption, NotACheckpoint, compare, consolidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zeroconsolidate import ModelComparison

MODELS = FIXTURES / "models"
LLAMA = MODELS / "_bases" / "llama"
TRAINED = MODELS / "llm_untied_z3" / "checkpoint"
CLOSE = 1e-10


def expected_of(case: str) -> dict[str, torch.Tensor]:
    """The engine's values."""
    return load_file(MODELS / case / "expected.safetensors")


def figures(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], found: ModelComparison) -> None:
    """All figures, against torch in float64."""
    assert [tensor.name for tensor in found.tensors if tensor.name not in a] == []
    for tensor in found.tensors:
        x, y = a[tensor.name].double().flatten(), b[tensor.name].double().flatten()
        got = tensor.figures
        assert got is not None
        assert got.largest == float((x - y).abs().max())
        assert got.changed == int((x != y).sum())
        assert got.norm_a == pytest.approx(float(x.norm()), rel=CLOSE)
        assert got.norm_b == pytest.approx(float(y.norm()), rel=CLOSE)
        larger = max(float(x.norm()), float(y.norm()))
        assert got.relative == pytest.approx(float((x - y).norm()) / larger if larger else 0, rel=CLOSE)
        if got.cosine is not None:
            assert got.cosine == pytest.approx(float(x @ y / x.norm() / y.norm()), rel=CLOSE)
        if tensor.largest_at is not None:
            apart = (a[tensor.name].double() - b[tensor.name].double()).abs()
            assert float(apart[tensor.largest_at]) == got.largest
        if tensor.changed_rows is not None:
            rows = (a[tensor.name] != b[tensor.name]).any(1).nonzero().flatten().tolist()
            assert (tensor.changed_rows, list(tensor.first_rows)) == (len(rows), rows[:64])
    whole_a, whole_b = (torch.cat([side[t.name].double().flatten() for t in found.tensors]) for side in (a, b))
    assert found.whole.norm_a == pytest.approx(float(whole_a.norm()), rel=CLOSE)
    assert found.whole.largest == float((whole_a - whole_b).abs().max())
    for places, key in ((found.kinds, "kind"), (found.layers, "layer")):
        for place, got in places.items():
            own = [t.name for t in found.tensors if getattr(t, key) == place]
            x, y = (torch.cat([side[name].double().flatten() for name in own]) for side in (a, b))
            assert got.numel == x.numel()
            assert got.relative == pytest.approx(float((x - y).norm() / max(x.norm(), y.norm())), rel=CLOSE)


def altered(
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], Any],
    source: Path = LLAMA,
    config: dict[str, Any] | None = None,
) -> Path:
    """A copy of a model with tensors changed."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        text = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(text))
    return folder


def said(found: ModelComparison, *words: str) -> bool:
    """Whether a single suspicion has all of these words."""
    return any(all(word in text for word in words) for text in found.suspicions)


class TestFigures:
    """Every figure is torch's."""

    def test_a_run_and_its_base(self) -> None:
        found = compare(TRAINED, LLAMA)
        figures(expected_of("llm_untied_z3"), load_file(LLAMA / "model.safetensors"), found)
        assert not found.equal
        assert len(found.beyond) == len(found.tensors) == len(load_file(LLAMA / "model.safetensors"))
        assert found.suspicions == ()

    def test_two_stages_of_one_training(self) -> None:
        found = compare(TRAINED, MODELS / "llm_untied_z2" / "checkpoint")
        figures(expected_of("llm_untied_z3"), expected_of("llm_untied_z2"), found)

    def test_two_steps_of_a_run(self, tmp_path: Path) -> None:
        """What was trained between them, what is frozen, and what stood still."""
        truths, still = [], "layers.0.weight"
        for step in (4, 8):
            made = run_directories.trained(step)
            made.groups[0][still] = torch.ones_like(made.groups[0][still])
            zero_model.save(made, tmp_path / str(step), f"global_step{step}")
            truths.append(made.truth)
        found = compare(tmp_path / "4", tmp_path / "8")
        figures(*truths, found)
        roles = {tensor.name: (tensor.role_a, tensor.state) for tensor in found.tensors}
        assert roles[still] == ("trainable", "equal")
        assert all(state == "equal" for role, state in roles.values() if role == "frozen")
        assert said(found, "trained, but the same in both", still)
        consolidate(tmp_path / "8", tmp_path / "out", names="stored")
        assert compare(tmp_path / "4", tmp_path / "out").beyond == found.beyond

    def test_16_bits_against_32(self, tmp_path: Path) -> None:
        consolidate(TRAINED, tmp_path / "bf16", dtype="bf16")
        found = compare(tmp_path / "bf16", TRAINED)
        figures(load_file(tmp_path / "bf16" / "model.safetensors"), expected_of("llm_untied_z3"), found)
        assert found.equal
        assert {tensor.state for tensor in found.tensors} <= {"rounded", "equal"}
        assert (found.tensors[0].dtype_a, found.tensors[0].dtype_b) == ("bfloat16", "float32")

    def test_one_wrong_bit_in_16(self, tmp_path: Path) -> None:
        consolidate(TRAINED, tmp_path / "good", dtype="bf16")

        def flip(tensors: dict[str, torch.Tensor]) -> None:
            tensors["lm_head.weight"].view(torch.int16)[3, 1] ^= 1

        found = compare(altered(tmp_path / "bad", flip, tmp_path / "good"), TRAINED)
        assert found.beyond == ("lm_head.weight",)
        assert said(found, "only lm_head.weight differs")

    def test_an_output_and_its_checkpoint(self, tmp_path: Path) -> None:
        consolidate(TRAINED, tmp_path / "out")
        found = compare(TRAINED, tmp_path / "out")
        assert found.equal
        assert found.whole.changed == 0
        assert found.suspicions == ()
        assert {tensor.role_a for tensor in found.tensors} == {"trainable"}


class TestNames:
    """Names are matched as a loader would, or after a change of prefix."""

    def test_a_wrapped_checkpoint_and_its_base(self) -> None:
        found = compare(MODELS / "m3_z3" / "checkpoint", MODELS / "_bases" / "xlmr")
        assert (found.only_a, found.only_b) == ((), ())
        assert {"colbert_linear.weight", "embeddings.word_embeddings.weight"} <= {t.name for t in found.tensors}

    def test_an_output_of_a_wrapped_run(self, tmp_path: Path) -> None:
        consolidate(MODELS / "m3_z3" / "checkpoint", tmp_path / "out")
        assert compare(tmp_path / "out", MODELS / "m3_z3" / "checkpoint").equal

    @pytest.mark.parametrize("prefix", ["module.", "model.", "a.b."])
    def test_a_prefix(self, prefix: str, tmp_path: Path) -> None:
        wrapped = altered(tmp_path / "wrapped", lambda tensors: {prefix + name: t for name, t in tensors.items()})
        for found in (compare(LLAMA, wrapped), compare(wrapped, LLAMA)):
            assert (found.only_a, found.only_b, found.whole.changed) == ((), (), 0)
            assert repr(prefix) in found.names
            assert said(found, "does not load")

    def test_a_model_without_its_head_s_prefix(self, tmp_path: Path) -> None:
        bare = altered(
            tmp_path / "bare",
            lambda tensors: {n.removeprefix("model."): t for n, t in tensors.items() if n != "lm_head.weight"},
        )
        found = compare(LLAMA, bare)
        assert (found.only_a, found.only_b, found.whole.changed) == (("lm_head.weight",), (), 0)

    def test_old_names_of_layer_norms(self, tmp_path: Path) -> None:
        def old(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            names = {n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                     for n in tensors}  # fmt: skip
            return {names[n]: t for n, t in tensors.items()}

        base = MODELS / "_bases" / "xlmr"
        found = compare(base, altered(tmp_path / "old", old, base))
        assert (found.only_a, found.only_b, found.whole.changed) == ((), (), 0)

    def test_modules_of_sentence_transformers(self, tmp_path: Path) -> None:
        checkpoint = FIXTURES / "sentence_transformers" / "dense_z3" / "checkpoint"
        consolidate(checkpoint, tmp_path / "out")
        found = compare(checkpoint, tmp_path / "out")
        assert found.equal
        assert any(tensor.name.startswith("2_Dense/") for tensor in found.tensors)

    def test_another_model(self) -> None:
        found = compare(LLAMA, MODELS / "_bases" / "xlmr")
        assert not found.equal
        assert (len(found.only_a), found.tensors) == (len(load_file(LLAMA / "model.safetensors")), ())

    def test_tied_weights_are_compared_once(self) -> None:
        found = compare(MODELS / "llm_tied_z2" / "checkpoint", MODELS / "llm_tied_z3" / "checkpoint")
        assert (found.only_a, found.only_b) == ((), ())
        names = [tensor.name for tensor in found.tensors]
        assert len({"lm_head.weight", "model.embed_tokens.weight"}.intersection(names)) == 1

    def test_a_tied_run_and_its_output(self, tmp_path: Path) -> None:
        checkpoint = MODELS / "llm_tied_z3" / "checkpoint"
        consolidate(checkpoint, tmp_path / "out")
        for found in (compare(checkpoint, tmp_path / "out"), compare(tmp_path / "out", checkpoint)):
            assert (found.equal, found.only_a, found.only_b, found.suspicions) == (True, (), (), ())


class TestAdapters:
    """An adapter is compared with an adapter, or merged."""

    run = MODELS / "lora_z3" / "checkpoint"

    def test_merged_against_the_base(self) -> None:
        found = compare(self.run, LLAMA, base=LLAMA)
        moved = [tensor.name for tensor in found.tensors if not tensor.is_same]
        assert moved
        assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved)
        assert found.suspicions == ()

    def test_figures_are_peft_s(self, tmp_path: Path) -> None:
        pytest.importorskip("peft")
        consolidate(self.run, tmp_path / "merged", lora="merge", base=LLAMA)
        figures(load_file(tmp_path / "merged" / "model.safetensors"), load_file(LLAMA / "model.safetensors"),
                compare(self.run, LLAMA, base=LLAMA))  # fmt: skip

    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_a_merged_output_and_its_run(self, dtype: str, tmp_path: Path) -> None:
        consolidate(self.run, tmp_path / "merged", lora="merge", base=LLAMA, dtype=dtype)
        found = compare(tmp_path / "merged", self.run, base=LLAMA)
        assert (found.equal, found.suspicions) == (True, ())

    @pytest.mark.parametrize(
        "case",
        ["lora_z3", "lora_head_z3", "lora_tokens_z2", "dora_z3", "lora_bias_z2", "lora_patterns_z3", "mixtral_lora_z3"],
    )
    def test_an_adapter_s_directory(self, case: str, tmp_path: Path) -> None:
        """Merged as the run is; and as an adapter, the same as the run's."""
        checkpoint = MODELS / case / "checkpoint"
        base = MODELS / "_bases" / json.loads((MODELS / case / "provenance.json").read_text())["case"]["base"]
        consolidate(checkpoint, tmp_path / "adapter")
        assert compare(tmp_path / "adapter", checkpoint).equal
        consolidate(checkpoint, tmp_path / "merged", lora="merge", base=base)
        found = compare(tmp_path / "adapter", tmp_path / "merged", base=base)
        assert (found.equal, found.whole.changed) == (True, 0)

    def test_two_steps(self) -> None:
        found = compare(self.run, MODELS / "lora_z2" / "checkpoint")
        assert {tensor.kind for tensor in found.tensors} == {"adapter"}
        assert (found.only_a, found.only_b) == ((), ())

    def test_without_effect(self, tmp_path: Path) -> None:
        consolidate(self.run, tmp_path / "adapter")
        tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        for name, tensor in tensors.items():
            if "lora_B" in name:
                tensor.zero_()
        save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
        assert said(compare(tmp_path / "adapter", self.run), "the LoRA of A has no effect", "all 4")
        assert said(compare(LLAMA, tmp_path / "adapter", base=LLAMA), "the adapter of B has no effect")

    def test_the_base_is_needed(self) -> None:
        with pytest.raises(BadOption, match=r"base model of .* is needed") as raised:
            compare(self.run, LLAMA)
        assert "base" in str(raised.value.remedies)


class TestFaults:
    """Each is pointed at in words."""

    def faulty(
        self, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], **config: Any
    ) -> ModelComparison:
        """The output of a run with something wrong in it, against the run."""
        consolidate(TRAINED, tmp_path / "good")
        return compare(TRAINED, altered(tmp_path / "bad", change, tmp_path / "good", config))

    def test_the_base_s_head(self, tmp_path: Path) -> None:
        head = load_file(LLAMA / "model.safetensors")["lm_head.weight"]
        consolidate(TRAINED, tmp_path / "good")
        bad = altered(tmp_path / "bad", lambda tensors: tensors | {"lm_head.weight": head}, tmp_path / "good")
        assert said(compare(TRAINED, bad), "only lm_head.weight differs")
        assert said(compare(TRAINED, bad, base=LLAMA), "lm_head.weight is the base's in B")
        assert said(compare(bad, LLAMA), "the same in both", "lm_head.weight")

    def test_a_layer_of_zeros(self, tmp_path: Path) -> None:
        def zeros(tensors: dict[str, torch.Tensor]) -> None:
            for name, tensor in tensors.items():
                if name.startswith("model.layers.1."):
                    tensor.zero_()

        assert said(self.faulty(tmp_path, zeros), "all zeros in B only", "model.layers.1.")

    def test_zeros_in_both(self, tmp_path: Path) -> None:
        zero = altered(tmp_path / "zero", lambda tensors: tensors | {"lm_head.weight": torch.zeros(288, 8)})
        assert said(compare(zero, zero), "all zeros in both", "lm_head.weight")

    def test_a_layer_that_stayed_behind(self, tmp_path: Path) -> None:
        base = load_file(LLAMA / "model.safetensors")
        name = "model.layers.1.mlp.up_proj.weight"
        consolidate(TRAINED, tmp_path / "good")
        bad = altered(tmp_path / "bad", lambda tensors: tensors | {name: base[name]}, tmp_path / "good")
        found = compare(LLAMA, bad)
        assert not said(found, name)  # of two layers, none is the odd one
        third = {
            key.replace("layers.1.", "layers.2."): tensor.clone() for key, tensor in base.items() if "layers.1." in key
        }
        moved = {key: tensor + 1e-3 for key, tensor in third.items()}
        a = altered(tmp_path / "a", lambda tensors: tensors | third)
        b = altered(tmp_path / "b", lambda tensors: tensors | moved, bad)
        assert said(compare(a, b), "did not move", "2 other layers", name)

    def test_scrambled_rows(self, tmp_path: Path) -> None:
        found = self.faulty(
            tmp_path, lambda t: t | {"model.embed_tokens.weight": t["model.embed_tokens.weight"].roll(1, 0)}
        )
        assert said(found, "model.embed_tokens.weight", "same rows", "another order")

    def test_a_transposed_weight(self, tmp_path: Path) -> None:
        name = "model.layers.0.self_attn.q_proj.weight"
        found = self.faulty(tmp_path, lambda t: t | {name: t[name].T})
        assert said(found, name, "same elements", "another order")

    def test_exchanged_tensors(self, tmp_path: Path) -> None:
        one, other = (f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1))
        found = self.faulty(tmp_path, lambda t: t | {one: t[other], other: t[one]})
        assert said(found, f"{one} of B is {other} of A")
        assert said(found, f"{other} of B is {one} of A")

    def test_random_values(self, tmp_path: Path) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        torch.manual_seed(0)
        found = self.faulty(tmp_path, lambda t: t | {name: torch.randn_like(t[name]) * 0.02})
        assert said(found, name, "as if initialised again")

    def test_a_multiple(self, tmp_path: Path) -> None:
        found = self.faulty(tmp_path, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
        assert said(found, "B is A times 2")

    def test_nan_and_infinity(self, tmp_path: Path) -> None:
        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            tensors["lm_head.weight"][0, :3] = math.nan
            tensors["model.norm.weight"][1] = math.inf

        found = self.faulty(tmp_path, spoil)
        assert said(found, "lm_head.weight has 3 NaN in B")
        assert said(found, "model.norm.weight has 1 infinite element in B")
        assert {tensor.name: tensor.figures.unlike for tensor in found.tensors if tensor.figures.unlike} == {
            "lm_head.weight": 3, "model.norm.weight": 1,
        }  # fmt: skip

    def test_values_that_16_bits_do_not_hold(self, tmp_path: Path) -> None:
        def large(tensors: dict[str, torch.Tensor]) -> None:
            tensors["lm_head.weight"][0, 0] = 1e6

        assert said(self.faulty(tmp_path, large), "float16 does not hold", "lm_head.weight (1e+06)")

    def test_tied_weights_that_differ(self, tmp_path: Path) -> None:
        found = self.faulty(tmp_path, lambda _: None, tie_word_embeddings=True)
        assert said(found, "config.json of B", "lm_head.weight is model.embed_tokens.weight")

    def test_a_head_that_is_left_out(self, tmp_path: Path) -> None:
        found = self.faulty(
            tmp_path, lambda t: {n: x for n, x in t.items() if n != "lm_head.weight"}, tie_word_embeddings=True
        )
        assert found.only_a == ("lm_head.weight",)
        assert said(found, "takes its embedding as the head")

    def test_frozen_weights_that_moved(self, tmp_path: Path) -> None:
        checkpoint = FIXTURES / "z3_frozen" / "checkpoint"
        consolidate(checkpoint, tmp_path / "good", names="stored")
        frozen = next(t.name for t in compare(checkpoint, tmp_path / "good").tensors if t.role_a == "frozen")
        (tmp_path / "bad").mkdir()
        tensors = load_file(tmp_path / "good" / "model.safetensors")
        save_file(tensors | {frozen: tensors[frozen] + 1}, tmp_path / "bad" / "model.safetensors")
        assert said(compare(checkpoint, tmp_path / "bad"), "frozen in the run", frozen)

    def test_more_rows(self, tmp_path: Path) -> None:
        name = "model.embed_tokens.weight"
        found = self.faulty(tmp_path, lambda t: t | {name: torch.cat([t[name], t[name][:3]])})
        tensor = next(tensor for tensor in found.tensors if tensor.name == name)
        assert (tensor.state, tensor.figures.changed, tensor.changed_rows) == ("shape", 0, 0)
        assert found.beyond == (name,)
        assert said(found, "B does not load as it is", name)

    def test_missing_tensors(self, tmp_path: Path) -> None:
        name = "model.layers.1.mlp.up_proj.weight"
        found = self.faulty(tmp_path, lambda t: {key: tensor for key, tensor in t.items() if key != name})
        assert found.only_a == (name,)
        assert said(found, "B does not load as it is", name)


class TestReported:
    """The wrong outputs of earlier reports, as other converters make them, against the run that they came from."""

    @pytest.fixture(autouse=True)
    def libraries(self) -> None:
        pytest.importorskip("transformers", minversion="5")
        pytest.importorskip("peft")

    def written(self, folder: Path, tensors: dict[str, torch.Tensor], *, config: Path) -> Path:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
        shutil.copy(config / "config.json", folder)
        return folder

    def test_wrapped_names(self, tmp_path: Path) -> None:
        case = Case("tevatron_z3")
        wrong = self.written(tmp_path / "wrong", case.trained, config=case.checkpoint)
        found = compare(wrong, case.checkpoint)
        assert found.whole.changed == 0
        assert said(found, "A does not load as it is", "lm_q.")

    def test_a_second_head(self, tmp_path: Path) -> None:
        case = Case("llava_head_z3")
        trained = case.truth["base_model.model.lm_head.modules_to_save.default.weight"]
        base = load_file(case.base / "model.safetensors")
        wrong = self.written(tmp_path / "wrong", base | {"lm_head.weight": trained}, config=case.base)
        found = compare(case.checkpoint, wrong, base=case.base)
        assert said(found, "B does not load as it is", "lm_head.weight")
        # The trained head is not where a loader looks for it: there is still the base's.
        assert said(found, "the base's in B", "lm_head")

    @pytest.mark.parametrize("name", ["compile_lora_z2", "seqcls_lora_z3", "llava_lora_z3", "qlora_all_z2"])
    def test_an_adapter_that_was_not_merged(self, name: str, tmp_path: Path) -> None:
        """Its modules are the base's: the comparison with the base says so, and with the run which they are."""
        case = Case(name)
        wrong = self.written(tmp_path / "wrong", load_file(case.base / "model.safetensors"), config=case.base)
        found = compare(wrong, case.checkpoint, base=case.base)
        adapted = {
            key.removeprefix("base_model.model.").partition(".lora_")[0].removesuffix(".base_layer")
            for key in case.trained if ".lora_B" in key
        }  # fmt: skip
        assert len(found.beyond) >= len(adapted) > 0
        assert said(found, "the base's in A, without the adapter")
        assert compare(wrong, case.base).equal

    @pytest.mark.parametrize("merged", [False, True])
    def test_keys_that_peft_does_not_read(self, merged: bool, tmp_path: Path) -> None:
        """They are understood here, so that the values are the same; PEFT passes them by."""
        case = Case("compile_lora_z2")
        values = load_file(case.folder / "truth.safetensors")
        tensors = {name.replace(".default.", "."): values[name] for name in values if ".lora_" in name}
        (tmp_path / "wrong").mkdir()
        shutil.copy(case.checkpoint / "adapter_config.json", tmp_path / "wrong")
        save_file(tensors, tmp_path / "wrong" / "adapter_model.safetensors")
        found = compare(tmp_path / "wrong", case.checkpoint, **({"base": case.base} if merged else {}))
        assert found.whole.changed == 0
        assert said(found, "A does not load as it is", "_orig_mod")

    def test_a_classifier_s_head_in_a_causal_model(self, tmp_path: Path) -> None:
        case = Case("seqcls_lora_z3")
        head = case.truth["base_model.model.score.modules_to_save.default.weight"]
        tensors = load_file(case.base / "model.safetensors") | {"score.weight": head}
        found = compare(self.written(tmp_path / "wrong", tensors, config=case.base), case.checkpoint, base=case.base)
        assert said(found, "A does not load as it is", "score.weight would be ignored")
        assert said(found, "the base's in A, without the adapter")

    def test_resized_embeddings(self, tmp_path: Path) -> None:
        case = Case("resize_mts_z3")
        tensors = load_file(case.base / "model.safetensors")
        for key in ("model.embed_tokens", "lm_head"):
            tensors[f"{key}.weight"] = case.truth[f"base_model.model.{key}.modules_to_save.default.weight"]
        wrong = self.written(tmp_path / "wrong", tensors, config=case.base)
        found = compare(wrong, case.base)
        rows = {
            tensor.name: (tensor.shape_a[0], tensor.shape_b[0]) for tensor in found.tensors if tensor.state == "shape"
        }
        assert rows == {"model.embed_tokens.weight": (70, 64), "lm_head.weight": (70, 64)}
        assert said(found, "A does not load as it is", "[70, 16]", "expects [64, 16]")

    def test_a_projector_that_was_left_behind(self, tmp_path: Path) -> None:
        case = Case("llava_lora_z3")
        consolidate(case.checkpoint, tmp_path / "good", lora="merge", base=case.base)
        good, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "good", case.base))
        projector = {name: base[name] for name in good if "multi_modal_projector" in name}
        assert projector
        wrong = self.written(tmp_path / "wrong", good | projector, config=tmp_path / "good")
        found = compare(case.checkpoint, wrong, base=case.base)
        assert set(found.beyond) == {name for name in projector if not torch.equal(good[name], base[name])}
        assert said(found, "the base's in B", "multi_modal_projector")

    def test_what_the_optimizer_did_not_have(self, tmp_path: Path) -> None:
        case = Case("not_in_optimizer_z3")
        reference = load_file(case.folder / "ref" / "model.safetensors")
        torch.manual_seed(0)
        tensors = {n: t if n in case.trained else torch.randn_like(t) for n, t in reference.items()}
        wrong = self.written(tmp_path / "wrong", tensors, config=case.checkpoint)
        unsaved = {name for name in reference if name not in case.trained}
        assert set(compare(wrong, case.folder / "ref").beyond) == unsaved
        # With the run: it has no values of them, unless its base is named.
        found = compare(wrong, case.checkpoint)
        assert set(found.only_a) == unsaved
        assert any(
            "15 parameters without values" in note and "not given to the optimizer" in note for note in found.notes
        )
        found = compare(wrong, case.checkpoint, base=case.folder / "ref")
        assert (set(found.beyond), found.notes) == (unsaved, ())
        assert said(found, "the base's in B", "and 12 more")

    def test_only_what_the_optimizer_had(self, tmp_path: Path) -> None:
        """The run has no more, so all is equal; a loader would take random numbers for the rest."""
        case = Case("not_in_optimizer_z3")
        found = compare(self.written(tmp_path / "wrong", case.trained, config=case.checkpoint), case.checkpoint)
        assert found.whole.changed == 0
        assert said(found, "A does not load as it is", "in no file: it would be random")

    def test_a_dense_module_that_is_empty(self, tmp_path: Path) -> None:
        case = Case("st_dense_z3")
        names = {name.removeprefix("0.auto_model."): value for name, value in case.trained.items()}
        tensors = {name: value for name, value in names.items() if not name.startswith("2.")}
        wrong = self.written(tmp_path / "wrong", tensors, config=case.checkpoint)
        shutil.copy(case.checkpoint / "modules.json", wrong)
        for name in ("1_Pooling", "2_Dense"):
            shutil.copytree(case.checkpoint / name, wrong / name)
        found = compare(wrong, case.checkpoint)
        assert not found.equal
        assert said(found, "A does not load as it is", "2_Dense")

    def test_a_checkpoint_wrapper_in_the_names(self, tmp_path: Path) -> None:
        case = Case("ckpt_wrapper_full_z2")
        wrapped = load_file(case.folder / "truth.safetensors")
        wrong = self.written(
            tmp_path / "wrong",
            {n: t for n, t in wrapped.items() if not n.startswith("buffer:")},
            config=case.checkpoint,
        )
        found = compare(case.checkpoint, wrong)
        assert found.whole.changed == 0
        assert (found.only_a, found.only_b) == ((), ())
        assert said(found, "B does not load as it is", "_checkpoint_wrapped_module")


class TestTolerance:
    """What counts as equal."""

    @pytest.fixture
    def near(self, tmp_path: Path) -> Path:
        return altered(tmp_path / "near", lambda tensors: {name: tensor * 1.001 for name, tensor in tensors.items()})

    @pytest.mark.parametrize(
        ("tolerance", "equal"),
        [(None, False), ("0.2%", True), ("0.05%", False), (1e-2, True), ("1e-5", False), (0, False)],
    )
    def test_of_values(self, near: Path, tolerance: Any, equal: bool) -> None:
        assert compare(LLAMA, near, tolerance=tolerance).equal is equal

    def test_rounding_is_equal_unless_a_number_is_given(self, tmp_path: Path) -> None:
        rounded = altered(tmp_path / "bf16", lambda tensors: {n: t.bfloat16() for n, t in tensors.items()})
        assert compare(LLAMA, rounded).equal
        assert not compare(LLAMA, rounded, tolerance=0).equal
        assert compare(LLAMA, rounded, tolerance="0.4%").equal

    @pytest.mark.parametrize("tolerance", ["much", "-1", "nan", "inf", "1%%", "", True])
    def test_nonsense(self, tolerance: Any) -> None:
        with pytest.raises(BadOption, match="not a number"):
            compare(LLAMA, LLAMA, tolerance=tolerance)

    def test_infinity_is_beyond_any(self, tmp_path: Path) -> None:
        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            tensors["lm_head.weight"][0, 0] = math.inf
            tensors["lm_head.weight"][0, 1] += 1e-3

        assert compare(LLAMA, altered(tmp_path / "bad", spoil), tolerance=1e30).beyond == ("lm_head.weight",)


class TestCommand:
    """Exit codes and what is printed."""

    def test_equal(self) -> None:
        done = run("compare", LLAMA, LLAMA)
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, "A and B are equal")
        assert run("compare", LLAMA, LLAMA, "--quiet").stdout == ""

    def test_different(self) -> None:
        done = run("compare", TRAINED, LLAMA, "--tensors")
        assert done.returncode == 1
        assert done.stdout.startswith("A and B differ: 21 of 21 tensors\n")
        assert "model.layers.1.mlp.up_proj.weight" in done.stdout
        assert all(len(line) <= 100 for line in done.stdout.splitlines()[:20])

    def test_json(self) -> None:
        done = run("compare", TRAINED, LLAMA, "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["ok"], found["kind"], found["equal"]) == (1, False, "comparison", False)
        assert len(found["tensors"]) == 21
        assert found["whole"]["numel"] == 13136

    def test_json_has_no_infinity(self, tmp_path: Path) -> None:
        def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return tensors | {"lm_head.weight": tensors["lm_head.weight"].double() * 1e300}

        done = run("compare", LLAMA, altered(tmp_path / "bad", spoil), "--json")
        json.loads(done.stdout, parse_constant=lambda text: pytest.fail(text))

    @pytest.mark.parametrize(("paths", "line"), [([], "A B"), (["a"], "a B"), (["a", "b", "c"], "a b")])
    def test_two_paths_are_needed(self, paths: list[str], line: str) -> None:
        done = run("compare", *paths)
        assert done.returncode == 2
        assert "compare takes two models" in done.stderr
        assert f"zeroconsolidate compare {line}\n" in done.stderr

    def test_nothing_there(self, tmp_path: Path) -> None:
        done = run("compare", LLAMA, tmp_path / "nowhere")
        assert done.returncode == 2
        assert "there is no such directory" in done.stderr
        with pytest.raises(NotACheckpoint, match="a file"):
            compare(LLAMA / "config.json", LLAMA)
        with pytest.raises(NotACheckpoint):
            compare(tmp_path, LLAMA)

    def test_a_hub_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("huggingface_hub")
        cache = tmp_path / "hub" / "models--owner--name"
        shutil.copytree(LLAMA, cache / "snapshots" / ("5" * 40))
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text("5" * 40)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.chdir(tmp_path)
        assert compare("owner/name", LLAMA).equal

    def test_a_run_directory(self, tmp_path: Path) -> None:
        """Its newest complete checkpoint."""
        for step in (3, 6):
            shutil.copytree(TRAINED, tmp_path / "run" / f"checkpoint-{step}")
        found = compare(tmp_path / "run", LLAMA)
        assert found.a.what.startswith("checkpoint-6, ")

    def test_hostile_names_are_escaped(self, tmp_path: Path) -> None:
        torch.save({"x\x1b[2J.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
        done = run("compare", tmp_path, LLAMA)
        assert done.returncode == 1
        assert "\x1b" not in done.stdout


def test_it_is_public() -> None:
    assert zeroconsolidate.compare is compare
