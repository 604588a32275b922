"""Parameters that the optimizer was not given: what stage 3 saves nowhere comes from the base, and is missed aloud."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from converted import ask_in_this_process
from model_cases import ROOT
from safetensors.torch import load_file
from zero_model import Run, save

from zeroconsolidate import consolidate, inspect
from zeroconsolidate.errors import BadOption
from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from pathlib import Path

BASE = ROOT / "_bases" / "llama"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers were not installed."""
    monkeypatch.setattr(asking, "find_spec", lambda _: None)


def weights() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(BASE / "model.safetensors").items()}


def is_trained(name: str) -> bool:
    return "mlp" in name


def checkpoint(root: Path, stage: int, prefix: str = "") -> dict[str, torch.Tensor]:
    """Only the feed-forward layers have an optimizer; returns the values that the engine had."""
    truth = {name: value + 1 if is_trained(name) else value.bfloat16() for name, value in weights().items()}
    given = {prefix + name: value for name, value in truth.items() if is_trained(name)}
    rest = {prefix + name: value for name, value in truth.items() if not is_trained(name)}
    # What DeepSpeed leaves in `module` is the same as of a frozen parameter; the lists do not have it.
    facts = {"frozen_param_shapes": {}, "frozen_param_fragments": {}}
    save(Run(stage=stage, world_size=2, groups=[given], frozen=rest, extra=facts), root)
    shutil.copy(BASE / "config.json", root)
    return truth


def differing(folder: Path, expected: dict[str, torch.Tensor]) -> list[str]:
    found = load_file(folder / "model.safetensors")
    return [n for n in found.keys() | expected.keys()
            if n not in found or n not in expected or not torch.equal(found[n], expected[n])]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model.", "net.backbone."])
def test_the_base_has_them(prefix: str, tmp_path: Path) -> None:
    truth = checkpoint(tmp_path / "in", 3, prefix)
    report = consolidate(tmp_path / "in", tmp_path / "out", base=BASE)
    expected = {name: truth[name] if is_trained(name) else value for name, value in weights().items()}
    assert differing(tmp_path / "out", expected) == []
    assert report.from_base == sum(not is_trained(name) for name in truth)


def test_the_base_has_them_under_the_names_of_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model under two names: of what has no values only the second name is left, and of the rest the first is the
    parameter's. No one prefix brings both to the base's names; what the class still lacks in the end tells."""
    truth = {name: value + 1 if is_trained(name) else value.bfloat16() for name, value in weights().items()}
    run = Run(
        stage=3,
        world_size=2,
        groups=[{f"q.{name}": value for name, value in truth.items() if is_trained(name)}],
        frozen={f"p.{name}": value for name, value in truth.items() if not is_trained(name)},
        ties={f"p.{name}": f"q.{name}" for name in truth if is_trained(name)},
        extra={"frozen_param_shapes": {}, "frozen_param_fragments": {}},
    )
    save(run, tmp_path / "in")
    shutil.copy(BASE / "config.json", tmp_path / "in")
    with pytest.raises(BadOption, match=r'base="DIR"'):
        consolidate(tmp_path / "in", tmp_path / "out")
    with pytest.raises(BadOption, match=r"the base model has no"):  # nobody can be asked for the names of the class
        consolidate(tmp_path / "in", tmp_path / "out", base=BASE)
    pytest.importorskip("transformers", minversion="5")
    monkeypatch.setattr(asking, "find_spec", lambda _: True)
    monkeypatch.setattr(asking, "ask", ask_in_this_process)
    report = consolidate(tmp_path / "in", tmp_path / "out", base=BASE)
    expected = {name: truth[name] if is_trained(name) else value for name, value in weights().items()}
    assert differing(tmp_path / "out", expected) == []
    assert report.from_base == sum(not is_trained(name) for name in truth)


def test_a_part_of_it_that_has_none_is_missed(tmp_path: Path) -> None:
    """What the base has in another shape is not made complete by it."""
    checkpoint(tmp_path / "in", 3)
    base = shutil.copytree(BASE, tmp_path / "base")
    from safetensors.torch import save_file

    fewer = {name: value for name, value in weights().items() if not name.endswith("1.self_attn.q_proj.weight")}
    save_file(fewer, base / "model.safetensors")
    with pytest.raises(BadOption, match=r"no values.*the base model has no .*q_proj.*is a different one"):
        consolidate(tmp_path / "in", tmp_path / "out", base=base)


def test_without_it_they_are_missed(tmp_path: Path) -> None:
    truth = checkpoint(tmp_path / "in", 3)
    lost = [name for name in truth if not is_trained(name)]
    with pytest.raises(BadOption, match=rf"^{len(lost)} parameters .*not given to the optimizer.*base=.DIR"):
        consolidate(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    consolidate(tmp_path / "in", tmp_path / "some", exclude=["model.embed*", "*attn*", "*norm*", "lm_head*"])
    consolidate(tmp_path / "in", tmp_path / "rest", allow_missing=True)
    for folder in ("some", "rest"):
        assert differing(tmp_path / folder, {name: truth[name] for name in truth if is_trained(name)}) == []


@pytest.mark.parametrize("change", ["other", "smaller"])
def test_another_model_is_no_base(change: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "in", 3)
    if change == "other":
        base = ROOT / "_bases" / "xlmr"
    else:
        base = shutil.copytree(BASE, tmp_path / "base")
        from safetensors.torch import save_file

        halves = {n: v[: len(v) // 2].clone() if is_trained(n) else v for n, v in weights().items()}
        save_file(halves, base / "model.safetensors")
    with pytest.raises(BadOption, match=r"no values.*base model.*as base: .* is a different one"):
        consolidate(tmp_path / "in", tmp_path / "out", base=base)


def test_inspect_lists_them(tmp_path: Path) -> None:
    truth = checkpoint(tmp_path / "in", 3)
    info = inspect(tmp_path / "in")
    assert list(info.not_saved) == [name for name in truth if not is_trained(name)]
    assert {why for why in info.not_saved.values() if "optimizer" in why} == set(info.not_saved.values())
    assert {tensor.name for tensor in info.tensors} == {name for name in truth if is_trained(name)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_stage_2_has_what_the_forward_pass_used(dtype: str, tmp_path: Path) -> None:
    truth = checkpoint(tmp_path / "in", 2)
    report = consolidate(tmp_path / "in", tmp_path / "out", dtype=dtype)
    to = torch.float32 if dtype == "fp32" else torch.bfloat16
    assert differing(tmp_path / "out", {name: value.to(to) for name, value in truth.items()}) == []
    lost = [name for name in truth if not is_trained(name)]
    assert report.parameters == sum(value.numel() for value in truth.values())
    (note,) = [note for note in report.notes if "optimizer" in note]
    assert note.startswith(f"{len(lost)} tensors were not given to the optimizer")
    assert len(note) < 400
    assert json.loads((tmp_path / "out" / "zeroconsolidate.json").read_text())["noted"] == {note: lost}
    counts = inspect(tmp_path / "in").counts
    assert (counts["trainable"], counts["frozen"], counts["buffer"]) == (len(truth) - len(lost), len(lost), 0)


@pytest.mark.parametrize("lora", ["adapter", "merge"])
def test_half_an_adapter_is_none(lora: str, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.default.weight"
    given, rest = {name.format("A"): torch.ones(2, 16)}, {name.format("B"): torch.ones(32, 2).bfloat16()}
    facts = {"frozen_param_shapes": {}, "frozen_param_fragments": {}}
    save(Run(stage=3, world_size=2, groups=[given], frozen=rest, extra=facts), tmp_path / "in")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"]}
    (tmp_path / "in" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadOption, match=r"1 parameter of the adapter .*lora_B\.default"):
        consolidate(tmp_path / "in", tmp_path / "out", lora=lora, base=BASE)
