"""Adapter directories are those PEFT itself would have saved, and PEFT loads them."""

from __future__ import annotations

import json

import pytest
import torch
from fixtures import FIXTURES
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.errors import BadOption, NotACheckpoint

pytest.importorskip("peft")

from typing import TYPE_CHECKING

from peft import PeftModel, set_peft_model_state_dict
from peft_runs import CASES, Tuned, adapted, build, differing, llama, lora, tune

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", params=CASES)
def tuned(request: pytest.FixtureRequest) -> Tuned:
    make, config = CASES[request.param]
    return tune(make, default=config)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_file_is_the_one_peft_saves(tuned: Tuned, stage: int, tmp_path: Path):
    source = tuned.save(tmp_path / "in", stage=stage, frozen=True, dtype=torch.float32)
    zeroconsolidate.consolidate(source, tmp_path / "out")
    tuned.model.save_pretrained(tmp_path / "truth")
    ours, truth = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("out", "truth"))
    assert differing(ours, truth) == []
    config = (tmp_path / "out" / "adapter_config.json").read_bytes()
    assert config == (source / "adapter_config.json").read_bytes()


def test_peft_loads_it(tuned: Tuned, tmp_path: Path):
    """From a checkpoint without the base, as the Trainer leaves it: nothing missing, nothing unexpected."""
    source = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16)
    zeroconsolidate.consolidate(source, tmp_path / "out")
    tuned.model.save_pretrained(tmp_path / "truth")
    results = {
        folder: set_peft_model_state_dict(
            adapted(build(tuned.make), tuned.configs), load_file(tmp_path / folder / "adapter_model.safetensors")
        )
        for folder in ("out", "truth")
    }
    # PEFT lists every name of the base as missing, and tied names even of what it has saved itself.
    known = results["truth"]
    assert [key for key in results["out"].missing_keys if "default" in key and key not in known.missing_keys] == []
    assert [key for key in results["out"].unexpected_keys if key not in known.unexpected_keys] == []
    model = PeftModel.from_pretrained(build(tuned.make), tmp_path / "out")
    values = dict(model.named_parameters(remove_duplicate=False))
    assert [name for name, value in tuned.masters.items() if not torch.equal(values[name].float(), value)] == []


def test_several_adapters(tmp_path: Path):
    tuned = tune(llama, default=lora(), second=lora(r=2), third=lora(r=3, modules_to_save=["lm_head"]))
    source = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16)
    zeroconsolidate.consolidate(source, tmp_path / "out")
    tuned.model.save_pretrained(tmp_path / "truth")
    for folder in (".", "second", "third"):
        ours, truth = (load_file(tmp_path / d / folder / "adapter_model.safetensors") for d in ("out", "truth"))
        assert differing(ours, truth) == []
        assert json.loads((tmp_path / "out" / folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    report = zeroconsolidate.consolidate(source, tmp_path / "some", adapters=["third", "default"])
    assert set(report.files) >= {"adapter_model.safetensors", "third/adapter_model.safetensors"}
    assert not (tmp_path / "some" / "second").exists()
    assert report.left_out
    with pytest.raises(BadOption, match="it has default, second, third"):
        zeroconsolidate.consolidate(source, tmp_path / "none", adapters=["fourth"])


def test_behind_a_wrapper(tmp_path: Path):
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=2, frozen=True, dtype=torch.bfloat16, wrapper="model.")
    zeroconsolidate.consolidate(source, tmp_path / "out")
    tuned.model.save_pretrained(tmp_path / "truth")
    ours, truth = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("out", "truth"))
    assert differing(ours, truth) == []


def test_raw_names_can_be_kept(tmp_path: Path):
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="keep")
    assert differing(load_file(tmp_path / "out" / "model.safetensors"), tuned.masters) == []


def test_without_a_configuration(tmp_path: Path):
    """Weights alone cannot be loaded by PEFT, so silence would be a trap."""
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    (source / "adapter_config.json").unlink()
    with pytest.raises(NotACheckpoint, match=r"lora=.keep"):
        zeroconsolidate.consolidate(source, tmp_path / "out")


def test_trained_beside_the_adapters_is_said(tmp_path: Path):
    tuned = tune(llama, default=lora())
    tuned.masters["base_model.model.model.norm.weight"] = torch.ones(16)
    source = tuned.save(tmp_path / "in", stage=2, frozen=True, dtype=torch.bfloat16)
    report = zeroconsolidate.consolidate(source, tmp_path / "out")
    assert any("model.norm.weight" in text for text in report.warnings)


@pytest.mark.parametrize("lora_option", ["adapter", "merge"])
def test_a_run_without_adapters(lora_option: str, tmp_path: Path):
    fixture = FIXTURES / "z3_bf16" / "checkpoint"
    with pytest.raises(BadOption, match="no PEFT adapters"):
        zeroconsolidate.consolidate(fixture, tmp_path / "out", lora=lora_option)
