"""The converted Trainer checkpoint loads in transformers and answers what the trained model answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from command import zeroconsolidate
from fixtures import FIXTURES
from model_fixtures.rounding import terms
from safetensors.torch import load_file

pytest.importorskip("transformers")

import transformers
import true_models
from witnesses import assert_same_weights, assert_within_rounding

if TYPE_CHECKING:
    from pathlib import Path

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
    """As a model with the live engine's masters does in this process, and as it did itself, but for rounding."""
    live = load_file(CASE / "logits.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_directory)
    config = transformers.AutoConfig.from_pretrained(CASE / "checkpoint")
    masters = load_file(CASE / "expected.safetensors")
    true = true_models.filled(transformers.AutoModelForCausalLM, config, masters, model.dtype)
    assert_same_weights(model, true)
    logits, expected = logits_of(model, live["input_ids"]), logits_of(true, live["input_ids"])
    assert torch.equal(logits, expected)
    if dtype == "fp32":
        assert_fp32_logits(model, logits, live)
    else:
        # DeepSpeed keeps the rotary frequencies in bf16 too, and kernels add in another order: about eight bits agree.
        assert (logits - live["logits_bf16"]).abs().max() < 0.02 * logits.abs().max()


@torch.no_grad()
def logits_of(model: torch.nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # see models/answers.py
    return model.eval()(input_ids=input_ids).logits


def assert_fp32_logits(model: torch.nn.Module, logits: torch.Tensor, live: dict[str, torch.Tensor]) -> None:
    size = terms(model.parameters())
    assert_within_rounding({"logits": logits}, {"logits": live["logits_fp32"]}, torch.float32, size)


@torch.no_grad()
def test_a_weight_that_is_a_little_off_would_be_seen(model_directory: Path, dtype: str):
    """One value by one unit in the last place, and one weight by one percent."""
    live = load_file(CASE / "logits.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_directory)
    right = logits_of(model, live["input_ids"])
    weight = model.model.norm.weight
    before = weight.clone()
    weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf, dtype=weight.dtype))
    assert not torch.equal(logits_of(model, live["input_ids"]), right)
    if dtype == "fp32":
        model.model.norm.weight.copy_(before * 1.01)
        with pytest.raises(AssertionError):
            assert_fp32_logits(model, logits_of(model, live["input_ids"]), live)


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
