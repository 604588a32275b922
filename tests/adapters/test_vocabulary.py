"""Runs that resized the vocabulary, merged into a base of the old size: right, or refused by what is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from peft_runs import ATTENTION, GQA, Tuned, lora, tune
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import Disagreement

pytest.importorskip("peft")

import transformers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

GROWN = 54


def model(*, tied: bool = False, grown: bool = True) -> nn.Module:
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**GQA, tie_word_embeddings=tied))
    if grown:
        made.resize_token_embeddings(GROWN, mean_resizing=False)
    return made


def tied() -> nn.Module:
    return model(tied=True)


def checkpoint(tuned: Tuned, tmp_path: Path, *, frozen: bool = False) -> Path:
    return tuned.save(tmp_path / "in", stage=2, frozen=frozen, dtype=torch.bfloat16)


def base_of_old_size(tmp_path: Path, *, is_tied: bool = False) -> Path:
    """The first rows, as they were before the run resized them."""
    torch.manual_seed(0)
    grown = tied() if is_tied else model()
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    grown.resize_token_embeddings(GQA["vocab_size"], mean_resizing=False)
    grown.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def stated(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["vocab_size"]


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    found, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return found.state_dict()


def test_both_trained(tmp_path: Path) -> None:
    tuned = tune(model, default=lora(modules_to_save=["embed_tokens", "lm_head"]))
    report = consolidate(checkpoint(tuned, tmp_path), tmp_path / "out", lora="merge", base=base_of_old_size(tmp_path))
    truth = tuned.merged(torch.float32).state_dict()
    found = loaded(tmp_path / "out")
    assert [name for name in truth if not torch.equal(truth[name], found[name])] == []
    assert stated(tmp_path / "out") == GROWN
    assert any("vocab_size set to 54" in text and "48" in text for text in report.notes)
    assert verify(tmp_path / "out").ok


@pytest.mark.parametrize("saved", ["embed_tokens", "lm_head"])
def test_one_trained(saved: str, tmp_path: Path) -> None:
    """Rows of the other were frozen: lost, unless the save has them."""
    tuned = tune(model, default=lora(modules_to_save=[saved]))
    source, base = checkpoint(tuned, tmp_path), base_of_old_size(tmp_path)
    other = "lm_head.weight" if saved == "embed_tokens" else "model.embed_tokens.weight"
    with pytest.raises(
        Disagreement, match=rf"{saved}.weight has 54, .*the rows added to {other} were frozen and not saved"
    ):
        consolidate(source, tmp_path / "out", lora="merge", base=base)
    assert not (tmp_path / "out").exists()
    whole = tuned.save(tmp_path / "whole", stage=2, frozen=True, dtype=torch.bfloat16)
    consolidate(whole, tmp_path / "out", lora="merge", base=base)
    assert (stated(tmp_path / "out"), loaded(tmp_path / "out")[other].shape[0]) == (GROWN, GROWN)


def test_a_tied_base(tmp_path: Path) -> None:
    """PEFT trains the embedding for itself: the head keeps the frozen rows, which the base does not have."""
    tuned = tune(tied, default=lora(modules_to_save=["embed_tokens"]))
    source, base = checkpoint(tuned, tmp_path), base_of_old_size(tmp_path, is_tied=True)
    with pytest.raises(Disagreement, match=r"lm_head.weight"):
        consolidate(source, tmp_path / "out", lora="merge", base=base)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_lora_on_rows_that_are_lost(target: str, tmp_path: Path) -> None:
    tuned = tune(model, default=lora(target_modules=[*ATTENTION, target]))
    source, base = checkpoint(tuned, tmp_path), base_of_old_size(tmp_path)
    with pytest.raises(Disagreement, match=r"54 rows, the weight it belongs to has 48.*resized"):
        consolidate(source, tmp_path / "out", lora="merge", base=base)


def test_frozen_rows_in_the_save(tmp_path: Path) -> None:
    tuned = tune(model, default=lora())
    source = checkpoint(tuned, tmp_path, frozen=True)
    consolidate(source, tmp_path / "out", lora="merge", base=base_of_old_size(tmp_path))
    assert (stated(tmp_path / "out"), loaded(tmp_path / "out")["lm_head.weight"].shape[0]) == (GROWN, GROWN)


def test_frozen_rows_that_are_lost(tmp_path: Path) -> None:
    """The tokenizer tells, or the config beside the checkpoint does."""
    tuned = tune(model, default=lora())
    source, base = checkpoint(tuned, tmp_path), base_of_old_size(tmp_path)
    words = {str(number): number for number in range(GROWN)}
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    report = consolidate(source, tmp_path / "out", lora="merge", base=base)
    assert any("up to number 53" in text and "lost" in text for text in report.warnings)
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].shape[0] == GQA["vocab_size"]
    model().config.save_pretrained(source)
    with pytest.raises(Disagreement, match=r"says 54 tokens, the base model has 48"):
        consolidate(source, tmp_path / "other", lora="merge", base=base)


def test_the_adapter_says_to_resize_the_base(tmp_path: Path) -> None:
    tuned = tune(model, default=lora(modules_to_save=["embed_tokens", "lm_head"]))
    source, base = checkpoint(tuned, tmp_path), base_of_old_size(tmp_path)
    report = consolidate(source, tmp_path / "out", base=base)
    assert any("the base has 48: resize it first" in text and "(54)" in text for text in report.notes)
    model().config.save_pretrained(base)
    assert not any("resize" in text for text in consolidate(source, tmp_path / "other", base=base).notes)


def test_the_adapter_on_an_embedding_says_so_too(tmp_path: Path) -> None:
    tuned = tune(model, default=lora(target_modules=[*ATTENTION, "embed_tokens"]))
    report = consolidate(checkpoint(tuned, tmp_path), tmp_path / "out")
    assert any("resize_token_embeddings(54)" in text for text in report.notes)
