"""More of what people report, from runs of our own: what comes out is right, or an error that says what to do."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES
from model_cases import ROOT
from safetensors.torch import load_file
from zero_model import Run, save

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import ZeroConsolidateError
from zeroconsolidate.naming import asking

pytest.importorskip("transformers", minversion="5")
pytest.importorskip("peft")

import peft
import transformers
from peft_runs import llama, tune
from reported import differing, load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class TestQuantizedFrozenWeights:
    """`zero_quantized_nontrainable_weights` keeps frozen weights in 8 bits, and saves no scale."""

    BASE = ROOT / "_bases" / "llama"

    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        tensors = load_file(self.BASE / "model.safetensors")
        trained = {name: value.float() + 0.01 for name, value in tensors.items() if "mlp" in name}
        frozen = {
            name: (value / value.abs().max() * 127).round().to(torch.int8)
            for name, value in tensors.items()
            if name not in trained
        }
        config = {"zero_optimization": {"stage": 3, "zero_quantized_nontrainable_weights": True}}
        root = save(
            Run(
                stage=3, world_size=2, groups=[trained], frozen=frozen, order=list(tensors), extra={"ds_config": config}
            ),
            tmp_path / "ckpt",
        )
        shutil.copy(self.BASE / "config.json", root)
        return root

    def test_refused_by_the_option_s_name(self, checkpoint: Path, out: Path) -> None:
        with pytest.raises(ZeroConsolidateError, match=r"zero_quantized_nontrainable_weights.*base"):
            consolidate(checkpoint, out)
        assert not out.exists()

    def test_the_original_s_are_taken(self, checkpoint: Path, out: Path) -> None:
        consolidate(checkpoint, out, base=self.BASE)
        expected = {
            name: value.float() + (0.01 if "mlp" in name else 0)
            for name, value in load_file(self.BASE / "model.safetensors").items()
        }
        assert differing(load(transformers.LlamaForCausalLM, out).state_dict(), expected) == []


class TestPrompts:
    """Prompt learning: PEFT's file holds the prompts only, under a name of its own."""

    @pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
    def test_written_for_peft(self, kind: str, tmp_path: Path, out: Path) -> None:
        tuned = tune(llama, default=getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4))
        checkpoint = tuned.save(tmp_path / "ckpt", stage=2, frozen=False, dtype=torch.bfloat16)
        consolidate(checkpoint, out)
        base = load(transformers.LlamaForCausalLM, tuned.save_base(tmp_path / "base"))
        prompts = peft.PeftModel.from_pretrained(base, out).prompt_encoder["default"].embedding.weight
        (master,) = tuned.masters.values()
        assert torch.equal(prompts, master)

    def test_computed_ones_are_refused_by_name(self, tmp_path: Path, out: Path) -> None:
        settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "encoder_hidden_size": 8}
        tuned = tune(llama, default=peft.PromptEncoderConfig(**settings))
        checkpoint = tuned.save(tmp_path / "ckpt", stage=2, frozen=False, dtype=torch.bfloat16)
        with pytest.raises(ZeroConsolidateError, match="P_TUNING"):
            consolidate(checkpoint, out)


def test_a_diffusers_model(tmp_path: Path, out: Path) -> None:
    checkpoint = shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "ckpt")
    (checkpoint / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0"}))
    consolidate(checkpoint, out)
    assert [path.name for path in out.glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]


def test_two_models_of_one_accelerate_run(tmp_path: Path, out: Path) -> None:
    for tag, fixture in (("pytorch_model", "z2_bf16"), ("pytorch_model_1", "z2_groups")):
        (source,) = (FIXTURES / fixture / "checkpoint").glob("global_step*")
        shutil.copytree(source, tmp_path / "ckpt" / tag)
    (tmp_path / "ckpt" / "latest").write_text("pytorch_model_1")
    with pytest.raises(ZeroConsolidateError, match=r"tag.*pytorch_model"):
        consolidate(tmp_path / "ckpt", out)
    with pytest.raises(ZeroConsolidateError, match=r"tag=.pytorch_model\".*tag=.pytorch_model_1\""):
        consolidate(tmp_path / "ckpt", out, tag="last-complete")
    for tag in ("pytorch_model", "pytorch_model_1"):
        consolidate(tmp_path / "ckpt", tmp_path / tag, tag=tag)


class TestAnotherBase:
    """A run's adapter merged into a base it was not trained on."""

    def test_refused(self, tmp_path: Path, out: Path) -> None:
        """adapter_config.json names another base, which is of another type; the run ties what this base does not."""
        sizes = json.loads((ROOT / "_bases" / "qwen2" / "config.json").read_text())
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads")  # fmt: skip
        config = transformers.LlamaConfig(**{name: sizes[name] for name in names}, tie_word_embeddings=False)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
        with pytest.raises(ZeroConsolidateError, match="qwen2"):
            consolidate(ROOT / "lora_patterns_z3" / "checkpoint", out, lora="merge", base=tmp_path / "other")
        assert not out.exists()

    def test_the_recorded_base_is_printed(self, out: Path) -> None:
        with pytest.raises(ZeroConsolidateError, match=r"base=._bases/llama"):
            consolidate(ROOT / "lora_z3" / "checkpoint", out, lora="merge")


def test_a_part_is_called_one(out: Path) -> None:
    report = consolidate(FIXTURES / "trainer_zero2_bf16" / "checkpoint", out, include=["*embed*"])
    assert any("part" in text for text in report.warnings)
    found = verify(out)
    assert any("part of a model" in text for text in (*found.problems, *found.notes))


def test_a_config_of_ten_million_layers(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = shutil.copytree(ROOT / "llm_untied_z2" / "checkpoint", tmp_path / "ckpt")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10_000_000}))
    monkeypatch.setattr(asking, "ask", lambda _: (None, "transformers took more than 300 s to build the model"))
    with pytest.raises(ZeroConsolidateError, match="num_hidden_layers"):
        consolidate(checkpoint, out)


def test_a_pickle_of_nested_tuples(tmp_path: Path, out: Path) -> None:
    checkpoint = shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "ckpt")
    (path,) = checkpoint.glob("*/mp_rank_00_model_states.pt")
    with zipfile.ZipFile(path) as container:
        records = {entry.filename: container.read(entry) for entry in container.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as container:
        for name, data in records.items():
            nested = b"\x80\x02}\x8c\x01xN" + b"\x85" * 100_000 + b"s."
            container.writestr(name, nested if name.endswith("/data.pkl") else data)
    with pytest.raises(ZeroConsolidateError, match="nested deeper"):
        consolidate(checkpoint, out)
