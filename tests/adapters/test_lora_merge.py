"""Merged weights are those of PEFT's own `merge_and_unload()`, bit for bit, in float32 and bfloat16."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.errors import BadOption, UnsupportedLayout, WitnessMismatch

pytest.importorskip("peft")

from peft_runs import CASES, EXPERTS, Tuned, build, differing, gpt2, llama, lora, mixtral, qwen3_moe, tune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="module", params=CASES)
def tuned(request: pytest.FixtureRequest) -> Tuned:
    make, config = CASES[request.param]
    return tune(make, default=config)


def hub_layout(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The model as it is saved: experts one by one, ties once."""
    if not hasattr(model, "save_pretrained"):
        return model.state_dict()
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stage", [2, 3])
def test_into_the_original_model(tuned: Tuned, stage: int, dtype: str, tmp_path: Path):
    source = tuned.save(tmp_path / "in", stage=stage, frozen=False, dtype=torch.bfloat16)
    base = tuned.save_base(tmp_path / "base")
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base, dtype=dtype, check="all")
    merged = tuned.merged(DTYPES[dtype])
    assert differing(written(tmp_path / "out"), hub_layout(merged, tmp_path / "truth")) == []
    if (tmp_path / "truth" / "config.json").exists():
        ours, theirs = (json.loads((tmp_path / d / "config.json").read_text()) for d in ("out", "truth"))
        assert ours.get("tie_word_embeddings") == theirs.get("tie_word_embeddings")


@pytest.mark.parametrize("dtype", DTYPES)
def test_into_the_frozen_copy(tuned: Tuned, dtype: str, tmp_path: Path):
    """The base in the shards is in bfloat16, whatever the original was."""
    source = tuned.save(tmp_path / "in", stage=3, frozen=True, dtype=torch.bfloat16)
    report = zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", dtype=dtype, names="stored")
    merged = tuned.merged(DTYPES[dtype], rounded_base=True)
    truth = {name: tensor for name, tensor in merged.state_dict().items() if tensor.numel()}
    ours = written(tmp_path / "out")
    assert differing(ours, {name: truth[name] for name in ours}) == []
    kept = {tensor.data_ptr() for name, tensor in truth.items() if name in ours}
    assert [name for name, tensor in truth.items() if name not in ours and tensor.data_ptr() not in kept] == []
    assert any("bfloat16" in text for text in report.notes)


def test_only_rounds_when_asked(tmp_path: Path):
    """The same masters, merged in float32 and rounded afterwards, are not what PEFT makes of a bfloat16 model."""
    tuned = tune(llama, default=lora(target_modules=["embed_tokens"]))
    source, base = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16), tmp_path / "base"
    tuned.save_base(base)
    for dtype in DTYPES:
        zeroconsolidate.consolidate(source, tmp_path / dtype, lora="merge", base=base, dtype=dtype)
    wide, narrow = (written(tmp_path / dtype)["model.embed_tokens.weight"] for dtype in DTYPES)
    assert not torch.equal(wide.bfloat16(), narrow)


SEVERAL = {
    "lora": (llama, {"default": lora(), "second": lora(r=2, target_modules=["q_proj", "o_proj"])}),
    "dora": (llama, {"default": lora(use_dora=True), "second": lora(r=2), "third": lora(use_dora=True)}),
    "conv1d_dora": (
        gpt2,
        {
            name: lora(target_modules=["c_attn"], fan_in_fan_out=True, use_dora=use_dora)
            for name, use_dora in (("default", True), ("second", False), ("third", True))
        },
    ),
    "embedding_dora": (
        llama,
        {name: lora(target_modules=["embed_tokens"], use_dora=True) for name in ("default", "second")},
    ),
    "experts": (mixtral, {name: lora(target_parameters=EXPERTS) for name in ("default", "second")}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SEVERAL)
def test_several_in_order(case: str, dtype: str, tmp_path: Path):
    make, configs = SEVERAL[case]
    tuned = tune(make, **configs)
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    base = tuned.save_base(tmp_path / "base")
    with pytest.raises(BadOption, match="several adapters"):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base, dtype=dtype)
    order = list(configs)[::-1]
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", adapters=order, base=base, dtype=dtype)
    merged = tuned.merged(DTYPES[dtype], adapters=order)
    assert differing(written(tmp_path / "out"), hub_layout(merged, tmp_path / "truth")) == []
    report = zeroconsolidate.consolidate(source, tmp_path / "one", lora="merge", adapters=["second"], base=base)
    merged = tuned.merged(torch.float32, adapters=["second"])
    assert differing(written(tmp_path / "one"), hub_layout(merged, tmp_path / "truth2")) == []
    assert any(".default" in name for name in report.left_out)


@pytest.mark.parametrize("wrapper", ["model.", "module.model."])
def test_behind_a_wrapper(wrapper: str, tmp_path: Path):
    """As in FlagEmbedding's checkpoints. What the trainer wrapped around PEFT's wrapping is not PEFT's."""
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=3, frozen=True, dtype=torch.float32, wrapper=wrapper)
    truth = tuned.merged(torch.float32).state_dict()
    zeroconsolidate.consolidate(source, tmp_path / "shards", lora="merge", names="stored")
    assert differing(written(tmp_path / "shards"), {wrapper + name: value for name, value in truth.items()}) == []
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=tuned.save_base(tmp_path / "base"))
    assert differing(written(tmp_path / "out"), truth) == []


def test_base_saved_from_another_class(tmp_path: Path):
    """Trained as a model without a head, from a directory of a model with one."""
    tuned = tune(lambda: llama().model, default=lora())
    source = tuned.save(tmp_path / "in", stage=3, frozen=True, dtype=torch.bfloat16)
    whole = llama()
    whole.model.load_state_dict(tuned.merged(torch.float32).state_dict())
    original = llama()
    original.load_state_dict(whole.state_dict())
    original.model.load_state_dict(build(tuned.make).state_dict())
    original.save_pretrained(tmp_path / "base")
    report = zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=tmp_path / "base")
    assert differing(written(tmp_path / "out"), whole.state_dict()) == []
    assert any("'model.'" in text for text in report.notes)


def test_shards_and_resharding(tmp_path: Path):
    tuned = tune(mixtral, default=lora(target_parameters=EXPERTS))
    source = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16)
    base = tmp_path / "base"
    build_sharded(tuned, base)
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base, max_shard_size="2KB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    ours = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert differing(ours, hub_layout(tuned.merged(torch.float32), tmp_path / "truth")) == []


def build_sharded(tuned: Tuned, folder: Path) -> None:
    build(tuned.make).save_pretrained(folder, max_shard_size="4KB")


@pytest.mark.parametrize("make", [mixtral, qwen3_moe])
def test_experts_in_the_hub_s_layout(make: Callable[[], nn.Module], tmp_path: Path):
    """Merged as one stack, which the frozen copy in the shards is, and written expert by expert."""
    tuned = tune(make, default=lora(target_parameters=EXPERTS))
    source = tuned.save(tmp_path / "in", stage=3, frozen=True, dtype=torch.float32)
    tuned.model.config.architectures = [type(tuned.model.get_base_model()).__name__]
    tuned.model.config.save_pretrained(source)
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge")
    assert differing(written(tmp_path / "out"), hub_layout(tuned.merged(torch.float32), tmp_path / "truth")) == []


def test_verify_knows_merged_weights(tmp_path: Path):
    tuned = tune(llama, default=lora(target_modules=["embed_tokens", "q_proj"]))
    source, base = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16), tmp_path / "base"
    tuned.save_base(base)
    for dtype in DTYPES:
        out = tmp_path / dtype
        zeroconsolidate.consolidate(source, out, lora="merge", base=base, dtype=dtype)
        assert zeroconsolidate.verify(out).problems == ()
        assert zeroconsolidate.verify(out, against=source, base=base).problems == ()
        data = bytearray((out / "model.safetensors").read_bytes())
        data[-3] ^= 0x40
        (out / "model.safetensors").write_bytes(data)
        assert len(zeroconsolidate.verify(out, against=source, base=base).problems) == 1


# --- what is refused -------------------------------------------------------------------------------------------------


def test_another_base_is_an_error(tmp_path: Path):
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=2, frozen=True, dtype=torch.bfloat16)
    torch.manual_seed(7)
    llama().save_pretrained(tmp_path / "other")
    with pytest.raises(WitnessMismatch, match="not those the adapter was trained on"):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=tmp_path / "other")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.safetensors"))


def test_the_base_that_is_recorded_is_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a line to paste, if it leads anywhere from here."""
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16)
    base = tuned.save_base(tmp_path / "a base")
    config = json.loads((source / "adapter_config.json").read_text())

    def said(recorded: str | None) -> str:
        changed = json.dumps(config | {"base_model_name_or_path": recorded})
        (source / "adapter_config.json").write_text(changed)
        with pytest.raises(BadOption, match="is not in the checkpoint") as refused:
            zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge")
        return str(refused.value.remedy)

    assert said(str(base)) == f'merge into the model that adapter_config.json names: base="{base}"'
    assert said("owner/name").endswith('adapter_config.json names: base="owner/name"')
    gone = "name the original model with base; adapter_config.json says /gone/base, which is not a directory here"
    assert said("/gone/base") == gone
    assert said(None) == "name the original model with base"
    monkeypatch.chdir(tmp_path)
    assert said("a base").endswith('base="a base"')
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base="a base")


def test_a_base_that_does_not_fit(tmp_path: Path):
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    with pytest.raises(BadOption, match="name the original model with base"):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge")
    other = tune(gpt2, default=lora(target_modules=["c_attn"])).save_base(tmp_path / "base")
    with pytest.raises(BadOption, match="nearest names there are"):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=other)


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_what_altered_the_base(initialization: str, tmp_path: Path):
    """Such an adapter belongs to the residual of the base, which only the shards have."""
    tuned = tune(llama, default=lora(init_lora_weights=initialization))
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.float32)
    base = tuned.save_base(tmp_path / "base")
    with pytest.raises(BadOption, match=initialization):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base)
    whole = tuned.save(tmp_path / "whole", stage=2, frozen=True, dtype=torch.float32)
    report = zeroconsolidate.consolidate(whole, tmp_path / "out", lora="merge", base=base)
    truth = tuned.model.merge_and_unload().state_dict()
    assert differing(written(tmp_path / "out"), truth) == []
    assert any("taken from the checkpoint, not from the base model" in text for text in report.notes)


@pytest.mark.parametrize("setting", [{"layer_replication": [[0, 1]]}, {"use_bdlora": {"x": 1}}, {"kasa_config": {}}])
def test_variants_that_cannot_be_merged(setting: dict, tmp_path: Path):
    tuned = tune(llama, default=lora())
    source = tuned.save(tmp_path / "in", stage=2, frozen=True, dtype=torch.float32)
    config = source / "adapter_config.json"
    setting = {key: value or {"beta": 1} for key, value in setting.items()}
    config.write_text(json.dumps(json.loads(config.read_text()) | setting))
    with pytest.raises(UnsupportedLayout, match=next(iter(setting))):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge")


def test_a_quantized_base(tmp_path: Path):
    tuned = tune(llama, default=lora())
    source, base = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.float32), tmp_path / "base"
    config = tuned.save_base(base) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UnsupportedLayout, match="gptq"):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base)
