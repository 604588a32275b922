"""FlagEmbedding's and sentence-transformers' own classes make of our output what they make of the trained model:
tools/test_flagembedding.sh.

The same classes are given the live engine's weights, as transformers saves them, in the same process: vectors and
scores must be equal to the last bit. Those of the live run itself (`flag.*`), maybe of another processor, are equal but
for rounding.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from converted import convert
from model_cases import ModelCase, model_cases
from safetensors.torch import load_file, save_file

import zeroconsolidate

pytest.importorskip("FlagEmbedding")

import true_models
from compare_with_live import main as compare_with_live
from model_fixtures.outputs import TEXTS, aligned, comparable, flag_inference
from model_fixtures.rounding import terms
from witnesses import assert_equal, assert_within_rounding, notices

FULL = [pytest.param(c, id=c.name) for c in model_cases("m3", "embedder", "reranker")]
LORA = [pytest.param(c, id=c.name) for c in model_cases("llm_embedder", "llm_reranker")]

PAGE = Path(__file__).parents[2] / "docs/flagembedding.md"
_NUMBER = re.compile(r"(?<=largest difference )[-.e0-9]+")


def save_true_model(case: ModelCase, folder: Path) -> int:
    """The live engine's weights as a directory that FlagEmbedding loads; returns how many terms are added up in it."""
    model = true_models.merged(case) if case.has_adapter else true_models.trained(case, torch.float32)
    true_models.save(model, folder, case)
    for head in true_models.HEADS:
        if case.recipe == "m3" and head not in model:
            # BGEM3FlagModel wants both; a run that did not train them leaves the base's unchanged.
            shutil.copy(case.base / f"{head}.pt", folder)
    return terms(model.parameters())


def compare(case: ModelCase, directory: Path, true_directory: Path) -> None:
    size = save_true_model(case, true_directory)
    recorded = {k.removeprefix("flag."): t for k, t in case.outputs.items() if k.startswith("flag.")}
    heads = "colbert" in recorded
    found, true = (flag_inference(case.recipe, str(folder), heads=heads) for folder in (directory, true_directory))
    assert_equal(found, true)
    assert found.keys() == recorded.keys()
    (numbers, exact), (recorded_numbers, recorded_exact) = comparable(found), comparable(recorded)
    assert_equal(exact, recorded_exact)
    assert_within_rounding(numbers, recorded_numbers, torch.float32, size)


@pytest.mark.parametrize("case", FULL)
def test_vectors_and_scores_are_the_live_models(case: ModelCase, where: Path, tmp_path: Path) -> None:
    compare(case, convert(case, where, "fp32", base=case.base), tmp_path)


@pytest.mark.parametrize("case", LORA)
def test_merged_adapters_answer_as_the_live_model(case: ModelCase, where: Path, tmp_path: Path) -> None:
    compare(case, convert(case, where, "fp32", base=case.base, lora="merge"), tmp_path)


FAMILIES = [case for case in FULL + LORA if case.values[0].stage == 3 or case.values[0].name == "m3_dense_only_z2"]


@pytest.mark.parametrize("case", FAMILIES)
def test_a_weight_that_is_a_little_off_is_noticed(case: ModelCase, where: Path, tmp_path: Path) -> None:
    """One value by one unit in the last place, by comparing with the true weights' answers; one weight by one percent,
    by comparing with the recorded ones."""
    options = {"lora": "merge"} if case.has_adapter else {}
    directory = convert(case, where, "fp32", base=case.base, **options)
    size = save_true_model(case, tmp_path / "true")
    recorded = {k.removeprefix("flag."): t for k, t in case.outputs.items() if k.startswith("flag.")}
    heads = "colbert" in recorded
    true = flag_inference(case.recipe, str(tmp_path / "true"), heads=heads)
    off = tmp_path / "off"
    shutil.copytree(directory, off)
    tensors = load_file(directory / "model.safetensors")

    def answers_with(name: str, changed: torch.Tensor) -> dict[str, torch.Tensor]:
        save_file(tensors | {name: changed}, off / "model.safetensors", {"format": "pt"})
        return flag_inference(case.recipe, str(off), heads=heads)

    def by_a_unit(weight: torch.Tensor) -> torch.Tensor:
        values = weight.clone().view(-1)
        at = values.abs().argmax()
        values[at] = torch.nextafter(values[at], torch.tensor(torch.inf))
        return values.view(weight.shape)

    # The last ones show most.
    names = list(reversed(tensors))
    assert any(notices(assert_equal, answers_with(name, by_a_unit(tensors[name])), true) for name in names)
    assert any(
        notices(
            assert_within_rounding,
            comparable(answers_with(name, tensors[name] * 1.01))[0],
            comparable(recorded)[0],
            torch.float32,
            size,
        )
        for name in names
    )


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in model_cases("embedder")])
def test_sentence_transformers_agrees(case: ModelCase, where: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    size = save_true_model(case, tmp_path)
    encoder = Transformer(str(tmp_path))
    pooling = Pooling(encoder.get_word_embedding_dimension(), pooling_mode="cls")
    true = SentenceTransformer(modules=[encoder, pooling, Normalize()], device="cpu")
    ours = SentenceTransformer(str(convert(case, where, "fp32", sentence_transformers="cls")), device="cpu")
    found, expected = ({"embeddings": torch.from_numpy(aligned(m).encode(TEXTS))} for m in (ours, true))
    assert_equal(found, expected)
    assert_within_rounding(found, {"embeddings": case.outputs["flag.embeddings"]}, torch.float32, size)


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


def test_the_readme_shows_what_the_demo_prints(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two commands of tools/demo.sh. How far apart the answers are is up to the processor."""
    case = next(c for c in model_cases("m3") if c.name == "m3_z3")
    directory = convert(case, where, "fp32")
    assert compare_with_live(case.folder, directory) == 0
    printed = capsys.readouterr().out.replace(str(directory), "demo-model")
    shown = re.search(r"^```\n(demo-model, .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert _NUMBER.sub("", printed) == _NUMBER.sub("", shown[1])


def test_the_demo_notices_a_weight_that_is_off(where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(c for c in model_cases("m3") if c.name == "m3_z3")
    shutil.copytree(convert(case, where, "fp32"), tmp_path / "off")
    tensors = load_file(tmp_path / "off/model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] *= 1.01
    save_file(tensors, tmp_path / "off/model.safetensors", {"format": "pt"})
    assert compare_with_live(case.folder, tmp_path / "off") == 1
    printed = capsys.readouterr().out
    assert "42 of 43 tensors equal" in printed
    assert printed.count("not within rounding") == 3
