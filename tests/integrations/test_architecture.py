"""The judge that asks transformers: a process of its own that may fail, hang or be missing without taking us along."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from model_cases import ROOT
from safetensors import safe_open

from zeroconsolidate.integrations import apart, architecture
from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from collections.abc import Iterator

transformers = pytest.importorskip("transformers", minversion="5")

BASES = ROOT / "_bases"
SCRIPT = Path(architecture.__file__)


ASK = asking.ask
"""Taken before tests/models answers in its place for the rest of the session."""


@pytest.fixture(autouse=True)
def unremembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(asking, "ask", ASK)
    ASK.cache_clear()
    yield
    ASK.cache_clear()


def model_directory(root: Path, config: dict[str, Any] | str) -> str:
    text = config if isinstance(config, str) else json.dumps(config)
    (root / "config.json").write_text(text)
    return str(root)


class TestWhatItSays:
    @pytest.mark.parametrize("base", ["llama", "qwen2", "xlmr", "mixtral", "qwen3_moe"])
    def test_names_and_shapes_in_files_are_those_transformers_wrote(self, base: str) -> None:
        """The base models' weights were written by `save_pretrained`."""
        said = architecture.expectation(str(BASES / base))
        with safe_open(BASES / base / "model.safetensors", "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        own = {name: shape for name, shape in said["hub"].items() if name not in said["hub_ties"]}
        assert own == shapes

    @pytest.mark.parametrize("case", ["mixtral_z2", "qwen3_moe_z3", "llm_tied_z2", "m3_z2", "reranker_z2"])
    def test_names_and_shapes_in_memory_are_those_of_the_run(self, case: str) -> None:
        said = architecture.expectation(str(ROOT / case / "checkpoint"))
        with safe_open(ROOT / case / "expected.safetensors", "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        bare = {name.removeprefix("model.") if "m3" in case or "reranker" in case else name: shape
                for name, shape in shapes.items() if "_linear." not in name}  # fmt: skip
        assert {name: shape for name, shape in said["names"].items() if name not in said["ties"]} == bare

    def test_ties(self) -> None:
        assert architecture.expectation(str(BASES / "qwen2"))["ties"] == {"lm_head.weight": "model.embed_tokens.weight"}
        assert architecture.expectation(str(BASES / "llama"))["ties"] == {}

    def test_a_config_without_architectures_is_the_bare_models(self, tmp_path: Path) -> None:
        config = json.loads((BASES / "xlmr/config.json").read_text())
        del config["architectures"]
        said = architecture.expectation(model_directory(tmp_path, config))
        assert said["origin"].startswith("XLMRobertaModel (transformers 5")

    def test_four_hundred_billion_parameters_take_no_memory(self, tmp_path: Path) -> None:
        sizes = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "vocab_size": 128256}
        heads = {"num_attention_heads": 128, "num_key_value_heads": 8}
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes, **heads}
        found, silence = asking.architecture(model_directory(tmp_path, config))
        assert silence == ""
        assert found is not None
        assert sum(math.prod(shape or ()) for shape in found.hub.shapes.values()) > 400e9

    @pytest.mark.usefixtures("processes_of_their_own")
    def test_through_the_process_it_is_the_same(self) -> None:
        found, silence = asking.architecture(str(BASES / "mixtral"))
        assert silence == ""
        assert found is not None
        said = architecture.expectation(str(BASES / "mixtral"))
        assert {name: list(shape or ()) for name, shape in found.hub.shapes.items()} == said["hub"]
        assert {name: list(shape or ()) for name, shape in found.expectation.shapes.items()} == said["names"]
        assert [entry.output for entry in found.conversions] == [entry["output"] for entry in said["conversions"]]
        assert found.hub.layout == "hub"


class TestSilence:
    """Whatever goes wrong there is a reason in words, and other evidence is asked."""

    def test_without_config(self, tmp_path: Path) -> None:
        assert asking.architecture(str(tmp_path)) == (None, "no config.json")

    def test_without_transformers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asking, "find_spec", lambda _: None)
        assert asking.architecture(str(BASES / "llama")) == (None, "transformers is not installed")

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ("{", "JSON"),
            ("[1, 2]", "could not build the model"),
            ({"model_type": "no-such-type"}, "no-such-type"),
            ({"model_type": "llama", "architectures": ["NoSuchModel"]}, "has no NoSuchModel"),
            ({"model_type": "llama", "architectures": ["LlamaTokenizer"]}, "has no LlamaTokenizer"),
            ({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": "wide"}, "could not build"),
        ],
        ids=["no JSON", "no object", "unknown type", "unknown class", "no model class", "bad value"],
    )
    def test_a_broken_config(self, config: Any, said: str, tmp_path: Path) -> None:
        found, silence = asking.architecture(model_directory(tmp_path, config))
        assert found is None
        assert silence.startswith("transformers could not build the model")
        assert said in silence

    def test_a_config_that_asks_for_too_much(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Modules are built even if their weights are not: a billion layers end at the limit, or at the clock."""
        monkeypatch.setattr(asking, "ARCHITECTURE_SECONDS", 4)
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 10**9}
        found, silence = asking.architecture(model_directory(tmp_path, config))
        assert found is None
        assert "took more than 4 s" in silence or "MemoryError" in silence

    @pytest.mark.usefixtures("processes_of_their_own")
    def test_a_process_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asking, "ARCHITECTURE_SECONDS", 0.01)
        found, silence = asking.architecture(str(BASES / "llama"))
        assert found is None
        assert silence == "transformers took more than 0.01 s to build the model"

    def test_a_process_that_dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed by the system, say: nothing was printed."""
        monkeypatch.setattr(apart, "sys", SimpleNamespace(executable="/bin/false"))
        assert asking.architecture(str(BASES / "llama")) == (None, "transformers could not build the model")

    def test_memory_has_a_limit(self, tmp_path: Path) -> None:
        code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import architecture
architecture.MAX_MEMORY_BYTES = 64 << 20
sys.exit(architecture.main({str(BASES / "llama")!r}))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "names" not in done.stdout


class TestWhatItSees:
    @pytest.mark.usefixtures("processes_of_their_own")
    def test_nothing_in_the_checkpoint_is_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither remote code nor a module that has the name of one of ours, even with the checkpoint as the cwd."""
        for name in ("transformers", "torch", "json", "modeling_evil", "configuration_evil"):
            (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path('ran').write_text('')\n")
        config = json.loads((BASES / "llama/config.json").read_text())
        config["auto_map"] = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
        directory = model_directory(tmp_path, config)
        monkeypatch.chdir(tmp_path)
        found, silence = asking.architecture(directory)
        assert found is not None, silence
        assert not (tmp_path / "ran").exists()
        assert sorted(os.listdir(tmp_path))[0] == "config.json"

    def test_each_config_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs = []
        run = subprocess.run

        def counted(*arguments: Any, **how: Any) -> Any:
            runs.append(arguments)
            return run(*arguments, **how)

        monkeypatch.setattr(subprocess, "run", counted)
        first = asking.architecture(str(BASES / "llama"))
        assert asking.architecture(str(BASES / "llama")) == first
        assert len(runs) == 1
