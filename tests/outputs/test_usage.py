"""The last line of the report loads what was written, and is nothing that a file could make dangerous to paste."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from fixtures import FIXTURES
from model_cases import ROOT

from zeroconsolidate import consolidate
from zeroconsolidate.naming import asking
from zeroconsolidate.outputs.usage import load_adapter, load_model, load_tensors

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = ["model.safetensors"]


def line(config: object, *copies: str) -> str:
    return load_model(
        "out",
        weights=WEIGHTS,
        side_files={"config.json": json.dumps(config).encode()},
        copies=dict.fromkeys(copies, ""),
    )


@pytest.mark.parametrize(
    ("architecture", "loader"),
    [
        ("Qwen2ForCausalLM", "AutoModelForCausalLM"),
        ("GPT2LMHeadModel", "AutoModelForCausalLM"),
        ("XLMRobertaModel", "AutoModel"),
        ("BertForSequenceClassification", "AutoModelForSequenceClassification"),
        ("T5ForConditionalGeneration", "T5ForConditionalGeneration"),
    ],
)
def test_the_class_is_that_of_the_config(architecture: str, loader: str):
    assert line({"architectures": [architecture]}) == f'{loader}.from_pretrained("out")'


def test_code_of_the_models_own():
    auto_map = {"AutoConfig": "a.A", "AutoModel": "b.B", "AutoModelForCausalLM": "b.C"}
    config = {"architectures": ["OwnForCausalLM"], "auto_map": auto_map}
    assert line(config) == 'AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True)'


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"architectures": []},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [7]},
        {"architectures": ["os.system('id')#"]},
        {"architectures": ["A;B"], "auto_map": ["AutoModel"]},
    ],
)
def test_a_strange_config_gives_no_strange_line(config: object):
    assert line(config) == 'AutoModel.from_pretrained("out")'


def test_a_config_that_is_no_json():
    assert load_model("out", weights=WEIGHTS, side_files={"config.json": b"{"}, copies={}) == (
        'AutoModel.from_pretrained("out")'
    )


def test_a_path_with_quotes():
    assert load_tensors('my "model"', WEIGHTS) == r'safetensors.torch.load_file("my \"model\"/model.safetensors")'


def test_other_libraries():
    config = {"architectures": ["XLMRobertaModel"]}
    assert line(config, "modules.json") == 'SentenceTransformer("out")'
    asked = {"config.json": b"{}", "modules.json": b"[]"}
    heads = ["colbert_linear.pt", "sparse_linear.pt"]
    assert (
        load_model("out", weights=WEIGHTS, side_files=asked, copies=dict.fromkeys(heads, ""))
        == 'SentenceTransformer("out")'
    )
    assert line(config, "modules.json", *heads) == 'BGEM3FlagModel("out")'
    assert line(config, "colbert_linear.pt") == 'AutoModel.from_pretrained("out")'


def test_tensors_without_a_config():
    assert load_model("out", weights=WEIGHTS, side_files={}, copies={"tokenizer.json": ""}) == load_tensors(
        "out", WEIGHTS
    )
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert load_tensors("out", shards) == 'accelerate.load_checkpoint_in_model(model, "out")'


def test_adapters():
    assert load_adapter("out", ["adapter_model.safetensors"]) == 'PeftModel.from_pretrained(base_model, "out")'
    assert load_adapter("out", ["a/adapter_model.safetensors"]) == 'PeftModel.from_pretrained(base_model, "out/a")'


def test_the_line_runs(tmp_path: Path):
    transformers = pytest.importorskip("transformers", minversion="5")
    report = consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", tmp_path / "out")
    model = eval(report.load_line, {"AutoModelForCausalLM": transformers.AutoModelForCausalLM})
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert len(weights) == report.tensors
    tensors = eval(load_tensors(report.output, WEIGHTS), {"safetensors": __import__("safetensors.torch")})
    assert all(torch.equal(weights[name].float(), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "options",
    [
        {"names": "stored"},
        {"exclude": ["*.bias"]},
        {"include": ["*embed*"]},
        {"rename": ["model.=x."]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_of_a_model_that_its_class_would_not_load(options: dict[str, object], tmp_path: Path):
    pytest.importorskip("transformers", minversion="5")
    report = consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert report.load_line == f'safetensors.torch.load_file("{tmp_path}/out/model.safetensors")'


def test_of_an_adapter(tmp_path: Path):
    report = consolidate(ROOT / "lora_z3/checkpoint", tmp_path / "out")
    assert report.load_line == f'PeftModel.from_pretrained(base_model, "{tmp_path}/out")'


@pytest.mark.parametrize("partial", [False, True])
def test_without_transformers_a_part_is_still_no_model(
    partial: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(asking, "find_spec", lambda _: None)
    exclude = ["*.bias"] if partial else []
    report = consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", tmp_path / "out", exclude=exclude)
    loader = "safetensors.torch.load_file" if partial else "AutoModelForCausalLM.from_pretrained"
    assert report.load_line.startswith(f'{loader}("{tmp_path}/out')
