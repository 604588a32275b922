"""A config.json that names no class: it is found by names and shapes, and written into the output's config.json."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import WrongNames
from zeroconsolidate.naming.by_class import of_class
from zeroconsolidate.naming.expectation import Expectation
from zeroconsolidate.naming.hub_layout import Architecture

if TYPE_CHECKING:
    from pathlib import Path

transformers = pytest.importorskip("transformers", minversion="5")

CASES = {
    "models/llm_untied_z3": "LlamaForCausalLM",
    "models/llm_tied_z2": "Qwen2ForCausalLM",
    "models/reranker_z3": "XLMRobertaForSequenceClassification",
    "models/embedder_z2": "XLMRobertaModel",
    "models/mixtral_z3": "MixtralForCausalLM",
    "trainer_zero3_tied": "Qwen2ForCausalLM",
}


def without_class(source: str, folder: Path, **changes: object) -> Path:
    """A copy of a checkpoint whose config.json names no class."""
    shutil.copytree(FIXTURES / source / "checkpoint", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize("source", CASES)
def test_real_runs(source: str, tmp_path: Path) -> None:
    root = without_class(source, tmp_path / "in")
    report = consolidate(root, tmp_path / "out")
    assert report.warnings == ()
    assert f"config.json: architectures added: {CASES[source]} is the class of these names" in report.notes
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == [CASES[source]]
    assert verify(tmp_path / "out").ok
    consolidate(FIXTURES / source / "checkpoint", tmp_path / "true")
    true, made = (load_file(tmp_path / name / "model.safetensors") for name in ("true", "out"))
    assert true.keys() == made.keys()
    assert all(true[name].equal(made[name]) for name in true)
    _, found = getattr(transformers, CASES[source]).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["mismatched_keys"]


def test_no_class_fits(tmp_path: Path) -> None:
    root = without_class("models/llm_untied_z3", tmp_path / "in", model_type="bert")
    with pytest.raises(WrongNames):
        consolidate(root, tmp_path / "out")


def architecture(name: str, *names: str) -> Architecture:
    expectation = Expectation(origin=name, shapes=dict.fromkeys(names, (1,)), ties={}, exact=True)
    return Architecture(expectation=expectation, hub=expectation, conversions=(), class_name=name)


@pytest.mark.parametrize(
    ("architectures", "found"),
    [
        ([architecture("A", "m.a.w"), architecture("B", "m.a.w", "m.b.w")], ("B", "B")),
        ([architecture("A", "m.a.w", "m.b.w"), architecture("B", "m.a.w", "m.b.w")], ("A", "")),
        ([architecture("A", "a.w", "b.w"), architecture("B", "m.a.w", "m.b.w")], ("B", "B")),
        ([architecture("A", "a.w", "b.w")], ("A", "A")),
        ([architecture("A", "c.w")], None),
        ([], None),
    ],
)
def test_the_one_that_fits(architectures: list[Architecture], found: tuple[str, str] | None) -> None:
    """Exactly, without a change of names if one does; of several nobody says which."""
    sources: Any = SimpleNamespace(every_class=lambda: architectures)
    got = of_class(sources, {"m.a.w": (1,), "m.b.w": (1,)}, {})
    assert (got and (got.architecture.class_name, got.class_name)) == found
