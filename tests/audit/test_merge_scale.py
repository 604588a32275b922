"""A merged model that has its adapter twice, or with another scale, and those that have it once."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from model_cases import ROOT
from safetensors.torch import load_file, save_file

from zeroconsolidate import compare, consolidate

if TYPE_CHECKING:
    from pathlib import Path

BASE = ROOT / "_bases/llama"
RUN = ROOT / "lora_z3/checkpoint"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def merged(folder: Path, times: float, dtype: torch.dtype, only: str = "", run: Path = RUN) -> Path:
    """The base and so many times what the adapter gives, added up here."""
    consolidate(run, folder / "once", lora="merge", base=BASE)
    once, base = load_file(folder / "once/model.safetensors"), load_file(BASE / "model.safetensors")
    wrong = {
        name: (base[name].double() + (times if only in name else 1) * (tensor.double() - base[name].double())).to(dtype)
        for name, tensor in once.items()
    }
    shutil.copytree(BASE, folder / "wrong")
    save_file(wrong, folder / "wrong/model.safetensors", {"format": "pt"})
    return folder / "wrong"


def said(found: tuple[str, ...]) -> list[str]:
    return [text for text in found if "from the base are" in text]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("times", [2.0, 0.7, 3.0, -1.0])
def test_more_or_less_than_once(times: float, dtype: str, tmp_path: Path) -> None:
    wrong = merged(tmp_path, times, DTYPES[dtype])
    (text,) = said(compare(RUN, wrong, base=BASE).suspicions)
    why = "merged twice, or with another scale" if times == 2 else "merged with another scale"
    assert text == f"the differences of B from the base are {times:.2f} times what the adapter of A gives: {why}"
    (text,) = said(compare(wrong, RUN, base=BASE).suspicions)
    assert text.startswith(f"the differences of A from the base are {times:.2f} times what the adapter of B gives: ")


def test_without_the_adapter_s_scale(tmp_path: Path) -> None:
    config = json.loads((RUN / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 2
    wrong = merged(tmp_path, 0.5, torch.float32)
    (text,) = said(compare(RUN, wrong, base=BASE).suspicions)
    assert "are 0.50 times what the adapter of A gives: merged" in text
    assert text.endswith(": merged without the scale lora_alpha / r, which is 2")


def test_some_of_the_modules(tmp_path: Path) -> None:
    wrong = merged(tmp_path, 2, torch.float32, only="q_proj")
    (text,) = said(compare(RUN, wrong, base=BASE).suspicions)
    assert ", in model.layers.0.self_attn.q_proj.weight" in text
    assert text.endswith(": merged twice, or with another scale")


@pytest.mark.parametrize("dtype", DTYPES)
def test_once_is_right(dtype: str, tmp_path: Path) -> None:
    wrong = merged(tmp_path, 1, DTYPES[dtype])
    assert said(compare(RUN, wrong, base=BASE).suspicions) == []


def test_what_was_trained_on_is_no_multiple(tmp_path: Path) -> None:
    wrong = merged(tmp_path, 2, torch.float32)
    tensors = load_file(wrong / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            tensors[name] = tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, wrong / "model.safetensors", {"format": "pt"})
    assert said(compare(RUN, wrong, base=BASE).suspicions) == []


def test_the_base_has_it_not_at_all(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "copy")
    found = compare(RUN, tmp_path / "copy", base=BASE)
    assert said(found.suspicions) == []
    assert any("without the adapter" in text for text in found.suspicions)


def test_another_length_of_rows_is_no_multiple(tmp_path: Path) -> None:
    """DoRA's."""
    run = ROOT / "dora_z3/checkpoint"
    wrong = merged(tmp_path, 2, torch.float32, run=run)
    assert said(compare(run, wrong, base=BASE).suspicions) == []
