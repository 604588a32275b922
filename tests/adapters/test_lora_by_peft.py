"""Adapters other than LoRA are merged by PEFT, module by module, and come out as if it had merged the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from command import zeroconsolidate as command
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.adapters.merge import BY_PEFT
from zeroconsolidate.errors import MissingPackage, ZeroConsolidateError
from zeroconsolidate.integrations import packages, peft_modules

pytest.importorskip("peft")

import peft
from peft_runs import build, differing, llama, qwen2, tune

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = {"target_modules": ["q_proj", "v_proj"]}
CONFIGS = {
    "ADALORA": lambda: peft.AdaLoraConfig(**TARGETS, init_r=4, target_r=2, total_step=10),
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LOHA": lambda: peft.LoHaConfig(**TARGETS, r=2),
    "LOKR": lambda: peft.LoKrConfig(**TARGETS, r=2),
    "OFT": lambda: peft.OFTConfig(**TARGETS, oft_block_size=4, use_cayley_neumann=False),
    "BOFT": lambda: peft.BOFTConfig(**TARGETS, boft_block_size=4),
    "VERA": lambda: peft.VeraConfig(**TARGETS, r=4),
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
    "PVERA": lambda: peft.PveraConfig(**TARGETS, r=4),
    "TINYLORA": lambda: peft.TinyLoraConfig(**TARGETS),
    "GLORA": lambda: peft.GloraConfig(**TARGETS, r=2),
    "PEANUT": lambda: peft.PeanutConfig(**TARGETS),
    "DEFT": lambda: peft.DeftConfig(**TARGETS),
}


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_these_are_the_kinds_that_are_let_through():
    assert CONFIGS.keys() == BY_PEFT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_module_by_module_is_the_whole(kind: str, dtype: str, tmp_path: Path):
    """What the process does, done here: on a model without values, one module's tensors at a time."""
    tuned = tune(qwen2, default=CONFIGS[kind]())
    tuned.model.save_pretrained(tmp_path)
    build(tuned.make).config.save_pretrained(tmp_path)
    truth = tuned.merged(DTYPES[dtype]).state_dict()
    model = peft_modules.load(str(tmp_path), str(tmp_path), "default", str(DTYPES[dtype]).removeprefix("torch."))
    changed = 0
    for path, module in tuned.model.get_base_model().named_modules():
        if hasattr(module, "base_layer"):
            tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            merged = peft_modules.merge(model, path, {n: t.clone() for n, t in tensors.items()}, "default")
            ours = {f"{path}.{name.removeprefix('base_layer.')}": tensor for name, tensor in merged.items()}
            assert differing(ours, {name: truth[name] for name in ours}) == []
            changed += any(not torch.equal(tensor, tensors[name].to(tensor.dtype)) for name, tensor in merged.items())
    assert changed
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        # A third of the kinds every time, in one of the dtypes: each takes a process of its own. All with -m heavy.
        pytest.param(kind, dtype, marks=() if (i + j) % 2 and i % 3 == 0 else pytest.mark.heavy)
        for i, kind in enumerate(CONFIGS)
        for j, dtype in enumerate(DTYPES)
    ],
)
def test_convert_merges_into_the_original_model(kind: str, dtype: str, tmp_path: Path):
    """The whole command, on a checkpoint of the adapter alone."""
    tuned = tune(qwen2, default=CONFIGS[kind]())
    source = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16)
    base = tuned.save_base(tmp_path / "base")
    done = command("convert", source, tmp_path / "out", "--lora", "merge", "--base", base, "--dtype", dtype)
    assert done.returncode == 0, done.stderr
    assert f"merged default ({kind}) into" in done.stdout
    truth = tuned.merged(DTYPES[dtype]).state_dict()
    untouched = build(tuned.make, DTYPES[dtype]).state_dict()
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert differing(ours, {name: tensor for name, tensor in truth.items() if name != "lm_head.weight"}) == []
    assert differing(ours, {name: tensor for name, tensor in untouched.items() if name != "lm_head.weight"}) != []


def test_a_number_of_ranks_that_was_not_saved(tmp_path: Path):
    """AdaLoRA keeps it in a frozen parameter, which trainers leave out with the base."""
    tuned = tune(qwen2, default=CONFIGS["ADALORA"]())
    ranks = [name for name in tuned.masters if "ranknum" in name]
    assert ranks
    with torch.no_grad():
        for name, parameter in tuned.model.named_parameters():
            if name in ranks:
                parameter.fill_(4)
                tuned.masters[name] = parameter.detach().clone()
    truth = tuned.merged(torch.float32).state_dict()
    for name in ranks:
        del tuned.masters[name]
    source = tuned.save(tmp_path / "in", stage=3, frozen=False, dtype=torch.bfloat16)
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=tuned.save_base(tmp_path / "base"))
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert differing(ours, {name: tensor for name, tensor in truth.items() if name != "lm_head.weight"}) == []


@pytest.mark.parametrize("kind", ["LOHA", "IA3", "LN_TUNING"])
def test_the_adapter_is_the_one_peft_saves(kind: str, tmp_path: Path):
    tuned = tune(llama, default=CONFIGS[kind]())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    zeroconsolidate.consolidate(source, tmp_path / "out")
    tuned.model.save_pretrained(tmp_path / "truth")
    ours, truth = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("out", "truth"))
    assert differing(ours, truth) == []


def test_without_peft_it_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tuned = tune(llama, default=CONFIGS["LOHA"]())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(MissingPackage, match="kind LOHA needs PEFT, which is not installed; pip install peft"):
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=tuned.save_base(tmp_path / "base"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("processes_of_their_own")
def test_nothing_in_the_working_directory_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """People stand in a checkpoint they have downloaded when they convert it."""
    tuned = tune(qwen2, default=CONFIGS["LOHA"]())
    source = tuned.save(tmp_path / "in", stage=2, frozen=False, dtype=torch.bfloat16)
    base = tuned.save_base(tmp_path / "base")
    for name in ("torch", "transformers", "peft"):
        (source / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(source)
    zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base, names="stored")
    assert not (tmp_path / "imported").exists()


def test_a_kind_that_would_be_wrong_is_refused_by_name(tmp_path: Path):
    """PEFT merges UniLoRA's modules one by one without an error, and wrongly."""
    tuned = tune(llama, default=peft.UniLoraConfig(**TARGETS))
    source = tuned.save(tmp_path / "in", stage=2, frozen=True, dtype=torch.float32)
    for lora in ("merge", "adapter"):
        with pytest.raises(ZeroConsolidateError, match="UNILORA"):
            zeroconsolidate.consolidate(source, tmp_path / "out", lora=lora)
