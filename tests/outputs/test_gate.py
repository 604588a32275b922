"""The last gate: what is on disk is held against what its loader expects, on every path, and by `verify`."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from converted import ask_in_this_process
from fixtures import FIXTURES
from model_cases import ROOT
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.cli import main
from zeroconsolidate.errors import WrongNames
from zeroconsolidate.naming import asking, sources
from zeroconsolidate.outputs import model as making
from zeroconsolidate.outputs.gate.examine import Excuses, examine, pass_or_refuse
from zeroconsolidate.outputs.gate.finding import Finding, GateResult, Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLAMA = ROOT / "_bases/llama"
LORA = ROOT / "lora_z3/checkpoint"
HEAD_LORA = ROOT / "lora_head_z3/checkpoint"

pytest.importorskip("transformers", minversion="5")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers is asked in this process, once for each config."""
    known: dict[bytes, Any] = {}

    def ask(config: bytes) -> Any:
        if config not in known:
            known[config] = ask_in_this_process(config)
        return known[config]

    monkeypatch.setattr(asking, "ask", ask)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(LLAMA, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    consolidate(LORA, tmp_path / "adapter")
    return tmp_path / "adapter"


def kinds(directory: Path, **options: Any) -> set[Kind]:
    return {finding.kind for finding in examine(str(directory), **options).findings}


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


NORM = "model.norm.weight"


class TestModel:
    def test_a_good_one_passes(self, model: Path) -> None:
        found = examine(str(model))
        assert found.findings == found.unchecked == ()
        assert any("LlamaForCausalLM" in text for text in found.checked)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda t: t.pop(NORM), {Kind.MISSING}),
            (lambda t: t.update({f"wrapper.{NORM}": t.pop(NORM)}), {Kind.MISSING, Kind.UNEXPECTED}),
            (lambda t: t.update({"student.extra": torch.ones(2)}), {Kind.UNEXPECTED}),
            (lambda t: t.update({NORM: t[NORM][:-1].clone()}), {Kind.SHAPE}),
            (lambda t: t.update({NORM: t[NORM].to(torch.int8)}), {Kind.DTYPE}),
        ],
        ids=["missing", "wrapped", "extra", "shape", "integers"],
    )
    def test_what_is_wrong_with_weights(
        self, model: Path, change: Callable[[dict[str, torch.Tensor]], object], expected: set[Kind]
    ) -> None:
        change_weights(model / "model.safetensors", change)
        assert kinds(model) == expected
        assert not verify(model).ok

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"vocab_size": 8}, Kind.SHAPE),  # more rows than the config says
            ({"vocab_size": 100_000}, Kind.SHAPE),
            ({"num_hidden_layers": 9}, Kind.MISSING),
            ({"num_hidden_layers": 1}, Kind.UNEXPECTED),
            ({"num_key_value_heads": 1, "num_attention_heads": 4}, Kind.SHAPE),
            ({"architectures": ["LlamaForSequenceClassification"]}, Kind.MISSING),
        ],
    )
    def test_a_config_that_says_something_else(self, model: Path, changes: dict[str, Any], expected: Kind) -> None:
        change_json(model / "config.json", **changes)
        assert expected in kinds(model)
        assert not verify(model).ok

    def test_ten_million_layers_are_refused_without_building_them(self, model: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(asking, "ask", lambda _: (None, "it would take too long"))
        change_json(model / "config.json", num_hidden_layers=10_000_000)
        assert Kind.MISSING in kinds(model)

    def test_a_tied_weight_is_expected_once(self, model: Path) -> None:
        change_json(model / "config.json", tie_word_embeddings=True)
        change_weights(model / "model.safetensors", lambda t: t.pop("lm_head.weight", None))
        assert kinds(model) == set()

    def test_a_value_head_is_for_another_program(self, model: Path) -> None:
        change_weights(model / "model.safetensors", lambda t: t.update({"v_head.summary.weight": torch.ones(1, 4)}))
        found = examine(str(model))
        assert (found.findings, found.extra) == ((), ("v_head.summary.weight",))

    def test_without_transformers_it_says_so(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asking, "find_spec", lambda _: None)
        monkeypatch.setattr(sources, "looked_up", lambda _: None)
        found = examine(str(model))
        assert found.findings == ()
        assert found.unchecked == ("names: transformers is not installed",)

    def test_without_transformers_the_base_tells(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asking, "find_spec", lambda _: None)
        assert kinds(model, base=str(LLAMA), is_merged=True) == set()
        change_weights(model / "model.safetensors", lambda t: t.update({"head": t.pop(NORM)}))
        assert kinds(model, base=str(LLAMA), is_merged=True) == {Kind.MISSING, Kind.UNEXPECTED}

    def test_the_index_must_fit(self, tmp_path: Path) -> None:
        consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", tmp_path / "out", max_shard_size="20KB")
        assert kinds(tmp_path / "out") == set()
        index = tmp_path / "out/model.safetensors.index.json"
        weight_map = json.loads(index.read_text())["weight_map"]
        change_json(index, weight_map=weight_map | {"lm_head.weight": next(iter(weight_map.values()))})
        assert Kind.FILE in kinds(tmp_path / "out")

    @pytest.mark.parametrize("name", ["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"])
    def test_weights_without_elements_are_never_published(self, model: Path, name: str) -> None:
        (model / "2_Dense").mkdir()
        empty = {"linear.weight": torch.zeros(0)}
        save_file(empty, model / name) if name.endswith("safetensors") else torch.save(empty, model / name)
        assert kinds(model) == {Kind.EMPTY}


class TestBuiltInTable:
    """It may say that all is well, and nothing else."""

    def test_what_it_confirms_nobody_is_asked(self, model: Path, questions: list[bytes]) -> None:
        found = examine(str(model))
        assert found.findings == found.unchecked == ()
        assert "names and shapes match LlamaForCausalLM" in found.checked[0]
        assert "built-in table" in found.checked[0]
        assert questions == []

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.pop(NORM),
            lambda t: t.update({f"wrapper.{NORM}": t.pop(NORM)}),
            lambda t: t.update({"student.extra": torch.ones(2)}),
            lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}),
            lambda t: t.update({"v_head.summary.weight": torch.ones(1, 4)}),
            lambda t: t.update({NORM: t[NORM][:-1].clone()}),
            lambda t: t.update({NORM: t[NORM].to(torch.int8)}),
        ],
        ids=["missing", "wrapped", "extra", "buffer", "value head", "shape", "integers"],
    )
    def test_of_all_else_transformers_is_asked(
        self,
        model: Path,
        change: Callable[[dict[str, torch.Tensor]], object],
        questions: list[bytes],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        change_weights(model / "model.safetensors", change)
        found = examine(str(model))
        assert len(questions) == 1
        monkeypatch.setattr(sources, "looked_up", lambda _: None)
        assert examine(str(model)) == found

    def test_an_adapter_of_modules_that_are_there(self, adapter: Path, questions: list[bytes]) -> None:
        assert examine(str(adapter), base=str(LLAMA)).findings == ()
        assert questions == []
        change_weights(
            adapter / "adapter_model.safetensors",
            lambda t: t.update({name.replace(".0.", ".7."): t.pop(name) for name in [*t] if ".0." in name}),
        )
        assert examine(str(adapter), base=str(LLAMA)).findings
        assert len(questions) == 1


class TestAdapter:
    def test_a_good_one_passes(self, adapter: Path) -> None:
        found = examine(str(adapter))
        assert found.findings == ()
        assert len(found.unchecked) == 1  # the base model is not at hand
        found = examine(str(adapter), base=str(LLAMA))
        assert found.findings == found.unchecked == ()

    @pytest.mark.parametrize(
        ("rename", "expected"),
        [
            (lambda name: name.replace(".layers.0.", ".layers.0._orig_mod."), Kind.UNEXPECTED),
            (lambda name: name.removeprefix("base_model.model."), Kind.UNEXPECTED),
            (lambda name: None if "lora_B" in name else name, Kind.MISSING),
            (lambda name: name.replace("q_proj", "k_proj"), Kind.UNEXPECTED),
        ],
        ids=["compiled", "bare", "half", "other module"],
    )
    def test_names_that_peft_would_drop(
        self, adapter: Path, rename: Callable[[str], str | None], expected: Kind
    ) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                new, tensor = rename(name), tensors.pop(name)
                if new is not None:
                    tensors[new] = tensor

        change_weights(adapter / "adapter_model.safetensors", change)
        assert expected in kinds(adapter)
        assert not verify(adapter).ok

    def test_another_rank_than_the_config_says(self, adapter: Path) -> None:
        change_json(adapter / "adapter_config.json", r=3)
        assert Kind.SHAPE in kinds(adapter)

    def test_a_module_that_was_to_be_saved(self, tmp_path: Path) -> None:
        consolidate(HEAD_LORA, tmp_path / "out")
        assert kinds(tmp_path / "out") == set()
        saved = json.loads((tmp_path / "out/adapter_config.json").read_text())["modules_to_save"]
        change_weights(
            tmp_path / "out/adapter_model.safetensors",
            lambda t: [t.pop(name) for name in list(t) if f".{saved[0]}." in name],
        )
        assert Kind.MISSING in kinds(tmp_path / "out")

    def test_a_head_that_peft_lists_and_the_run_has_not(self, adapter: Path) -> None:
        """PEFT takes `qa_outputs` for trained in any QUESTION_ANS, and ModernBERT's is called otherwise."""
        change_json(adapter / "adapter_config.json", task_type="QUESTION_ANS", modules_to_save=["qa_outputs"])
        found = examine(str(adapter))
        assert [finding.module for finding in found.findings] == ["qa_outputs"]
        assert not verify(adapter).ok
        (text,) = pass_or_refuse(found, Excuses(modules=frozenset({"layers", "q_proj"})))
        assert "as PEFT does for any QUESTION_ANS" in text
        for of_run in (frozenset({"qa_outputs"}), frozenset[str]()):
            with pytest.raises(WrongNames, match="qa_outputs"):
                pass_or_refuse(found, Excuses(modules=of_run))
        change_json(adapter / "adapter_config.json", modules_to_save=["lm_head"])  # listed by the user
        with pytest.raises(WrongNames, match="lm_head"):
            pass_or_refuse(examine(str(adapter)), Excuses(modules=frozenset({"layers", "q_proj"})))

    def test_tokens_that_were_trained_and_are_not_there(self, adapter: Path) -> None:
        change_json(adapter / "adapter_config.json", trainable_token_indices=[1, 2])
        assert kinds(adapter) == {Kind.MISSING}
        rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 16)}
        change_weights(adapter / "adapter_model.safetensors", lambda tensors: tensors.update(rows))
        assert kinds(adapter) == set()

    def test_wrappers_in_one_another(self, tmp_path: Path) -> None:
        """Of two parameters of a module, the wrapper of one is around that of the other."""
        (tmp_path / "adapter_config.json").write_text(json.dumps(
            {"peft_type": "LORA", "r": 2, "target_modules": [], "target_parameters": ["mlp.up_proj.weight"]}
        ))  # fmt: skip
        for module, expected in {"mlp.up_proj": set(), "mlp.other": {Kind.UNEXPECTED}}.items():
            where = f"base_model.model.model.layers.0.{module}.base_layer.base_layer"
            factors = {f"{where}.lora_A.weight": torch.ones(2, 4), f"{where}.lora_B.weight": torch.ones(4, 2)}
            save_file(factors, tmp_path / "adapter_model.safetensors")
            assert kinds(tmp_path, base=str(LLAMA)) == expected

    def test_modules_that_the_base_does_not_have(self, adapter: Path, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "_bases/xlmr", tmp_path / "other")
        assert Kind.UNEXPECTED in kinds(adapter, base=str(tmp_path / "other"))

    def test_trained_tokens_of_a_tied_model(self, tmp_path: Path) -> None:
        """PEFT has them in the file under every name of the embedding; under no other, and of no other shape."""
        prefix = "base_model.model."
        config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1, 2], "target_modules": ["embed_tokens"]}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        of_target = {f"{prefix}model.embed_tokens.trainable_tokens_delta": torch.ones(2, 4)}
        for other, expected in {
            "lm_head.trainable_tokens_delta": set(),
            "lm_head.trainable_tokens_original": {Kind.UNEXPECTED},
        }.items():
            save_file(of_target | {prefix + other: torch.ones(2, 4)}, tmp_path / "adapter_model.safetensors")
            assert kinds(tmp_path) == expected
        save_file(
            of_target | {f"{prefix}lm_head.trainable_tokens_delta": torch.ones(3, 4)},
            tmp_path / "adapter_model.safetensors",
        )
        assert kinds(tmp_path) == {Kind.UNEXPECTED}

    def test_a_target_without_an_adapter(self, adapter: Path) -> None:
        change_weights(
            adapter / "adapter_model.safetensors",
            lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name],
        )
        assert Kind.MISSING in kinds(adapter, base=str(LLAMA))


TIED = FIXTURES / "trainer_zero3_tied/checkpoint"
PATHS: dict[str, tuple[Path, dict[str, Any]]] = {
    "full": (TIED, {}),
    "sharded": (TIED, {"max_shard_size": "20KB"}),
    "names stored": (TIED, {"names": "stored"}),
    "part": (TIED, {"include": ["*embed*"]}),
    "merge": (LORA, {"lora": "merge", "base": LLAMA}),
    "adapter": (LORA, {}),
    "sentence-transformers": (ROOT / "embedder_z3/checkpoint", {"sentence_transformers": "cls"}),
    "rescue": (FIXTURES / "z2_w4/checkpoint", {"rescue": True}),
}


@pytest.mark.parametrize("path", PATHS)
def test_nothing_that_does_not_pass_is_published(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = PATHS[path]
    if path == "rescue":
        shutil.copytree(source, tmp_path / "in")
        source = tmp_path / "in"
        for lost in source.glob("*/*pp_rank_2_*"):
            lost.unlink()
    wrong = GateResult(findings=(Finding(kind=Kind.EMPTY, text="something is wrong"),))
    monkeypatch.setattr(making, "examine", lambda *_, **__: wrong)
    with pytest.raises(WrongNames, match="something is wrong"):
        consolidate(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_it_is_refused_before_weights_are_written_and_again_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = GateResult(findings=(Finding(kind=Kind.EMPTY, text="something is wrong"),))
    answers = [GateResult(), wrong]
    looked_at: list[list[str]] = []

    def answer(directory: str, **_: object) -> GateResult:
        looked_at.append(sorted(name for _, _, names in os.walk(directory) for name in names))
        return answers.pop(0)

    monkeypatch.setattr(making, "examine", answer)
    with pytest.raises(WrongNames, match="something is wrong"):
        consolidate(TIED, tmp_path / "out")
    assert looked_at[0] == looked_at[1]
    assert not (tmp_path / "out").exists()


def test_the_dry_run_passes_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = GateResult(findings=(Finding(kind=Kind.EMPTY, text="something is wrong"),))
    monkeypatch.setattr(making, "examine", lambda *_, **__: wrong)
    assert main(["convert", str(TIED), str(tmp_path / "out"), "--dry-run"]) == 2


def test_a_part_of_a_model_is_called_one(tmp_path: Path) -> None:
    report = consolidate(TIED, tmp_path / "out", include=["*embed*"])
    assert any("1 of 26 tensors" in text for text in report.warnings)
    found = verify(tmp_path / "out")
    assert any(
        "allowed by an option when it was written" in text and "which is in no file" in text for text in found.notes
    )


def test_what_was_insisted_on_is_in_report_and_manifest(tmp_path: Path) -> None:
    m3 = ROOT / "m3_z3/checkpoint"
    report = consolidate(m3, tmp_path / "out", names="stored")
    assert any("would be ignored" in text for text in report.warnings)
    assert json.loads((tmp_path / "out/zeroconsolidate.json").read_text())["excused"]
    found = verify(tmp_path / "out")
    assert found.ok
    assert any(text.startswith("allowed by an option when it was written: ") for text in found.notes)
    (tmp_path / "out/zeroconsolidate.json").unlink()
    assert not verify(tmp_path / "out").ok
