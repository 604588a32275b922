"""Adapters of a model whose layers were wrapped: PEFT's file and the merged model have names without the wrappers."""

from __future__ import annotations

import shutil
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers", minversion="5")
pytest.importorskip("peft")

from peft_runs import Tuned, differing, llama, lora, tune

from zeroconsolidate import consolidate
from zeroconsolidate.adapters.wrapping import take_apart
from zeroconsolidate.catalog.plain import plain
from zeroconsolidate.errors import UnsupportedLayout

if TYPE_CHECKING:
    from pathlib import Path

WRAPPERS = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module."]


@cache
def run() -> Tuned:
    return tune(llama, default=lora())


def save(root: Path, wrapper: str, *, stage: int = 2, frozen: bool = True) -> Path:
    """Of two layers one is wrapped, and its attention again."""
    hooked = wrapper == "_checkpoint_wrapped_module."
    return run().save(
        root,
        stage=stage,
        frozen=frozen,
        dtype=torch.bfloat16,
        called=lambda name: name.replace("layers.1.", f"layers.1.{wrapper}").replace(
            "self_attn.", f"self_attn.{wrapper}"
        ),
        state_dict_name=plain if hooked else str,
    )


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_adapter(wrapper: str, stage: int, frozen: bool, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "in", wrapper, stage=stage, frozen=frozen)
    base = run().save_base(tmp_path / "base")
    consolidate(checkpoint, tmp_path / "out", base=base)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert differing(written, {name.replace(".default.", "."): value for name, value in run().masters.items()}) == []


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_merged_into_the_base(wrapper: str, stage: int, frozen: bool, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "in", wrapper, stage=stage, frozen=frozen)
    base = run().save_base(tmp_path / "base")
    consolidate(checkpoint, tmp_path / "out", base=base, lora="merge")
    assert differing(load_file(tmp_path / "out" / "model.safetensors"), run().merged(torch.float32).state_dict()) == []


def test_nothing_tells_whether_a_module_called_module_is_the_model_s(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "in", "module.")
    with pytest.raises(UnsupportedLayout, match=r"called 'module'.*base"):
        consolidate(checkpoint, tmp_path / "out")
    with pytest.raises(UnsupportedLayout, match=r"called 'module'.*base"):
        consolidate(checkpoint, tmp_path / "out", lora="merge")
    consolidate(checkpoint, tmp_path / "out", lora="keep")
    shutil.copy(run().save_base(tmp_path / "base") / "config.json", checkpoint)  # transformers tells the names
    consolidate(checkpoint, tmp_path / "merged", lora="merge")
    assert (
        load_file(tmp_path / "merged" / "model.safetensors").keys() == run().merged(torch.float32).state_dict().keys()
    )


def test_modules_of_that_name_stay_where_the_base_has_them() -> None:
    names = ["base_model.model.a.module.q.lora_A.default.weight"]
    assert take_apart(names, ("lora_",), base_names=["a.module.q.weight"])[names[0]].module == "a.module.q"
    assert take_apart(names, ("lora_",), base_names=["a.q.weight"])[names[0]].module == "a.q"


def test_a_parametrized_adapter_is_refused() -> None:
    name = "base_model.model.q.lora_A.default.parametrizations.weight.original0"
    with pytest.raises(UnsupportedLayout, match=r"parametrized.*--lora keep.*lora_A\.default"):
        take_apart([name], ("lora_",))
