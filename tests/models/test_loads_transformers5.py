"""Every fully trained model of the fixtures, converted, loads in transformers 5 and answers as the live model did."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from converted import convert
from model_cases import ModelCase, model_cases
from safetensors.torch import load_file, save_file
from true_models import LOADERS, adapted, merged, trained
from witnesses import assert_as_recorded, assert_is_the_true_model

import zeroconsolidate

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="needs transformers 5 or newer")

CASES = [pytest.param(case, id=case.name) for case in model_cases(adapter=False)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPTIONS = [
    pytest.param("fp32", {}, id="fp32"),
    pytest.param("bf16", {}, id="bf16"),
    pytest.param("fp32", {"max_shard_size": "8KB"}, id="sharded"),
]


@pytest.mark.parametrize(("dtype", "options"), OPTIONS)
@pytest.mark.parametrize("case", CASES)
def test_no_key_is_missing_and_answers_are_the_live_models(
    case: ModelCase, dtype: str, options: dict[str, str], where: Path
) -> None:
    directory = convert(case, where, dtype, **options)
    model, info = LOADERS[case.recipe].from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    assert (directory / "model.safetensors.index.json").exists() == bool(options)
    found = assert_is_the_true_model(case, model, directory, trained(case, DTYPES[dtype]))
    if dtype == "fp32":
        assert_as_recorded(case, found, "float32", model)
    elif case.provenance["case"]["bf16"]:
        assert_as_recorded(case, found, "live", model)


def described(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, object]:
    text = "hello <s> world</s> <pad>|<mask> <a> <image><unk>"
    return {
        "all": set(tokenizer.all_special_tokens),
        "extra": tokenizer.extra_special_tokens,
        "image": getattr(tokenizer, "image_token", None),
        "ids": tokenizer(text)["input_ids"],
        "decoded": tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True),
        "tokens": len(tokenizer),
        "longest": tokenizer.model_max_length,
    }


@pytest.mark.parametrize("named", [{}, {"image_token": "<image>"}], ids=["unnamed", "named"])
@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].name in ("m3_z3", "llm_untied_z2")])
def test_the_tokenizer_is_the_one_that_was_saved(case: ModelCase, named: dict[str, str], tmp_path: Path) -> None:
    """Its special tokens are written in a form that transformers 4 reads, too."""
    shutil.copytree(case.checkpoint, tmp_path / "checkpoint")
    saved = transformers.AutoTokenizer.from_pretrained(case.checkpoint, extra_special_tokens=named or None)
    saved.add_special_tokens({"extra_special_tokens": ["<a>"]})
    saved.save_pretrained(tmp_path / "checkpoint")
    zeroconsolidate.consolidate(tmp_path / "checkpoint", tmp_path / "model", allow_missing=True)
    found, expected = (
        described(transformers.AutoTokenizer.from_pretrained(tmp_path / name)) for name in ("model", "checkpoint")
    )
    assert found == expected
    assert "<a>" in found["extra"] and found["image"] == named.get("image_token")
    config = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    assert isinstance(config["extra_special_tokens"], dict)


ADAPTERS = [pytest.param(case, id=case.name) for case in model_cases(adapter=True)]


@pytest.mark.parametrize("case", ADAPTERS)
def test_merged_adapters_answer_as_the_live_model(case: ModelCase, where: Path) -> None:
    directory = convert(case, where, "fp32", lora="merge", base=case.base)
    model, info = LOADERS[case.recipe].from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    found = assert_is_the_true_model(case, model, directory, merged(case))
    assert_as_recorded(case, found, "merged", model)


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_beside_their_base_answer_as_the_live_model(case: ModelCase, where: Path) -> None:
    peft = pytest.importorskip("peft")
    directory = convert(case, where, "fp32", lora="adapter")
    base = LOADERS[case.recipe].from_pretrained(case.base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = peft.PeftModel.from_pretrained(base, directory)
    found = assert_is_the_true_model(case, model, directory, adapted(case))
    assert_as_recorded(case, found, "float32", model)


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].name in ("llm_untied_z2", "m3_z3")])
def test_a_renamed_or_changed_tensor_would_be_seen(case: ModelCase, where: Path, tmp_path: Path) -> None:
    """What the tests above stand on: transformers says what it misses, and one unit in the last place shows."""
    directory = convert(case, where, "fp32")
    tensors = load_file(directory / "model.safetensors")
    name = next(
        name for name in tensors if name.endswith("0.mlp.down_proj.weight" if "llm" in case.name else "query.weight")
    )
    for change in ("rename", "value"):
        shutil.copytree(directory, tmp_path / change)
        changed = dict(tensors)
        if change == "rename":
            changed[f"x.{name}"] = changed.pop(name)
        else:
            changed[name] = torch.nextafter(changed[name], torch.tensor(torch.inf))
        save_file(changed, tmp_path / change / "model.safetensors", {"format": "pt"})
        model, info = LOADERS[case.recipe].from_pretrained(tmp_path / change, output_loading_info=True)
        if change == "rename":
            assert info["missing_keys"] or info["unexpected_keys"]
        with pytest.raises(AssertionError):
            assert_is_the_true_model(case, model, tmp_path / change, trained(case, torch.float32))
