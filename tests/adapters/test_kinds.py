"""Every kind of PEFT: the file is the one PEFT saves and PEFT loads it, or the kind is refused by its name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import UnsupportedLayout, ZeroConsolidateError

pytest.importorskip("peft")

import peft
from peft_runs import build, differing, llama, lora, tune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
PROMPT: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}

WRITTEN: dict[str, Callable[[], Any]] = {
    "ADALORA": lambda: peft.AdaLoraConfig(**TARGETS, init_r=4, target_r=2, total_step=10),
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LOHA": lambda: peft.LoHaConfig(**TARGETS, r=2, rank_pattern={"v_proj": 3}),
    "LOKR": lambda: peft.LoKrConfig(**TARGETS, r=2),
    "OFT": lambda: peft.OFTConfig(**TARGETS, oft_block_size=4, use_cayley_neumann=False),
    "BOFT": lambda: peft.BOFTConfig(**TARGETS, boft_block_size=4),
    "VERA": lambda: peft.VeraConfig(**TARGETS, r=4),
    "VERA without projections": lambda: peft.VeraConfig(**TARGETS, r=4, save_projection=False),
    "PVERA": lambda: peft.PveraConfig(**TARGETS, r=4),
    "VBLORA": lambda: peft.VBLoRAConfig(**TARGETS, r=2, num_vectors=8, vector_length=4, topk=2),
    "FOURIERFT": lambda: peft.FourierFTConfig(**TARGETS, n_frequency=8),
    "HRA": lambda: peft.HRAConfig(**TARGETS, r=2),
    "MISS": lambda: peft.MissConfig(**TARGETS, r=2),
    "RANDLORA": lambda: peft.RandLoraConfig(**TARGETS, r=2),
    "C3A": lambda: peft.C3AConfig(**TARGETS, block_size=4),
    "ROAD": lambda: peft.RoadConfig(**TARGETS, group_size=2),
    "WAVEFT": lambda: peft.WaveFTConfig(**TARGETS, n_frequency=8),
    "DELORA": lambda: peft.DeloraConfig(**TARGETS, r=2),
    "GRALORA": lambda: peft.GraloraConfig(**TARGETS, r=4, gralora_k=2),
    "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "HIRA": lambda: peft.HiraConfig(**TARGETS, r=2),
    "TINYLORA": lambda: peft.TinyLoraConfig(**TARGETS),
    "GLORA": lambda: peft.GloraConfig(**TARGETS, r=2),
    "PEANUT": lambda: peft.PeanutConfig(**TARGETS),
    "DEFT": lambda: peft.DeftConfig(**TARGETS),
    "LILY": lambda: peft.LilyConfig(**TARGETS),
    "BEFT": lambda: peft.BeftConfig(**TARGETS),
    "PSOFT": lambda: peft.PsoftConfig(**TARGETS, r=2),
    "OSF": lambda: peft.OSFConfig(**TARGETS),
    "POLY": lambda: peft.PolyConfig(**TARGETS, r=2),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(**PROMPT),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(**PROMPT),
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(**PROMPT, num_tasks=2, num_ranks=1),
}

REFUSED: dict[str, Callable[[], Any]] = {
    "P_TUNING": lambda: peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=8),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(**PROMPT, prefix_projection=True, encoder_hidden_size=8),
    "CPT": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[1, 2], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2]
    ),
    "CARTRIDGE": lambda: peft.CartridgeConfig(**PROMPT),
    "SHIRA": lambda: peft.ShiraConfig(**TARGETS, r=2),
    "UNILORA": lambda: peft.UniLoraConfig(**TARGETS),
    "FROD": lambda: peft.FrodConfig(**TARGETS),
    "SHADOW": lambda: peft.ShadowConfig(),
    "ADAPTION_PROMPT": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"),
    "VBLORA": lambda: peft.VBLoRAConfig(
        **TARGETS, r=2, num_vectors=8, vector_length=4, topk=2, save_only_topk_weights=True
    ),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_written_as_peft_does(what: str, tmp_path: Path) -> None:
    tuned = tune(llama, default=WRITTEN[what]())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    report = consolidate(source, tmp_path / "out")
    tuned.model.save_pretrained(tmp_path / "truth")
    ours, truth = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("out", "truth"))
    assert differing(ours, truth) == []
    assert not any("trained beside" in text for text in report.warnings)
    assert verify(tmp_path / "out").ok
    loaded = peft.PeftModel.from_pretrained(build(llama), tmp_path / "out")
    values = dict(loaded.named_parameters(remove_duplicate=False)) | dict(loaded.named_buffers())
    trained = {name: value for name, value in tuned.masters.items() if "ranknum" not in name}
    assert [name for name, value in trained.items() if not torch.equal(values[name], value)] == []
    assert trained


@pytest.mark.parametrize("way", ["adapter", "merge", None])
@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str, way: str | None, tmp_path: Path) -> None:
    tuned = tune(llama, default=REFUSED[kind]())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    with pytest.raises(ZeroConsolidateError, match=kind):
        consolidate(source, tmp_path / "out", lora=way)
    assert not (tmp_path / "out").exists()


def test_a_later_kind_is_refused_by_name(tmp_path: Path) -> None:
    """One that a later release of PEFT has: nothing is written in the place of an adapter."""
    source = tune(llama, default=lora()).save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    config = source / "adapter_config.json"
    config.write_text(config.read_text().replace('"LORA"', '"NEWLORA"'))
    with pytest.raises(UnsupportedLayout, match=r"NEWLORA.*lora=.keep"):
        consolidate(source, tmp_path / "out")


def test_a_configuration_of_another_run(tmp_path: Path) -> None:
    """No parameter is one of an adapter: what would be written is no adapter, and nothing says what else."""
    source = tune(llama, default=lora()).save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    config = source / "adapter_config.json"
    config.write_text(config.read_text().replace('"LORA"', '"IA3"'))
    with pytest.raises(UnsupportedLayout, match="IA3, and the checkpoint has no parameter of such an adapter"):
        consolidate(source, tmp_path / "out")


def test_prompts_cannot_be_merged(tmp_path: Path) -> None:
    tuned = tune(llama, default=WRITTEN["PROMPT_TUNING"]())
    source = tuned.save(tmp_path / "in", stage=2, frozen=True, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedLayout, match="PROMPT_TUNING cannot be merged"):
        consolidate(source, tmp_path / "out", lora="merge", base=tuned.save_base(tmp_path / "base"))


def test_prompts_behind_a_wrapper(tmp_path: Path) -> None:
    tuned = tune(llama, default=WRITTEN["PREFIX_TUNING"]())
    source = tuned.save(tmp_path / "in", stage=3, frozen=True, dtype=torch.bfloat16, wrapper="model.")
    consolidate(source, tmp_path / "out")
    (master,) = tuned.masters.values()
    assert differing(load_file(tmp_path / "out" / "adapter_model.safetensors"), {"prompt_embeddings": master}) == []


def test_verify_finds_prompts_that_peft_does_not_load(tmp_path: Path) -> None:
    tuned = tune(llama, default=WRITTEN["PROMPT_TUNING"]())
    consolidate(tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16), tmp_path / "out")
    path = tmp_path / "out" / "adapter_model.safetensors"
    (tmp_path / "out" / "zeroconsolidate.json").unlink()
    (value,) = load_file(path).values()
    for name, tensor in (("prompt_encoder.default.embedding.weight", value), ("prompt_embeddings", value[:3].clone())):
        save_file({name: tensor}, path)
        assert not verify(tmp_path / "out").ok, name


def test_verify_finds_shared_tensors_under_a_module_s_name(tmp_path: Path) -> None:
    tuned = tune(llama, default=WRITTEN["RANDLORA"]())
    consolidate(tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16), tmp_path / "out")
    path = tmp_path / "out" / "adapter_model.safetensors"
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"] == "RANDLORA"
    (tmp_path / "out" / "zeroconsolidate.json").unlink()
    tensors = load_file(path)
    tensors["base_model.model.base_model.randlora_A"] = tensors.pop("base_model.randlora_A")
    save_file(tensors, path)
    assert not verify(tmp_path / "out").ok
