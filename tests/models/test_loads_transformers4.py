"""What we write loads in transformers 4 too, with the same answers: tools/test_transformers4.sh.

The conversions, and the models with the true weights, are made in the main environment (CONVERTED_MODELS): transformers
4 does not know the names that transformers 5 gives fused experts in memory, and only the built-in table does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from converted import convert
from model_cases import ModelCase, model_cases
from model_fixtures.outputs import model_inputs
from true_models import LOADERS
from witnesses import assert_as_recorded, assert_is_the_true_model, loaded

import zeroconsolidate
import zeroconsolidate.errors
import zeroconsolidate.naming.sources

pytestmark = pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="needs transformers 4")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KNOWN = [pytest.param(c, id=c.name) for c in model_cases(adapter=False) if not c.name.startswith("qwen3_moe")]
"""transformers 4.46 has no Qwen3-MoE."""


def check(case: ModelCase, conversion: str, dtype: torch.dtype, kind: str | None) -> None:
    """Ours loads without a missing key, is the true model, and answers as recorded.

    The true weights were written by transformers 5, from the live engine's values. `kind`: of recorded answers.
    """
    if "CONVERTED_MODELS" not in os.environ:
        pytest.skip("transformers 5 has to have converted them")
    root = Path(os.environ["CONVERTED_MODELS"])
    directory, true_directory = root / conversion / case.name, root / "true" / conversion / case.name
    # The kernel transformers 5 takes; transformers 4.46 has it for these models.
    attention = "sdpa" if case.recipe in ("causal", "llm_embedder", "llm_reranker") else None
    models = []
    for folder in (directory, true_directory):
        model, info = LOADERS[case.recipe].from_pretrained(
            folder, output_loading_info=True, torch_dtype=dtype, attn_implementation=attention
        )
        assert not any(info.values()), info
        models.append(model)
    found = assert_is_the_true_model(case, models[0], directory, loaded(models[1], true_directory))
    if kind is not None:
        # Also where transformers 4 adds up the outputs of experts in another order, and rounds after each addition.
        assert_as_recorded(case, found, kind, models[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KNOWN)
def test_no_key_is_missing_and_answers_are_the_live_models(case: ModelCase, dtype: str) -> None:
    live = "live" if case.provenance["case"]["bf16"] else None
    check(case, dtype, DTYPES[dtype], "float32" if dtype == "fp32" else live)


TOKENIZERS = KNOWN + [pytest.param(c, id=c.name) for c in model_cases() if c.name.startswith("qwen3_moe_z")]


@pytest.mark.parametrize("case", TOKENIZERS)
def test_the_tokenizer_is_the_one_of_transformers_5(case: ModelCase, where: Path) -> None:
    """It gives the tokens that the probe of the live model had, which transformers 5 tokenized."""
    if "CONVERTED_MODELS" not in os.environ:
        pytest.skip("transformers 5 has to have converted them")
    tokenizer = transformers.AutoTokenizer.from_pretrained(convert(case, where, "fp32"))
    for name, tensor in model_inputs(case.recipe, tokenizer).items():
        assert torch.equal(tensor, case.outputs[name]), name


MERGED = [pytest.param(c, id=c.name) for c in model_cases(adapter=True) if not c.name.startswith("qwen3_moe")]


@pytest.mark.parametrize("case", MERGED)
def test_merged_adapters_answer_as_the_live_model(case: ModelCase) -> None:
    check(case, "merged", torch.float32, "merged")


@pytest.mark.parametrize("case", KNOWN)
def test_converting_here_gives_the_same_bytes(case: ModelCase, where: Path, tmp_path: Path) -> None:
    if "CONVERTED_MODELS" not in os.environ:
        pytest.skip("nothing to compare with")
    there = convert(case, where, "bf16")
    report = zeroconsolidate.consolidate(case.checkpoint, tmp_path / "here", dtype="bf16")
    assert report.warnings == ()
    assert (tmp_path / "here/model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in model_cases() if c.name.startswith("mixtral_z")])
def test_fused_experts_that_the_table_does_not_know_need_transformers_5(
    case: ModelCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeroconsolidate.naming.sources, "looked_up", lambda _: None)
    with pytest.raises(zeroconsolidate.errors.WrongNames, match="install transformers 5"):
        zeroconsolidate.consolidate(case.checkpoint, tmp_path / "model")


# Not yarn: transformers 4.46 takes max_position_embeddings for the original length, whatever the config says.
SCALINGS = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=[str(s["rope_type"]) for s in SCALINGS])
def test_rotary_frequencies_are_those_of_transformers_5(scaling: dict[str, object]) -> None:
    """`rotary.json` holds what transformers 5 computes from the same config before it was edited."""
    from zeroconsolidate.outputs.config import readable_before_5

    known = json.loads((Path(__file__).parent / "rotary.json").read_text())[scaling["rope_type"]]
    text, changed = readable_before_5(json.dumps(known["config"]).encode())
    assert changed
    config = transformers.LlamaConfig.from_dict(json.loads(text))
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary = LlamaRotaryEmbedding(config=config)
    assert rotary.inv_freq.tolist() == known["inv_freq"]
    assert rotary.attention_scaling == known["attention_scaling"]
