"""Every fully trained model of the fixtures, converted, loads in transformers 5 and answers as the live model did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from model_cases import ModelCase, model_cases
from safetensors.torch import load_file

from models.answers import LOADERS, answers, assert_equal_answers
from models.converted import convert

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not transformers.__version__.startswith("5."), reason="needs transformers 5")

CASES = [pytest.param(case, id=case.name) for case in model_cases(adapter=False)]
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
    found = answers(case, model, directory)
    if dtype == "fp32":
        assert_equal_answers(case, found, "float32")
    elif case.provenance["case"]["bf16"]:
        assert_equal_answers(case, found, "live")


@pytest.mark.parametrize("case", CASES)
def test_weights_the_trainer_wrote_are_ours_cast(case: ModelCase, where: Path) -> None:
    """Under every name, bit for bit, heads included; files of empty tensors, which ZeRO-3 leaves, say nothing."""
    written = {}
    for path in sorted(case.checkpoint.iterdir()):
        if path.name == "model.safetensors":
            written |= load_file(path)
        elif path.name in ("colbert_linear.pt", "sparse_linear.pt"):
            written |= {f"{path.stem}.{key}": t for key, t in torch.load(path, weights_only=True).items()}
    if not any(tensor.numel() for tensor in written.values()):
        pytest.skip("the Trainer wrote no weights")
    kinds = {tensor.dtype for tensor in written.values()}
    for dtype in kinds:
        directory = convert(case, where, {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype])
        ours = load_file(directory / "model.safetensors")
        for head in ("colbert_linear", "sparse_linear"):
            if (directory / f"{head}.pt").exists():
                state = torch.load(directory / f"{head}.pt", weights_only=True)
                ours |= {f"{head}.{key}": tensor for key, tensor in state.items()}
        if case.provenance["case"]["base"] == "qwen2":
            ours["lm_head.weight"] = ours["model.embed_tokens.weight"]  # tied: the Trainer wrote it twice under ZeRO-2
        for name, tensor in written.items():
            if tensor.dtype == dtype:
                assert ours[name].dtype == dtype
                assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name
