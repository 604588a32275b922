"""The converted Trainer checkpoint loads in transformers and answers what the trained model answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from command import zeroconsolidate
from fixtures import FIXTURES
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

transformers = pytest.importorskip("transformers")

CASE = FIXTURES / "trainer_zero3_tied"


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=[None, "20KB"], ids=["one file", "sharded"])
def model_directory(request: pytest.FixtureRequest, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    options = ["--max-shard-size", request.param] if request.param else []
    done = zeroconsolidate("convert", CASE / "checkpoint", out, "--dtype", dtype, "--json", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["missing"] == []
    assert report["warnings"] == []
    return out


def test_it_loads_without_a_missing_or_unexpected_key(model_directory: Path, dtype: str):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(model_directory, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_it_answers_as_the_live_model_did(model_directory: Path, dtype: str):
    live = load_file(CASE / "logits.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_directory).eval()
    with torch.no_grad():
        logits = model(input_ids=live["input_ids"]).logits
    if dtype == "fp32":
        assert torch.equal(logits, live["logits_fp32"])
    else:
        # DeepSpeed keeps the rotary frequencies in bf16 too, and kernels add in another order: about eight bits agree.
        assert (logits - live["logits_bf16"]).abs().max() < 0.02 * logits.abs().max()


def test_its_weights_are_the_masters(model_directory: Path, dtype: str):
    model = transformers.AutoModelForCausalLM.from_pretrained(model_directory)
    masters = load_file(CASE / "expected.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, masters[name].to(parameter.dtype)), name


def test_what_belongs_to_a_model_is_there_and_what_belongs_to_training_is_not(model_directory: Path):
    there = {path.name for path in model_directory.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    } < there
    training = ("rng_state", "training_args", "trainer_state", "latest", "global_step")
    assert not any(name.startswith(training) for name in there)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (model_directory / name).read_bytes() == (CASE / "checkpoint" / name).read_bytes()


def test_only_the_dtype_of_the_config_is_changed(model_directory: Path, dtype: str):
    before = (CASE / "checkpoint" / "config.json").read_text()
    after = (model_directory / "config.json").read_text()
    name = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
    # transformers before 5 reads the base of rotary embeddings from a key that 5 no longer writes.
    theta = json.loads(before)["rope_parameters"]["rope_theta"]
    assert json.loads(after) == json.loads(before) | {"dtype": name, "rope_theta": theta}
    edited = after.replace(f',\n  "rope_theta": {theta}', "")
    assert edited == before.replace('"dtype": "bfloat16"', f'"dtype": "{name}"')


def test_the_tokenizer_loads(model_directory: Path):
    ours = transformers.AutoTokenizer.from_pretrained(model_directory)
    theirs = transformers.AutoTokenizer.from_pretrained(CASE / "checkpoint")
    chat = [{"role": "user", "content": "hello there"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)
    assert ours("hello there")["input_ids"] == theirs("hello there")["input_ids"]


def test_it_is_what_save_pretrained_would_have_written(tmp_path: Path):
    """Names, split, bytes and index, against the real thing."""
    assert (
        zeroconsolidate("convert", CASE / "checkpoint", tmp_path / "ours", "--max-shard-size", "20KB").returncode == 0
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    # Without this option transformers 5 sorts the names of models it knows older spellings of.
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB", save_original_format=False)
    ours = {p.name: p.read_bytes() for p in (tmp_path / "ours").iterdir() if p.name.startswith("model")}
    theirs = {p.name: p.read_bytes() for p in (tmp_path / "theirs").iterdir() if p.name.startswith("model")}
    assert len(ours) > 2
    assert ours == theirs
