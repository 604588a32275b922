"""Situations that people report, each a real training: what comes out is right, or an error that says what to do.

Values are those of the live engine, merged by PEFT where there are adapters, and looked at in the model that
transformers or PEFT loads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from reported import ROOT, Case, differing, load, load_adapter
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate, inspect, verify
from zeroconsolidate.errors import WrongNames, ZeroConsolidateError

transformers = pytest.importorskip("transformers", minversion="5")
pytest.importorskip("peft")

if TYPE_CHECKING:
    from pathlib import Path

    import torch

NOTES = 12
"""A screenful."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.iterdir()))
def test_files_are_those_reported(name: str) -> None:
    case = Case(name)
    files = {str(path.relative_to(case.folder)): path for path in case.folder.rglob("*") if path.is_file()}
    digests = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in files.items()}
    assert digests.pop("provenance.json")
    assert digests == case.provenance["sha256"]


class TestOneEncoderUnderTwoNames:
    """`tevatron_z3`: lm_q is lm_p. The tensors are stored as lm_q's, and both prefixes can be taken off."""

    case = Case("tevatron_z3")

    def expected(self) -> dict[str, torch.Tensor]:
        return {name.removeprefix("lm_q."): value for name, value in self.case.trained.items()}

    def test_it_loads(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out)
        assert verify(out).ok
        assert differing(load(transformers.AutoModel, out).state_dict(), self.expected()) == []

    def test_it_is_written_once(self, tmp_path: Path, out: Path) -> None:
        checkpoint = shutil.copytree(self.case.checkpoint, tmp_path / "ckpt")
        config = checkpoint / "config.json"
        config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
        consolidate(checkpoint, out)
        assert differing(load_file(out / "model.safetensors"), self.expected()) == []

    def test_verify_finds_wrapped_names(self, out: Path) -> None:
        out.mkdir()
        save_file(self.case.trained, out / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(self.case.checkpoint / "config.json", out)
        assert not verify(out).ok


class TestHeadOfAVisionLanguageModel:
    """`llava_head_z3`: transformers 5 has other names in memory than the files of the base."""

    case = Case("llava_head_z3")

    def test_the_trained_head_is_merged(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out, lora="merge", base=self.case.base)
        assert load_file(out / "model.safetensors").keys() == load_file(self.case.base / "model.safetensors").keys()
        cls = transformers.LlavaForConditionalGeneration
        model = load(cls, out)
        trained = self.case.truth["base_model.model.lm_head.modules_to_save.default.weight"]
        assert differing({"head": model.lm_head.weight}, {"head": trained}) == []
        assert differing(model.state_dict(), self.case.merged(load(cls, self.case.base))) == []

    def test_the_adapter(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out)
        base = load(transformers.LlavaForConditionalGeneration, self.case.base)
        own = dict(load_adapter(base, out).named_parameters())
        assert differing({name: own[name] for name in self.case.trained}, self.case.trained) == []

    def test_verify_finds_the_second_head(self, out: Path) -> None:
        shutil.copytree(self.case.base, out)
        trained = self.case.truth["base_model.model.lm_head.modules_to_save.default.weight"]
        tensors = load_file(out / "model.safetensors") | {"lm_head.weight": trained}
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        assert not verify(out).ok


class TestCompiledLayers:
    """`compile_lora_z2`: `_orig_mod.` stands inside of names."""

    case = Case("compile_lora_z2")

    def test_the_adapter(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out)
        own = dict(load_adapter(load(transformers.LlamaForCausalLM, self.case.base), out).named_parameters())
        assert differing({name: own[name] for name in self.case.trained}, self.case.trained) == []

    def test_merged(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out, lora="merge", base=self.case.base)
        cls = transformers.LlamaForCausalLM
        assert differing(load(cls, out).state_dict(), self.case.merged(load(cls, self.case.base))) == []

    def test_verify_finds_keys_that_peft_does_not_read(self, out: Path) -> None:
        out.mkdir()
        shutil.copy(self.case.checkpoint / "adapter_config.json", out)
        values = load_file(self.case.folder / "truth.safetensors")
        tensors = {name.replace(".default.", "."): values[name] for name in values if ".lora_" in name}
        save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
        assert not verify(out).ok


def test_checkpoint_wrapper(out: Path) -> None:
    """`ckpt_wrapper_full_z2`: torch's wrapper is in the names of parameters, but not in those of the state dict."""
    case = Case("ckpt_wrapper_full_z2")
    consolidate(case.checkpoint, out, check="all")
    assert differing(load(transformers.LlamaForCausalLM, out).state_dict(), case.trained) == []
    info = inspect(case.checkpoint)
    assert (info.counts["trainable"], info.counts["buffer"]) == (len(case.trained), 0)


class TestLanguageModelOfAVisionLanguageModel:
    """`llava_lora_z3`: adapters in the language model, and a projector that was trained beside them."""

    case = Case("llava_lora_z3")

    def test_merged(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out, lora="merge", base=self.case.base)
        assert load_file(out / "model.safetensors").keys() == load_file(self.case.base / "model.safetensors").keys()
        cls = transformers.LlavaForConditionalGeneration
        assert differing(load(cls, out).state_dict(), self.case.merged(load(cls, self.case.base))) == []

    def test_the_projector_is_beside_the_adapter(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out)
        base = load(transformers.LlavaForConditionalGeneration, self.case.base)
        own = dict(load_adapter(base, out).named_parameters())
        factors = {name: value for name, value in self.case.trained.items() if ".lora_" in name}
        assert differing({name: own[name] for name in factors}, factors) == []
        written = {
            name: value
            for path in out.rglob("*.safetensors")
            for name, value in load_file(path).items()
            if "multi_modal_projector" in name
        }
        projector = {name: value for name, value in self.case.trained.items() if "multi_modal_projector" in name}
        assert len(written) == len(projector) == 4
        for name, value in written.items():
            (true,) = (true for key, true in projector.items() if key.endswith(name.removeprefix("base_model.model.")))
            assert differing({name: value}, {name: true}) == []


class TestResizedEmbeddings:
    """`resize_mts_z3`: 64 tokens became 70, and the base's config.json does not know."""

    case = Case("resize_mts_z3")

    def test_merged(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out, lora="merge", base=self.case.base)
        assert verify(out).ok
        cls = transformers.LlamaForCausalLM
        base = load(cls, self.case.base)
        base.resize_token_embeddings(70, mean_resizing=False)
        assert differing(load(cls, out).state_dict(), self.case.merged(base)) == []

    def test_verify_finds_more_rows_than_tokens(self, out: Path) -> None:
        shutil.copytree(self.case.base, out)
        tensors = load_file(out / "model.safetensors")
        for name, key in (("model.embed_tokens", "model.embed_tokens"), ("lm_head", "lm_head")):
            tensors[f"{name}.weight"] = self.case.truth[f"base_model.model.{key}.modules_to_save.default.weight"]
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        assert not verify(out).ok


class TestQuantizedBaseInTheSave:
    """`qlora_all_z2`: the checkpoint has the base in 4 bits, and the original is given."""

    case = Case("qlora_all_z2")

    def test_merged(self, out: Path) -> None:
        report = consolidate(self.case.checkpoint, out, lora="merge", base=self.case.base)
        assert load_file(out / "model.safetensors").keys() == load_file(self.case.base / "model.safetensors").keys()
        cls = transformers.LlamaForCausalLM
        assert differing(load(cls, out).state_dict(), self.case.merged(load(cls, self.case.base))) == []
        assert len(report.notes) <= NOTES

    def test_the_adapter_with_few_notes(self, out: Path) -> None:
        report = consolidate(self.case.checkpoint, out)
        own = dict(load_adapter(load(transformers.LlamaForCausalLM, self.case.base), out).named_parameters())
        assert differing({name: own[name] for name in self.case.trained}, self.case.trained) == []
        assert len(report.notes) <= NOTES


class TestClassifierOnACausalBase:
    """`seqcls_lora_z3`: the adapter's task is another than the base's."""

    case = Case("seqcls_lora_z3")

    def test_merged(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out, lora="merge", base=self.case.base)
        config = json.loads((out / "config.json").read_text())
        assert config["architectures"] == ["LlamaForSequenceClassification"]
        cls = transformers.AutoModelForSequenceClassification
        model = load(cls, out)
        base, _ = transformers.LlamaForSequenceClassification.from_pretrained(
            self.case.base, num_labels=3, dtype=model.dtype, output_loading_info=True
        )
        assert differing(model.state_dict(), self.case.merged(base)) == []

    def test_verify_finds_a_head_that_the_config_does_not_have(self, out: Path) -> None:
        shutil.copytree(self.case.base, out)
        head = self.case.truth["base_model.model.score.modules_to_save.default.weight"]
        save_file(load_file(out / "model.safetensors") | {"score.weight": head}, out / "model.safetensors")
        assert not verify(out).ok


class TestNotGivenToTheOptimizer:
    """`not_in_optimizer_z3`: stage 3 saves the values of such parameters nowhere."""

    case = Case("not_in_optimizer_z3")

    def test_refused_without_a_base(self, out: Path) -> None:
        with pytest.raises(ZeroConsolidateError):
            consolidate(self.case.checkpoint, out)
        assert not out.exists()

    def test_the_error_says_what_to_do(self, out: Path) -> None:
        with pytest.raises(ZeroConsolidateError, match=r"15 .*base"):
            consolidate(self.case.checkpoint, out)

    def test_the_base_supplies_them(self, tmp_path: Path, out: Path) -> None:
        base = shutil.copytree(self.case.folder / "ref", tmp_path / "base")
        tensors = load_file(base / "model.safetensors")
        for name in self.case.trained:
            tensors[name] += 1
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
        consolidate(self.case.checkpoint, out, base=base)
        cls = transformers.LlamaForCausalLM
        assert differing(load(cls, out).state_dict(), load(cls, self.case.folder / "ref").state_dict()) == []
        written = load_file(out / "model.safetensors")
        assert differing({name: written[name] for name in self.case.trained}, self.case.trained) == []

    def test_inspect_says_what_is_not_there(self) -> None:
        info = inspect(self.case.checkpoint)
        assert info.counts["trainable"] == len(self.case.trained) == 6
        assert any("optimizer" in note for note in info.notes)


class TestModuleBehindThePooling:
    """`st_dense_z3`: stage 3 leaves an empty file of the dense module."""

    case = Case("st_dense_z3")

    def test_no_empty_weights_are_published(self, out: Path) -> None:
        consolidate(self.case.checkpoint, out, allow_missing=True)
        written = {path: load_file(path) for path in out.rglob("*.safetensors")}
        assert {path.relative_to(out).as_posix() for path in written} == {
            "model.safetensors",
            "2_Dense/model.safetensors",
        }
        for path, tensors in written.items():
            assert [name for name, value in tensors.items() if not value.numel()] == [], path

    def test_without_the_trained_module_the_empty_file_is_refused(self, out: Path) -> None:
        with pytest.raises(WrongNames, match="2_Dense"):
            consolidate(self.case.checkpoint, out, exclude=["2.*"])
        assert not out.exists()

    def test_verify_finds_them(self, out: Path) -> None:
        out.mkdir()
        names = {name.removeprefix("0.auto_model."): value for name, value in self.case.trained.items()}
        tensors = {name: value for name, value in names.items() if not name.startswith("2.")}
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        for name in ("config.json", "modules.json"):
            shutil.copy(self.case.checkpoint / name, out)
        for name in ("1_Pooling", "2_Dense"):
            shutil.copytree(self.case.checkpoint / name, out / name)
        assert not verify(out).ok
