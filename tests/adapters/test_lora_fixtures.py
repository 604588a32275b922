"""Real adapter runs under DeepSpeed: the adapter is the trained one, and the merged model answers as the live one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from model_cases import ModelCase, model_cases
from safetensors.torch import load_file

import zeroconsolidate

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
import transformers
import true_models
from witnesses import assert_as_recorded, assert_is_the_true_model

if TYPE_CHECKING:
    from pathlib import Path

CASES = [pytest.param(case, id=case.name) for case in model_cases(adapter=True)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLASSES = {"causal": "AutoModelForCausalLM", "llm_reranker": "AutoModelForCausalLM", "llm_embedder": "AutoModel"}


def load(case: ModelCase, folder: Path, **options: object) -> tuple[torch.nn.Module, dict[str, object]]:
    cls = getattr(transformers, CLASSES[case.recipe])
    model, info = cls.from_pretrained(folder, output_loading_info=True, **options)
    return model.eval(), info


@pytest.mark.parametrize("case", CASES)
def test_the_adapter_is_the_trainer_s_but_exact(case: ModelCase, tmp_path: Path):
    """The Trainer's own file has the same names, and the masters' values rounded to what it was trained in."""
    zeroconsolidate.consolidate(case.checkpoint, tmp_path / "out", check="all")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    theirs = {
        name: tensor
        for name, tensor in load_file(case.checkpoint / "adapter_model.safetensors").items()
        if tensor.numel()
    }
    assert theirs.keys() <= ours.keys()
    if theirs:
        assert theirs.keys() == ours.keys()
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name].to(tensor.dtype), tensor)] == []
    values = [tensor for name, tensor in case.expected.items() if tensor.dtype == torch.float32]
    assert [name for name, tensor in ours.items() if not any(torch.equal(tensor, v) for v in values if
            v.shape == tensor.shape)] == []  # fmt: skip
    assert (tmp_path / "out" / "adapter_config.json").read_bytes() == (
        case.checkpoint / "adapter_config.json"
    ).read_bytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_merged_as_peft_merges(case: ModelCase, dtype: str, tmp_path: Path):
    """Bit for bit `merge_and_unload()` of the exported adapter, and without a missing or unexpected key."""
    zeroconsolidate.consolidate(case.checkpoint, tmp_path / "adapter")
    zeroconsolidate.consolidate(case.checkpoint, tmp_path / "out", lora="merge", base=case.base, dtype=dtype)
    base, _ = load(case, case.base, dtype=DTYPES[dtype])
    truth = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    model, info = load(case, tmp_path / "out")
    extra = {"lm_head.weight"} if case.recipe == "llm_embedder" else set()  # the base has a head, AutoModel has none
    assert not info["missing_keys"] and set(info["unexpected_keys"]) <= extra and not info["mismatched_keys"]
    ours = model.state_dict()
    assert ours.keys() == truth.keys()
    assert [name for name, tensor in truth.items() if not torch.equal(ours[name], tensor)] == []


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].recipe == "causal"])
def test_merged_answers_as_the_live_model(case: ModelCase, tmp_path: Path):
    zeroconsolidate.consolidate(case.checkpoint, tmp_path / "out", lora="merge", base=case.base)
    model, _ = load(case, tmp_path / "out")
    found = assert_is_the_true_model(case, model, tmp_path / "out", true_models.merged(case))
    assert_as_recorded(case, found, "merged", model)


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].recipe != "causal"])
def test_the_frozen_copy_is_the_base_rounded(case: ModelCase, tmp_path: Path):
    """FlagEmbedding's checkpoints hold the base too: `--base` is proven with it, and can be done without."""
    report = zeroconsolidate.consolidate(case.checkpoint, tmp_path / "out", lora="merge", base=case.base, check="all")
    assert report.checked > 1000
    zeroconsolidate.consolidate(case.checkpoint, tmp_path / "frozen", lora="merge", names="stored")
    exact, rounded = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "frozen"))
    for name, tensor in rounded.items():
        original = next(value for key, value in exact.items() if name.endswith(key.removeprefix("model.")))
        assert (tensor - original).abs().max() <= original.abs().max() / 256
