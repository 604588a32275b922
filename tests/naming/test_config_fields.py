"""A config.json that is older than the weights: which field does not agree, and the option that sets it.

Checkpoints are those of real runs; their config.json is put back to what it said before the embeddings grew, layers
were dropped or the labels changed.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from command import refusal, zeroconsolidate
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import BadOption, Disagreement, WrongNames
from zeroconsolidate.naming.config_fields import rules_to_try, with_fields
from zeroconsolidate.naming.expectation import Expectation, compare

if TYPE_CHECKING:
    from pathlib import Path

MODELS = FIXTURES / "models"
CONFIG = {
    "hidden_size": 8,
    "vocab_size": 64,
    "num_hidden_layers": 3,
    "id2label": {"0": "a", "1": "b"},
    "text_config": {"vocab_size": 16},
}


@pytest.fixture
def older(tmp_path: Path) -> Any:
    """A copy of a checkpoint, with fields of its config.json changed."""

    def make(source: Path, **fields: object) -> Path:
        root = tmp_path / "checkpoint"
        shutil.copytree(source / "checkpoint", root)
        config = json.loads((root / "config.json").read_text())
        (root / "config.json").write_text(json.dumps(config | fields))
        return root

    return make


class TestOfRealRuns:
    transformers = pytest.importorskip("transformers", minversion="5")

    @pytest.mark.parametrize(
        ("source", "before", "rule", "by"),
        [
            ("trainer_zero3_tied", {"vocab_size": 290}, "vocab_size=300", "the shape [300, 20] of model.embed_tokens"),
            ("models/llm_untied_z3", {"vocab_size": 290}, "vocab_size=288", "the shape [288, 16] of "),
            ("models/llm_untied_z3", {"num_hidden_layers": 3}, "num_hidden_layers=2", "their layers: model.layers.2."),
            ("models/llm_untied_z3", {"num_hidden_layers": 1}, "num_hidden_layers=2", "their layers: model.layers.1."),
            ("models/llm_untied_z3", {"intermediate_size": 32}, "intermediate_size=24", "of model.layers.0.mlp."),
            (
                "models/reranker_z3",
                {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
                "num_labels=1",
                "the shape [1, 16] of classifier.out_proj.weight",
            ),
        ],
    )
    def test_the_field_is_named_and_can_be_set(
        self, source: str, before: dict[str, object], rule: str, by: str, older: Any, tmp_path: Path
    ) -> None:
        root = older(FIXTURES / source, **before)
        with pytest.raises(WrongNames, match=r"config\.json does not agree with the weights") as caught:
            consolidate(root, tmp_path / "out")
        assert caught.value.remedies == (f'set_config="{rule}"',)
        assert f"{rule}, by " in (caught.value.expected or "")
        assert by in (caught.value.expected or "")
        assert not (tmp_path / "out").exists()

        report = consolidate(root, tmp_path / "out", set_config=rule)
        assert f"config.json: {rule} (--set-config)" in report.notes
        assert verify(tmp_path / "out").ok
        assert verify(tmp_path / "out", against=root).ok
        manifest = json.loads((tmp_path / "out/zeroconsolidate.json").read_text())
        assert manifest["options"]["set_config"] == [rule]
        consolidate(FIXTURES / source / "checkpoint", tmp_path / "true")
        true, made = (load_file(tmp_path / name / "model.safetensors") for name in ("true", "out"))
        assert true.keys() == made.keys()
        assert all(true[name].equal(made[name]) for name in true)
        _, loading = self.transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not loading["mismatched_keys"]
        assert all(name.startswith("pooler") for name in loading["missing_keys"])

    def test_of_two_fields(self, older: Any, tmp_path: Path) -> None:
        root = older(MODELS / "llm_untied_z3", vocab_size=290, num_hidden_layers=3)
        with pytest.raises(WrongNames, match="got vocab_size=290 and num_hidden_layers=3") as caught:
            consolidate(root, tmp_path / "out")
        assert caught.value.remedies == ('set_config=["vocab_size=288", "num_hidden_layers=2"]',)

    def test_nothing_is_offered_that_does_not_help(self, older: Any, tmp_path: Path) -> None:
        root = older(MODELS / "llm_untied_z3", model_type="qwen2", architectures=["Qwen2ForCausalLM"], vocab_size=290)
        with pytest.raises(WrongNames) as caught:
            consolidate(root, tmp_path / "out")
        assert "set_config" not in str(caught.value)

    def test_in_the_command(self, older: Any, tmp_path: Path) -> None:
        root = older(MODELS / "llm_untied_z3", vocab_size=290)
        assert "--set-config vocab_size=288" in refusal(zeroconsolidate("convert", root, tmp_path / "out"))
        done = zeroconsolidate("convert", root, tmp_path / "out", "--set-config", "vocab_size=288")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 288


def test_without_transformers_the_rows_still_tell(older: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeroconsolidate.naming.asking.find_spec", lambda _: None)
    root = older(MODELS / "llm_untied_z3", vocab_size=290)
    with pytest.raises(Disagreement, match=r"set_config=.vocab_size=288"):
        consolidate(root, tmp_path / "out")
    assert consolidate(root, tmp_path / "out", set_config=["vocab_size=288"]).tensors


def test_there_must_be_a_config(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"no config\.json to set fields of; add one with base"):
        consolidate(FIXTURES / "z3_bf16/checkpoint", tmp_path / "out", set_config="vocab_size=7")


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("vocab_size=70", {"vocab_size": 70}),
        ("text_config.vocab_size=70", {"text_config": {"vocab_size": 70}}),
        ("scale=0.5", {"scale": 0.5}),
        ("tie_word_embeddings=false", {"tie_word_embeddings": False}),
        ('architectures=["LlamaModel"]', {"architectures": ["LlamaModel"]}),
        ("model_type=llama", {"model_type": "llama"}),
        ("pad=", {"pad": ""}),
    ],
)
def test_values_are_json_or_texts(rule: str, changed: dict[str, object]) -> None:
    assert json.loads(with_fields(json.dumps(CONFIG).encode(), [rule])) == CONFIG | changed


def test_labels_of_another_number_go() -> None:
    found = json.loads(with_fields(json.dumps(CONFIG).encode(), ["num_labels=3"]))
    assert found == {key: value for key, value in CONFIG.items() if key != "id2label"} | {"num_labels": 3}
    assert "id2label" in json.loads(with_fields(json.dumps(CONFIG).encode(), ["num_labels=2"]))


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("vocab_size", "FIELD=VALUE"),
        ("=7", "FIELD=VALUE"),
        ("text_config.=7", "FIELD=VALUE"),
        ("vision_config.depth=7", "no 'vision_config' with fields in it"),
        ("vocab_sise=7", "no field 'vocab_sise'; did you mean 'vocab_size'"),
    ],
)
def test_what_cannot_be_set(rule: str, why: str) -> None:
    with pytest.raises(BadOption, match=why):
        with_fields(json.dumps(CONFIG).encode(), [rule])


def test_without_rules_not_a_byte_changes() -> None:
    assert with_fields(b'{ "a":1}', ()) == b'{ "a":1}'
    with pytest.raises(BadOption, match="not a JSON object"):
        with_fields(b"[]", ["a=1"])


def rules(stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> list[tuple[str, ...]]:
    expectation = Expectation(origin="it", shapes=expected, ties={}, exact=True)
    naming = compare({name: name for name in stored}, stored, {}, expectation, "")
    config = {"vocab_size": "64", "width": "64", "num_hidden_layers": "2", "text": {"n_layer": "2", "a": {"b": "64"}}}
    return list(rules_to_try(config, naming, stored))


def test_candidates_have_the_value_that_was_expected() -> None:
    assert rules({"e": (70, 8)}, {"e": (64, 8)}) == [("vocab_size=70",), ("width=70",), ("text.a.b=70",)]
    assert rules({"e": (70, 9)}, {"e": (64, 7)}) == []  # no field is 7
    assert rules({"e": (70,)}, {"e": (64, 8)}) == []  # another kind of tensor
    assert rules({"e": (1, 2, 3)}, {"e": (64, 64, 64)}) == []  # three differences: another model
    assert rules({"x": (1,)}, {"y": (1,)}) == []


def test_layers_are_the_last_ones_of_one_tower() -> None:
    def layers(*numbers: int, tower: str = "h.") -> dict[str, tuple[int, ...]]:
        return {f"{tower}{n}.w": (3,) for n in numbers}

    assert rules(layers(0, 1, 2), layers(0, 1)) == [("num_hidden_layers=3",), ("text.n_layer=3",)]
    assert rules(layers(0), layers(0, 1)) == [("num_hidden_layers=1",), ("text.n_layer=1",)]
    assert rules(layers(1), layers(0, 1)) == []  # a hole
    assert rules(layers(0) | layers(0, tower="g."), layers(0, 1) | layers(0, 1, tower="g.")) == []
    assert rules(layers(0) | {"x": (1,)}, layers(0, 1)) == []


def test_a_head_has_as_many_labels_as_rows() -> None:
    assert rules({"score.weight": (5, 8)}, {"score.weight": (2, 8)}) == [
        ("num_labels=5",),
        ("num_hidden_layers=5",),
        ("text.n_layer=5",),
    ]
