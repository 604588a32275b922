"""Answers by sentence-transformers and FlagEmbedding: the vectors that these libraries give themselves.

Runs in the environment of `sh tools/test_flagembedding.sh`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES

from zeroconsolidate import compare_answers, consolidate
from zeroconsolidate.answers.ask import ask

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("What is ZeRO?", "How do ranks share a flat group?", "Where are the masters?")


def test_sentence_transformers(tmp_path: Path) -> None:
    """With the module behind the pooling."""
    library = pytest.importorskip("sentence_transformers")
    consolidate(FIXTURES / "sentence_transformers" / "dense_z3" / "checkpoint", tmp_path / "model")
    answers = ask(str(tmp_path / "model"), TEXTS, pooling=None)
    own = library.SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(list(TEXTS))
    assert answers.library.startswith("sentence-transformers")
    assert [list(map(float, vector)) for vector in own] == [
        pytest.approx(vector, abs=1e-6) for vector in answers.answers
    ]


def test_flagembedding(tmp_path: Path) -> None:
    """BGE-M3, before and after: the same model agrees with itself."""
    library = pytest.importorskip("FlagEmbedding")
    consolidate(FIXTURES / "models" / "m3_z3" / "checkpoint", tmp_path / "model")
    answers = ask(str(tmp_path / "model"), TEXTS, pooling=None)
    model = library.BGEM3FlagModel(str(tmp_path / "model"), use_fp16=False, devices="cpu")
    own = model.encode(list(TEXTS), max_length=256)["dense_vecs"]
    assert answers.library == "FlagEmbedding"
    assert [list(map(float, vector)) for vector in own] == [
        pytest.approx(vector, abs=1e-6) for vector in answers.answers
    ]
    found = compare_answers(tmp_path / "model", tmp_path / "model")
    assert (found.least, found.nearest) == (pytest.approx(1.0), 1.0)
