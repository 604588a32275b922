"""Answers of two models: what transformers itself computes, and figures against torch."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import zeroconsolidate as run
from fixtures import FIXTURES
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from zeroconsolidate import BadOption, DamagedFile, Disagreement, NotACheckpoint, compare_answers, consolidate
from zeroconsolidate.answers.agreement import agreement
from zeroconsolidate.answers.ask import Answers
from zeroconsolidate.answers.texts import TEXTS, read_texts

transformers = pytest.importorskip("transformers", minversion="5")

if TYPE_CHECKING:
    from pathlib import Path

MODELS = FIXTURES / "models"
QUESTIONS = ["What is ZeRO?", "How do ranks share a flat group?", "Where are the masters?", "Why was step 500 lost?"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind, and a copy of each with other values."""
    folder = tmp_path_factory.mktemp("models")
    for kind, case in (("causal", "llm_untied_z3"), ("embedder", "embedder_z3"), ("reranker", "reranker_z3")):
        consolidate(MODELS / case / "checkpoint", folder / kind)
    shutil.copytree(folder / "reranker", folder / "classifier")
    config = json.loads((folder / "classifier" / "config.json").read_text())
    config |= {"id2label": {str(n): f"L{n}" for n in range(3)}, "label2id": {f"L{n}": n for n in range(3)}}
    (folder / "classifier" / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "classifier" / "model.safetensors")
    torch.manual_seed(0)
    for name in ("classifier.out_proj.weight", "classifier.out_proj.bias"):
        tensors[name] = torch.randn(3, *tensors[name].shape[1:])
    save_file(tensors, folder / "classifier" / "model.safetensors", metadata={"format": "pt"})
    for kind in ("causal", "embedder", "reranker", "classifier"):
        shutil.copytree(folder / kind, folder / f"{kind}-2")
        tensors = load_file(folder / kind / "model.safetensors")
        noisy = {n: t + 0.05 * torch.randn_like(t) if t.is_floating_point() else t for n, t in tensors.items()}
        save_file(noisy, folder / f"{kind}-2" / "model.safetensors", metadata={"format": "pt"})
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(text) for text in QUESTIONS))
    pairs = [{"query": question, "passage": f"{question} It is so."} for question in QUESTIONS]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    return folder


def loaded(cls: Any, folder: Path) -> tuple[Any, Any]:
    return cls.from_pretrained(folder).float().eval(), transformers.AutoTokenizer.from_pretrained(folder)


class TestCausal:
    """Next tokens, divergence, perplexity."""

    def test_figures_are_torch_s(self, places: Path) -> None:
        found = compare_answers(places / "causal", places / "causal-2", texts=places / "texts.jsonl")
        cls = transformers.AutoModelForCausalLM
        (a, tokenizer), (b, _) = loaded(cls, places / "causal"), loaded(cls, places / "causal-2")
        assert found.what == "continuations"
        for text, got in zip(QUESTIONS, found.texts, strict=True):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                p, q = (torch.log_softmax(model(ids).logits[0].double(), -1) for model in (a, b))
            assert got.agreement == float((p.argmax(-1) == q.argmax(-1)).double().mean())
            true = float((p.exp() * (p - q)).sum(-1).mean())
            assert got.kl is not None
            assert 0 < got.kl <= true + 1e-12  # a lower bound: of 64 tokens and all others together
            assert got.kl > 0.2 * true
            for perplexity, logs in ((got.perplexity_a, p), (got.perplexity_b, q)):
                own = logs[:-1].gather(-1, ids[0, 1:, None])
                assert perplexity == pytest.approx(float((-own.mean()).exp()), rel=1e-9)

    @pytest.mark.usefixtures("processes_of_their_own")
    def test_with_itself(self, places: Path) -> None:
        found = compare_answers(places / "causal", places / "causal")
        assert (found.agreement, found.least, max(text.kl for text in found.texts)) == (1.0, 1.0, 0.0)
        assert len(found.texts) == len(TEXTS)

    def test_recorded_and_asked_again_without_the_first(self, places: Path, tmp_path: Path) -> None:
        kept = tmp_path / "answers.json"
        options = {"texts": places / "texts.jsonl"}
        first = compare_answers(places / "causal", places / "causal-2", record=kept, **options)
        again = compare_answers(kept, places / "causal-2")
        assert again.texts == first.texts
        with pytest.raises(BadOption, match="recorded"):
            compare_answers(kept, places / "causal-2", **options)


class TestEmbeddings:
    """Cosine and neighbours, for each way of pooling."""

    @pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
    def test_vectors_are_transformers_own(self, pooling: str, places: Path) -> None:
        found = compare_answers(
            places / "embedder", places / "embedder-2", texts=places / "texts.jsonl", pooling=pooling
        )
        vectors = []
        for name in ("embedder", "embedder-2"):
            model, tokenizer = loaded(transformers.AutoModel, places / name)
            states = [
                model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].detach().double()
                for text in QUESTIONS
            ]
            place = {"cls": lambda s: s[0], "mean": lambda s: s.mean(0), "last": lambda s: s[-1]}[pooling]
            vectors.append(torch.stack([place(state) for state in states]))
        expected = torch.cosine_similarity(*vectors)
        assert [text.agreement for text in found.texts] == pytest.approx(expected.tolist(), abs=1e-9)
        assert pooling in found.library_a

    def test_the_first_token_by_default(self, places: Path) -> None:
        found = compare_answers(places / "embedder", places / "embedder", texts=places / "texts.jsonl")
        assert found.library_a.endswith("cls pooling")
        assert (found.ranking, found.nearest) == (pytest.approx(1.0), 1.0)
        assert found.least == pytest.approx(1.0)


class TestClassifiersAndRerankers:
    """Classes and scores."""

    def logits(self, folder: Path, texts: list[Any]) -> torch.Tensor:
        model, tokenizer = loaded(transformers.AutoModelForSequenceClassification, folder)
        rows = [tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt") for text in texts]
        return torch.cat([model(**row).logits.detach().double() for row in rows])

    def test_classes(self, places: Path) -> None:
        found = compare_answers(places / "classifier", places / "classifier-2", texts=places / "texts.jsonl")
        a, b = (self.logits(places / name, QUESTIONS) for name in ("classifier", "classifier-2"))
        assert found.what == "classes"
        assert [t.agreement for t in found.texts] == (a.argmax(1) == b.argmax(1)).double().tolist()
        p, q = a.log_softmax(1), b.log_softmax(1)
        assert [t.kl for t in found.texts] == pytest.approx((p.exp() * (p - q)).sum(1).tolist(), rel=1e-6)

    def test_scores(self, places: Path) -> None:
        found = compare_answers(places / "reranker", places / "reranker-2", texts=places / "pairs.jsonl")
        pairs = [(question, f"{question} It is so.") for question in QUESTIONS]
        a, b = (self.logits(places / name, pairs).sigmoid()[:, 0] for name in ("reranker", "reranker-2"))
        assert found.what == "scores"
        assert [t.agreement for t in found.texts] == pytest.approx((1 - (a - b).abs()).tolist(), abs=1e-9)
        assert found.ranking is not None


class TestRefused:
    """What cannot be asked."""

    def test_models_of_different_kinds(self, places: Path) -> None:
        with pytest.raises(Disagreement, match="cannot be compared"):
            compare_answers(places / "causal", places / "embedder", texts=places / "texts.jsonl")

    def test_a_checkpoint(self, places: Path) -> None:
        with pytest.raises(BadOption, match="only a model directory") as raised:
            compare_answers(MODELS / "llm_untied_z3" / "checkpoint", places / "causal")
        assert "zeroconsolidate convert" in str(raised.value.remedies)

    def test_nothing(self, places: Path) -> None:
        with pytest.raises(NotACheckpoint):
            compare_answers(places / "nowhere", places / "causal")

    def test_parameters_that_would_be_random(self, places: Path, tmp_path: Path) -> None:
        shutil.copytree(places / "causal", tmp_path / "bad")
        tensors = load_file(places / "causal" / "model.safetensors")
        save_file(
            {f"x.{n}": t for n, t in tensors.items()}, tmp_path / "bad/model.safetensors", metadata={"format": "pt"}
        )
        with pytest.raises(BadOption, match="would be random"):
            compare_answers(tmp_path / "bad", places / "causal")

    @pytest.mark.parametrize("text", ["", "[1]", '{"query": "a"}', "nonsense", '""'])
    def test_bad_texts(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_text(text)
        with pytest.raises((BadOption, DamagedFile)):
            read_texts(str(tmp_path / "t.jsonl"))

    @pytest.mark.parametrize(
        "change", [{"format": "x"}, {"answers": []}, {"kind": "x"}, {"texts": None}, {"version": 2}]
    )
    def test_bad_records(self, change: dict[str, Any], places: Path, tmp_path: Path) -> None:
        good = {"format": "zeroconsolidate answers", "version": 1, "model": "m", "kind": "classes", "library": "l",
                "texts": ["a"], "answers": [[1.0, 2.0]]}  # fmt: skip
        (tmp_path / "r.json").write_text(json.dumps(good | change))
        with pytest.raises(DamagedFile):
            compare_answers(tmp_path / "r.json", places / "classifier")


def vectors(*rows: list[float]) -> Answers:
    return Answers(model="m", kind="embeddings", library="l", texts=tuple(map(str, range(len(rows)))), answers=rows)


@given(st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=3, max_size=8), st.floats(0.1, 10))
def test_a_multiple_agrees_wholly(rows: list[list[float]], factor: float) -> None:
    found = agreement(vectors(*rows), vectors(*[[factor * x for x in row] for row in rows]), 0.0)
    assert found.least == pytest.approx(1.0, abs=1e-9)


def test_rank_correlation_is_that_of_its_definition() -> None:
    """Against the formula with squared rank differences, where no two are equal."""
    torch.manual_seed(1)
    a, b = torch.randn(7, 4).double(), torch.randn(7, 4).double()
    found = agreement(vectors(*a.tolist()), vectors(*b.tolist()), 0.0)
    expected = []
    for n in range(7):
        others = [k for k in range(7) if k != n]
        x, y = (torch.cosine_similarity(side[n], side[others]) for side in (a, b))
        apart = (x.argsort().argsort() - y.argsort().argsort()).double()
        expected.append(float(1 - 6 * (apart**2).sum() / (6 * 35)))
    assert found.ranking == pytest.approx(math.fsum(expected) / 7)


class TestCommand:
    """What is printed, and exit codes."""

    def test_agreement_decides(self, places: Path, tmp_path: Path) -> None:
        texts = places / "texts.jsonl"
        words = ["compare", places / "causal", places / "causal-2", "--answers", texts]
        done = run(*words, "--record", tmp_path / "r.json")
        assert (done.returncode, done.stdout.partition(":")[0]) == (0, "Answers of A and B to 4 texts")
        assert "perplexity" in done.stdout
        done = run("compare", tmp_path / "r.json", places / "causal-2", "--agreement", "0.999")
        assert done.returncode == 1
        assert "agree less than 0.999" in done.stdout
        found = json.loads(run("compare", tmp_path / "r.json", places / "causal", "--json").stdout)
        assert (found["ok"], found["kind"], found["least"], len(found["texts"])) == (True, "answers", 1.0, 4)

    @pytest.mark.parametrize(
        "words", [["--record", "x"], ["--agreement", "1"], ["--answers", "default", "--tolerance", "1"],
                  ["--answers", "default", "--tensors"], ["--answers", "default", "--agreement", "2"]],
    )  # fmt: skip
    def test_contradictions(self, words: list[str], places: Path) -> None:
        done = run("compare", places / "causal", places / "causal", *words)
        assert done.returncode == 2
        assert words[-1] in done.stderr or words[-2] in done.stderr
