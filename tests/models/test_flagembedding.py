"""FlagEmbedding's and sentence-transformers' own classes make of our output what they make of the trained model:
tools/test_flagembedding.sh.

The expected vectors and scores (`flag.*`) come from the same classes on what the run itself had in memory.
"""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from model_cases import ModelCase, model_cases

import zeroconsolidate

pytest.importorskip("FlagEmbedding")

from converted import convert
from model_fixtures.outputs import TEXTS, flag_inference

if TYPE_CHECKING:
    from pathlib import Path

FULL = [pytest.param(c, id=c.name) for c in model_cases("m3", "embedder", "reranker")]
LORA = [pytest.param(c, id=c.name) for c in model_cases("llm_embedder", "llm_reranker")]


def _compare(case: ModelCase, directory: Path) -> None:
    expected = {k.removeprefix("flag."): t for k, t in case.outputs.items() if k.startswith("flag.")}
    found = flag_inference(case.recipe, str(directory), heads="colbert" in expected)
    assert set(found) >= set(expected)
    for name, tensor in expected.items():
        difference = (found[name].reshape(tensor.shape).double() - tensor.double()).abs().max().item()
        assert difference == 0.0, (name, difference)


@pytest.mark.parametrize("case", FULL)
def test_vectors_and_scores_are_the_live_models(case: ModelCase, where: Path) -> None:
    _compare(case, convert(case, where, "fp32", base=case.base))


@pytest.mark.parametrize("case", LORA)
def test_merged_adapters_answer_as_the_live_model(case: ModelCase, where: Path) -> None:
    _compare(case, convert(case, where, "fp32", base=case.base, lora="merge"))


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in model_cases("embedder")])
def test_sentence_transformers_agrees(case: ModelCase, where: Path) -> None:
    from sentence_transformers import SentenceTransformer

    directory = convert(case, where, "fp32", sentence_transformers="cls")
    vectors = torch.from_numpy(SentenceTransformer(str(directory), device="cpu").encode(TEXTS))
    expected = case.outputs["flag.embeddings"]
    assert torch.equal(vectors, expected), (vectors - expected).abs().max()


def test_heads_that_were_not_trained_are_the_base_models(where: Path) -> None:
    (case,) = model_cases("m3")[:1]
    assert case.name == "m3_dense_only_z2"
    directory = convert(case, where, "fp32", base=case.base)
    for head in ("colbert_linear.pt", "sparse_linear.pt"):
        assert (directory / head).read_bytes() == (case.base / head).read_bytes()


def test_empty_heads_of_a_zero3_run_are_not_taken(tmp_path: Path) -> None:
    """What `torch.save` made of gathered-away parameters stands beside the shards, which have the real ones."""
    case = next(c for c in model_cases("m3") if c.name == "m3_z3")
    assert torch.load(case.checkpoint / "colbert_linear.pt", weights_only=True)["weight"].numel() == 0
    zeroconsolidate.consolidate(case.checkpoint, tmp_path / "model")
    state = torch.load(tmp_path / "model/colbert_linear.pt", weights_only=True)
    assert torch.equal(state["weight"], case.expected["colbert_linear.weight"])


def test_empty_heads_of_a_base_are_not_taken(tmp_path: Path) -> None:
    case = next(c for c in model_cases("m3") if c.name == "m3_dense_only_z2")
    base = tmp_path / "base"
    shutil.copytree(case.base, base)
    buffer = io.BytesIO()
    torch.save({"weight": torch.empty(0), "bias": torch.empty(0)}, buffer)
    (base / "colbert_linear.pt").write_bytes(buffer.getvalue())
    report = zeroconsolidate.consolidate(case.checkpoint, tmp_path / "model", base=base)
    assert not (tmp_path / "model/colbert_linear.pt").exists()
    assert any("colbert_linear.pt" in note and "empty" in note for note in report.notes), report.notes
    assert "empty" not in json.dumps(report.warnings)
