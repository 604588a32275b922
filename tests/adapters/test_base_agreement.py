"""Whether a base is the one that adapters were trained on: each thing that can tell, alone."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from adapted import config
from model_cases import ROOT
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.adapters.base_agreement import Agreement, Run, base_contradictions
from zeroconsolidate.errors import BadOption, Disagreement, WitnessMismatch

if TYPE_CHECKING:
    from pathlib import Path

COMMIT, OTHER = "1" * 40, "2" * 40
HEAD = {"lm_head.weight": "model.embed_tokens.weight"}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / ("README.md" if name == "card" else f"{name}.json")
        path.write_text(content if name == "card" else json.dumps(content))
    return folder


def snapshot(tmp_path: Path, name: str = "meta/llama", **files: Any) -> Path:
    """A base in the cache of huggingface_hub; `main` is its commit."""
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return write(repository / "snapshots" / COMMIT, **{"config": LLAMA} | files)


def asked(tmp_path: Path, base: Path, ties: dict[str, str] | None = None, **said: Any) -> Agreement:
    """The answer for an adapter of `meta/llama`, unless its configuration says something else."""
    said = {"base_model_name_or_path": "meta/llama"} | said
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    run = Run(directory=str(checkpoint), configs={"default": config(**said)}, ties=ties or {}, is_quantized=False)
    return base_contradictions(run, str(base))


class TestNames:
    def test_the_same_name_confirms(self, tmp_path: Path) -> None:
        found = asked(tmp_path, snapshot(tmp_path))
        assert (found.contradictions, found.confirmed_by) == ((), ("adapter_config.json names it",))
        assert found.untold("base") == ()

    def test_another_model_of_the_hub(self, tmp_path: Path) -> None:
        (text,) = asked(tmp_path, snapshot(tmp_path, "meta/llama-chat")).contradictions
        assert text == "adapter_config.json names meta/llama, and --base is meta/llama-chat"

    def test_a_copy_by_someone_else_has_its_name(self, tmp_path: Path) -> None:
        assert asked(tmp_path, snapshot(tmp_path, "mirror/Llama")).confirmed_by

    def test_the_model_card_tells_too(self, tmp_path: Path) -> None:
        write(tmp_path / "checkpoint", card="---\nlibrary_name: peft\nbase_model: qwen/qwen2\n---\n# Card\n")
        (text,) = asked(tmp_path, snapshot(tmp_path), base_model_name_or_path=None).contradictions
        assert text.startswith("README.md names qwen/qwen2")

    def test_a_config_beside_the_checkpoint_names_where_it_comes_from(self, tmp_path: Path) -> None:
        write(tmp_path / "checkpoint", config={"_name_or_path": "qwen/qwen2"})
        (text,) = asked(tmp_path, snapshot(tmp_path), base_model_name_or_path=None).contradictions
        assert text.startswith("config.json names qwen/qwen2")

    @pytest.mark.parametrize(("revision", "differs"), [("main", False), (COMMIT, False), (OTHER, True), ("v2", False)])
    def test_its_revision(self, revision: str, differs: bool, tmp_path: Path) -> None:
        """A branch that the cache does not know tells nothing."""
        assert bool(asked(tmp_path, snapshot(tmp_path), revision=revision).contradictions) is differs

    @pytest.mark.parametrize("suffix", ["bnb-4bit", "unsloth-bnb-4bit", "GPTQ-Int4", "AWQ"])
    def test_a_quantized_copy_has_the_name_of_what_it_was_made_from(self, suffix: str, tmp_path: Path) -> None:
        found = asked(tmp_path, snapshot(tmp_path), base_model_name_or_path=f"any/llama-{suffix}")
        assert (found.contradictions, found.confirmed_by) == ((), ("adapter_config.json names it",))
        assert "quantized" in found.warnings[0]

    def test_a_directory_may_be_called_anything(self, tmp_path: Path) -> None:
        found = asked(tmp_path, write(tmp_path / "model", config=LLAMA))
        assert (found.contradictions, found.confirmed_by) == ((), ())
        assert "the checkpoint names meta/llama" in found.untold("model")[0]
        assert asked(tmp_path, write(tmp_path / "llama", config=LLAMA)).confirmed_by

    def test_another_name_is_a_warning(self, tmp_path: Path) -> None:
        found = asked(tmp_path, write(tmp_path / "qwen2", config=LLAMA))
        (warning,) = found.doubts("/models/qwen2")
        assert warning.startswith(
            "the checkpoint names the base meta/llama, and --base is /models/qwen2: nothing else "
        )
        assert (found.contradictions, found.untold("/models/qwen2")) == ((), ())
        assert found.doubts("/models/model") == ()

    def test_the_directory_that_is_recorded(self, tmp_path: Path) -> None:
        base = write(tmp_path / "base", config=LLAMA)
        assert asked(tmp_path, base, base_model_name_or_path=str(base)).confirmed_by
        other = write(tmp_path / "other" / "base", config=LLAMA)
        assert not asked(tmp_path, other, base_model_name_or_path=str(base)).confirmed_by


class TestKinds:
    @pytest.mark.parametrize(
        ("class_name", "folder", "differs"),
        [("LlamaModel", "llama", False), ("Qwen2ForCausalLM", "qwen2", True), ("LlamaForCausalLM", "elsewhere", False)],
    )
    def test_the_class_that_peft_wrote_down(self, class_name: str, folder: str, differs: bool, tmp_path: Path) -> None:
        library = f"transformers.models.{folder}.modeling_{folder}"
        mapping = {"base_model_class": class_name, "parent_library": library}
        assert bool(asked(tmp_path, snapshot(tmp_path), auto_mapping=mapping).contradictions) is differs

    @pytest.mark.parametrize(
        ("key", "value"), [("model_type", "qwen2"), ("num_attention_heads", 8), ("hidden_act", "gelu")]
    )
    def test_a_config_beside_the_checkpoint(self, key: str, value: object, tmp_path: Path) -> None:
        base = snapshot(tmp_path, config=LLAMA | {"num_attention_heads": 4, "hidden_act": "silu"})
        write(tmp_path / "checkpoint", config={key: value, "vocab_size": 70})
        (text,) = asked(tmp_path, base).contradictions
        assert text.startswith(f"{key} is {value} in config.json of the checkpoint")

    def test_ties(self, tmp_path: Path) -> None:
        base = snapshot(tmp_path)
        (text,) = asked(tmp_path, base, ties=HEAD).contradictions
        assert "lm_head.weight is model.embed_tokens.weight" in text
        assert asked(tmp_path, base, ties={"encoder.embed_tokens.weight": "shared.weight"}).contradictions == ()
        write(base, config=LLAMA | {"tie_word_embeddings": True})
        assert asked(tmp_path, base, ties=HEAD).contradictions == ()

    def test_the_tokenizer(self, tmp_path: Path) -> None:
        words = {word: number for number, word in enumerate("abcdefghij")}
        base = snapshot(tmp_path, tokenizer={"model": {"vocab": words}})
        write(tmp_path / "checkpoint", tokenizer={"model": {"vocab": words | {"new": 10}}})
        assert asked(tmp_path, base).contradictions == ()
        shuffled = {word: 9 - number for word, number in words.items()}
        write(tmp_path / "checkpoint", tokenizer={"model": {"vocab": shuffled}})
        (text,) = asked(tmp_path, base).contradictions
        assert "0 of 10 tokens have the same number" in text


CHECKPOINT = ROOT / "lora_z3" / "checkpoint"
BASE = ROOT / "_bases" / "llama"


class TestConversion:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        """Something of the same shapes."""
        other = shutil.copytree(BASE, tmp_path / "other")
        settings = json.loads((BASE / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(settings | {"model_type": "mistral"}))
        return other

    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
        shutil.copy(BASE / "config.json", checkpoint)
        return checkpoint

    def test_insisted(self, checkpoint: Path, other: Path, tmp_path: Path) -> None:
        with pytest.raises(Disagreement, match=r"model_type is llama.*base_differs=True"):
            consolidate(checkpoint, tmp_path / "out", lora="merge", base=other)
        assert not (tmp_path / "out").exists()
        report = consolidate(checkpoint, tmp_path / "out", lora="merge", base=other, base_differs=True)
        assert any("a base that it was not trained on (--base-differs): model_type" in text for text in report.warnings)
        assert verify(tmp_path / "out", against=checkpoint, base=other).problems == ()

    def test_insisted_against_values(self, tmp_path: Path) -> None:
        """The save has the frozen base, and this is another."""
        source = ROOT / "llm_reranker_lora_z2" / "checkpoint"
        other = shutil.copytree(BASE, tmp_path / "llama")
        shutil.copy(ROOT / "llm_untied_z2" / "checkpoint" / "model.safetensors", other)
        with pytest.raises(WitnessMismatch, match="base_differs=True"):
            consolidate(source, tmp_path / "out", lora="merge", base=other)
        consolidate(source, tmp_path / "out", lora="merge", base=other, base_differs=True)
        written, theirs = (load_file(d / "model.safetensors") for d in (tmp_path / "out", other))
        name = "model.norm.weight"
        assert written[name].equal(theirs[name].float())

    def test_where_nothing_tells_the_report_says_so(self, tmp_path: Path) -> None:
        base = shutil.copytree(BASE, tmp_path / "model")
        report = consolidate(CHECKPOINT, tmp_path / "out", lora="merge", base=base)
        assert any("it is not known whether" in text and "_bases/llama" in text for text in report.not_checked)
        report = consolidate(CHECKPOINT, tmp_path / "named", lora="merge", base=BASE)
        assert not any("it is not known whether" in text for text in report.not_checked)

    def test_the_recorded_base_is_used_if_it_is_in_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        huggingface_hub = pytest.importorskip("huggingface_hub")
        repository = tmp_path / "hub" / "models--_bases--llama"
        shutil.copytree(BASE, repository / "snapshots" / COMMIT)
        download = huggingface_hub.snapshot_download

        def offline(name: str, **options: object) -> str:
            assert options["local_files_only"]
            return download(name, cache_dir=tmp_path / "hub", **options)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
        with pytest.raises(BadOption, match=r"base=._bases/llama"):
            consolidate(CHECKPOINT, tmp_path / "out", lora="merge")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        report = consolidate(CHECKPOINT, tmp_path / "out", lora="merge")
        assert any(COMMIT in text for text in report.notes)
        assert verify(tmp_path / "out", against=CHECKPOINT).problems == ()
        consolidate(CHECKPOINT, tmp_path / "named", lora="merge", base=BASE)
        one, other = (load_file(tmp_path / d / "model.safetensors") for d in ("out", "named"))
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
