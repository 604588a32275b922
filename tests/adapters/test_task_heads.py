"""Adapters whose task has another head than the base model: what is merged is of the class that was trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from adapted import config, stored, trained
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.adapters.task import TrainedAs, task_of, trained_as
from zeroconsolidate.errors import Disagreement, WrongNames
from zeroconsolidate.naming.expectation import Expectation
from zeroconsolidate.naming.hub_layout import Architecture

pytest.importorskip("transformers", minversion="5")
pytest.importorskip("peft")

import transformers
from peft_runs import Tuned, build, lora, tune
from reported import differing, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

SIZES: dict[str, Any] = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 24, "max_position_embeddings": 40}  # fmt: skip


def roberta(cls: Any, labels: int) -> Callable[[], nn.Module]:
    return lambda: cls(transformers.RobertaConfig(**SIZES, num_labels=labels))


def bert(cls: Any, labels: int) -> Callable[[], nn.Module]:
    return lambda: cls(transformers.BertConfig(**SIZES, num_labels=labels))


HEADS: dict[str, tuple[Callable[[], nn.Module], str, Any]] = {
    "two layers": (
        roberta(transformers.RobertaForSequenceClassification, 3), "SEQ_CLS", transformers.RobertaForMaskedLM
    ),
    "one label": (bert(transformers.BertForSequenceClassification, 1), "SEQ_CLS", transformers.BertForPreTraining),
    "tokens": (bert(transformers.BertForTokenClassification, 5), "TOKEN_CLS", transformers.BertModel),
    "answers": (roberta(transformers.RobertaForQuestionAnswering, 2), "QUESTION_ANS", transformers.RobertaForMaskedLM),
}  # fmt: skip


def run(kind: str, folder: Path) -> tuple[Tuned, Path, Path]:
    """(the run, its checkpoint, a base whose head is another)."""
    make, task, base_class = HEADS[kind]
    tuned = tune(make, default=lora(task_type=task, target_modules=["query", "value"]))
    whole = build(make)
    base = base_class(type(whole.config)(**SIZES))
    body = whole.base_model.state_dict()
    base.base_model.load_state_dict(body, strict=False)
    base.save_pretrained(folder / "base")
    return tuned, tuned.save(folder / "in", stage=2, frozen=False, dtype=torch.bfloat16), folder / "base"


@pytest.mark.parametrize("kind", HEADS)
def test_merged(kind: str, tmp_path: Path) -> None:
    tuned, checkpoint, base = run(kind, tmp_path)
    consolidate(checkpoint, tmp_path / "out", lora="merge", base=base)
    expected = tuned.merged(torch.float32)
    found = load(type(expected), tmp_path / "out")
    assert differing(found.state_dict(), expected.state_dict()) == []
    assert found.config.num_labels == expected.config.num_labels
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [type(expected).__name__]
    assert verify(tmp_path / "out").ok


def test_a_head_of_no_class(tmp_path: Path) -> None:
    """A base of a kind of model that transformers has no classifier of."""
    tuned, checkpoint, base = run("tokens", tmp_path)
    adapter = checkpoint / "adapter_config.json"
    adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"task_type": "CAUSAL_LM"}))
    name = "classifier.weight"
    with pytest.raises(WrongNames, match=rf"2 trained tensors have no place .*{name}.* BertModel .* expects none of"):
        consolidate(checkpoint, tmp_path / "out", lora="merge", base=base)
    consolidate(checkpoint, tmp_path / "out", lora="merge", base=base, allow_missing=True)
    masters = [
        value for key, value in tuned.masters.items() if key.endswith("classifier.modules_to_save.default.weight")
    ]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], masters[0])


def test_the_adapter_says_what_loads_it(tmp_path: Path) -> None:
    _, checkpoint, _ = run("answers", tmp_path)
    report = consolidate(checkpoint, tmp_path / "out")
    assert any("AutoModelForQuestionAnswering" in note for note in report.notes)


def test_the_task_of_adapters() -> None:
    assert task_of([config(task_type="TOKEN_CLS"), config()]) == "TOKEN_CLS"
    assert task_of([config(task_type="CAUSAL_LM")]) is None
    mapped = {"base_model_class": "XForSequenceClassification", "parent_library": "x"}
    assert task_of([config(auto_mapping=mapped)]) == "XForSequenceClassification"
    assert task_of([config(auto_mapping={"base_model_class": "XForCausalLM"})]) is None
    with pytest.raises(Disagreement, match="several tasks: SEQ_CLS, TOKEN_CLS"):
        task_of([config(task_type="SEQ_CLS"), config(task_type="TOKEN_CLS")])


def test_labels_are_the_rows_of_the_head() -> None:
    shapes: dict[str, Any] = {"score.weight": (2, 8), "score.bias": (2,), "q.weight": (8, 8)}
    expectation = Expectation(origin="X", shapes=shapes, ties={}, exact=True)
    architecture = Architecture(
        expectation=expectation, hub=expectation, conversions=(), class_name="XForSequenceClassification", labels=2
    )
    body = {"q.weight": stored(8, 8)}
    assert trained_as(body | {"score.weight": trained(5, 8), "score.bias": trained(5)}, architecture) == TrainedAs(
        class_name="XForSequenceClassification", labels=5
    )
    assert trained_as(body | {"score.weight": trained(2, 8)}, architecture).labels is None
    with pytest.raises(Disagreement, match="different numbers of rows"):
        trained_as({"score.weight": trained(5, 8), "score.bias": trained(4)}, architecture)


def test_a_task_that_such_models_have_no_class_for() -> None:
    """A classifier of pictures, which PEFT was told is one of sequences: its own class it is."""
    from zeroconsolidate.integrations.architecture import class_for

    assert class_for(transformers.ViTConfig(), "SEQ_CLS") is None
    assert class_for(transformers.BertConfig(), "SEQ_CLS") is transformers.BertForSequenceClassification
    assert class_for(transformers.BertConfig(), None) is None
    with pytest.raises(LookupError, match="no class XForSequenceClassification for bert"):
        class_for(transformers.BertConfig(), "XForSequenceClassification")
