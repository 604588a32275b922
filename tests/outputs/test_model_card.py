"""The model card: huggingface_hub reads it, what it says is so, and nobody's own card is lost."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate import consolidate, verify
from zeroconsolidate.catalog.facts import Degrees, Origin
from zeroconsolidate.cli.arguments import given_of
from zeroconsolidate.cli.understand import understand
from zeroconsolidate.dtypes import DType
from zeroconsolidate.options import Options
from zeroconsolidate.options.flags_of import flags_of
from zeroconsolidate.outputs.model_card import CARD, Adapter, CardFacts, card

if TYPE_CHECKING:
    from pathlib import Path

huggingface_hub = pytest.importorskip("huggingface_hub")
yaml = pytest.importorskip("yaml")

MODELS = FIXTURES / "models"
LLAMA = MODELS / "_bases/llama"


def read(directory: Path) -> tuple[dict[str, object], str]:
    """Head and text of a card, by huggingface_hub."""
    found = huggingface_hub.ModelCard((directory / CARD).read_text())
    assert found.data.to_dict()
    return found.data.to_dict(), found.text


def block(text: str, kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


def without_card(checkpoint: Path, to: Path) -> Path:
    shutil.copytree(checkpoint, to)
    (to / CARD).unlink()
    return to


class TestModels:
    def test_a_fine_tune(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        transformers = pytest.importorskip("transformers", minversion="5")
        report = consolidate(MODELS / "llm_tied_z3/checkpoint", tmp_path / "out", dtype="bf16", max_shard_size="20KB")
        assert report.files[CARD] == (tmp_path / "out" / CARD).stat().st_size
        head, text = read(tmp_path / "out")
        assert head == {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["deepspeed", "zeroconsolidate"],
        }
        assert "Weights of step 3 " in text
        assert "`global_step3` (ZeRO stage 3, 2 ranks, DeepSpeed 0.19.8), in bfloat16" in text
        assert block(text, "sh") == "zeroconsolidate convert CHECKPOINT OUTPUT --dtype bf16 --max-shard-size 20KB\n"
        monkeypatch.chdir(tmp_path / "out")
        names: dict[str, object] = {}
        exec(block(text, "python"), names)
        assert type(names["model"]).__name__ == transformers.AutoConfig.from_pretrained(".").architectures[0]

    @pytest.mark.parametrize(
        ("checkpoint", "options", "library", "pipeline", "tags"),
        [
            ("m3_z3", {}, "transformers", "feature-extraction", ["flagembedding"]),
            ("embedder_z2", {}, "transformers", "feature-extraction", []),
            ("embedder_z2", {"sentence_transformers": "cls"}, "sentence-transformers", "sentence-similarity", []),
            ("reranker_z2", {}, "transformers", "text-classification", []),
        ],
    )
    def test_the_library_that_loads_it(
        self, checkpoint: str, options: dict[str, object], library: str, pipeline: str, tags: list[str], tmp_path: Path
    ) -> None:
        report = consolidate(MODELS / checkpoint / "checkpoint", tmp_path / "out", **options)
        head, text = read(tmp_path / "out")
        assert head["library_name"] == library
        assert head["pipeline_tag"] == pipeline
        assert head["tags"] == sorted(["deepspeed", "zeroconsolidate", *tags])
        class_name = re.split(r"[.(]", report.load_line)[0]
        assert re.search(rf"^from \w+ import {class_name}$", block(text, "python"), re.MULTILINE)
        assert {"base_model", "language", "license"}.isdisjoint(head)

    def test_it_says_nothing_of_this_machine(self, tmp_path: Path) -> None:
        base = shutil.copytree(LLAMA, tmp_path / "secret/place/llama")
        for name in ("one", "two"):
            consolidate(MODELS / "lora_z3/checkpoint", tmp_path / name, lora="merge", base=base)
        one, two = (tmp_path / name / CARD for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        assert "secret" not in one.read_text()
        assert str(FIXTURES) not in one.read_text()

    def test_what_was_rescued(self, tmp_path: Path) -> None:
        run = shutil.copytree(MODELS / "llm_tied_z2/checkpoint", tmp_path / "run")
        sorted(run.glob("*/*optim_states.pt"))[0].unlink()
        report = consolidate(run, tmp_path / "out", rescue=True)
        assert report.rescue is not None
        _, text = read(tmp_path / "out")
        assert f"**The save was not complete.** {report.rescue.percent('checkpoint'):.1f} % of the values" in text
        assert report.rescue.percent("checkpoint") < 100

    def test_a_mean(self, tmp_path: Path) -> None:
        both = [MODELS / f"llm_tied_z{stage}/checkpoint" for stage in (2, 3)]
        consolidate(both, tmp_path / "out", average="weights:0.2,0.8")
        _, text = read(tmp_path / "out")
        assert "The mean of 2 saves of a training with DeepSpeed, in float32: `global_step3`, `global_step3`." in text
        command = "zeroconsolidate convert CHECKPOINT [CHECKPOINT ...] OUTPUT --average weights:0.2,0.8\n"
        assert block(text, "sh") == command

    def test_what_only_python_can_say(self, tmp_path: Path) -> None:
        consolidate(MODELS / "llm_tied_z3/checkpoint", tmp_path / "out", rename=lambda name: name)
        assert "In Python, with functions for rename." in read(tmp_path / "out")[1]


class TestAdapters:
    def test_one_that_peft_described_keeps_its_card(self, tmp_path: Path) -> None:
        consolidate(MODELS / "lora_z3/checkpoint", tmp_path / "out")
        assert (tmp_path / "out" / CARD).read_bytes() == (MODELS / "lora_z3/checkpoint" / CARD).read_bytes()

    def test_one_without_gets_what_peft_would_say(self, tmp_path: Path) -> None:
        theirs, _ = read(MODELS / "lora_z3/checkpoint")
        consolidate(without_card(MODELS / "lora_z3/checkpoint", tmp_path / "run"), tmp_path / "out")
        ours, text = read(tmp_path / "out")
        assert {key: ours[key] for key in theirs if key != "tags"} == {k: v for k, v in theirs.items() if k != "tags"}
        assert {*theirs["tags"]} <= {*ours["tags"]}
        assert 'PeftModel.from_pretrained(base_model, ".")' in block(text, "python")
        compile(block(text, "python"), CARD, "exec")

    def test_a_merged_model_has_a_card_of_its_own(self, tmp_path: Path) -> None:
        """The adapter's describes the adapter."""
        consolidate(MODELS / "lora_z3/checkpoint", tmp_path / "out", lora="merge", base=LLAMA)
        head, text = read(tmp_path / "out")
        assert head["library_name"] == "transformers"
        assert "Merged into it: the adapter default (LORA), trained on `_bases/llama`." in text
        assert block(text, "sh") == "zeroconsolidate convert CHECKPOINT OUTPUT --base llama --lora merge\n"

    def test_the_base_is_the_one_of_the_hub(self, tmp_path: Path) -> None:
        """By its place in the hub's cache. The checkpoint's own word for it is not asked then."""
        base = shutil.copytree(LLAMA, tmp_path / "models--meta--llama/snapshots/5617")
        consolidate(MODELS / "lora_z3/checkpoint", tmp_path / "out", lora="merge", base=base)
        head, _ = read(tmp_path / "out")
        assert head["base_model"] == "meta/llama"

    def test_another_base_is_not_the_recorded_one(self, tmp_path: Path) -> None:
        base = shutil.copytree(LLAMA, tmp_path / "models--other--llama/snapshots/5617")
        local = shutil.copytree(LLAMA, tmp_path / "local")
        for number, chosen in enumerate((base, local)):
            out = tmp_path / f"out{number}"
            consolidate(MODELS / "lora_z3/checkpoint", out, lora="merge", base=chosen, base_differs=True)
            head, _ = read(out)
            assert head.get("base_model") == ("other/llama" if chosen == base else None)


class TestWhereThereIsOne:
    @pytest.mark.parametrize(
        ("checkpoint", "options"),
        [
            (MODELS / "llm_tied_z3/checkpoint", {"model_card": False}),
            (MODELS / "llm_tied_z3/checkpoint", {"names": "stored"}),
            (MODELS / "llm_tied_z3/checkpoint", {"include": "*layers.0*"}),
            (MODELS / "lora_z3/checkpoint", {"lora": "keep", "names": "stored", "model_card": False}),
            (FIXTURES / "z2_bf16/checkpoint", {}),
        ],
    )
    def test_none_without_a_model_that_loads(
        self, checkpoint: Path, options: dict[str, object], tmp_path: Path
    ) -> None:
        if "lora" in options:
            checkpoint = without_card(checkpoint, tmp_path / "run")
        report = consolidate(checkpoint, tmp_path / "out", **options)
        assert CARD not in report.files
        assert not (tmp_path / "out" / CARD).exists()

    def test_the_checkpoints_own_is_copied(self, tmp_path: Path) -> None:
        run = shutil.copytree(MODELS / "llm_tied_z3/checkpoint", tmp_path / "run")
        (run / CARD).write_text("# Mine\n")
        consolidate(run, tmp_path / "out")
        assert (tmp_path / "out" / CARD).read_text() == "# Mine\n"

    def test_overwriting_replaces_ours_and_leaves_theirs(self, tmp_path: Path) -> None:
        checkpoint, out = MODELS / "llm_tied_z3/checkpoint", tmp_path / "out"
        consolidate(checkpoint, out)
        consolidate(checkpoint, out, dtype="bf16", overwrite=True)
        assert "--dtype bf16" in (out / CARD).read_text()
        edited = (out / CARD).read_text().replace("not known", "English")
        (out / CARD).write_text(edited)
        report = consolidate(checkpoint, out, overwrite=True)
        assert (out / CARD).read_text() == edited
        assert CARD not in report.files
        assert CARD not in json.loads((out / "zeroconsolidate.json").read_text())["files"]

    def test_one_that_stood_there_before_any_model_stays(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / CARD).write_text("# Mine\n")
        consolidate(MODELS / "llm_tied_z3/checkpoint", tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / CARD).read_text() == "# Mine\n"

    @pytest.mark.parametrize("change", ["longer", "same length", "gone"])
    def test_verify_lets_it_be_edited(self, change: str, tmp_path: Path) -> None:
        consolidate(MODELS / "llm_tied_z3/checkpoint", tmp_path / "out")
        path = tmp_path / "out" / CARD
        assert verify(tmp_path / "out").notes == verify(tmp_path / "out").notes
        text = path.read_text()
        if change == "gone":
            path.unlink()
        else:
            path.write_text(text.replace("limits", "Limits") if change == "same length" else text + "More.\n")
        found = verify(tmp_path / "out")
        assert found.ok
        assert (f"{CARD}: edited since it was written" in found.notes) == (change != "gone")

    def test_verify_does_not_let_others_be_edited(self, tmp_path: Path) -> None:
        consolidate(MODELS / "llm_tied_z3/checkpoint", tmp_path / "out")
        config = tmp_path / "out/generation_config.json"
        config.write_text(config.read_text() + " ")
        assert not verify(tmp_path / "out").ok

    def test_its_digest_is_recorded(self, tmp_path: Path) -> None:
        consolidate(MODELS / "llm_tied_z3/checkpoint", tmp_path / "out")
        listed = json.loads((tmp_path / "out/zeroconsolidate.json").read_text())["files"][CARD]
        assert listed["sha256"] == hashlib.sha256((tmp_path / "out" / CARD).read_bytes()).hexdigest()


def facts(**changes: object) -> CardFacts:
    origin = Origin(
        root="/x", tag="global_step3", tags=("global_step3",), latest=None, stage=3, world_size=1,
        degrees=Degrees(dp=1, tp=1, pp=1, ep=1), step=3, ds_version="0.19.8", training_dtype=DType.BF16,
        optimizer=None, optimizer_state=(), param_groups=(), wrapper="", writer="",
    )  # fmt: skip
    given: dict[str, object] = {
        "origin": origin, "dtype": "float32", "load_line": 'AutoModel.from_pretrained(".")', "is_diffusers": False,
        "architecture": None, "base": None, "base_directory": None, "adapter": None, "rescue": None, "members": (),
        "flags": "", "only_in_python": (),
    }  # fmt: skip
    return CardFacts(**given | changes)


@given(st.text(min_size=1))
def test_yaml_reads_back_what_was_said(base: str) -> None:
    """Whatever a checkpoint calls its base model."""
    adapter = Adapter(kinds="default (LORA)", types=("LORA",), task="CAUSAL_LM", merged=False)
    text = card(facts(base=base, adapter=adapter, load_line='PeftModel.from_pretrained(base_model, ".")')).decode()
    head = yaml.safe_load(text.split("\n---\n")[0])
    assert head["base_model"] == base
    assert f"base_model:adapter:{base}" in head["tags"]


@pytest.mark.parametrize(
    ("line", "diffusers", "library", "imported"),
    [
        ('UNet2DModel.from_pretrained(".")', True, "diffusers", "from diffusers import UNet2DModel"),
        ('CrossEncoder(".")', False, "sentence-transformers", "from sentence_transformers import CrossEncoder"),
        ('LlavaForConditionalGeneration.from_pretrained(".")', False, "transformers", "from transformers import Llava"),
    ],
)
def test_other_libraries(line: str, diffusers: bool, library: str, imported: str) -> None:
    text = card(facts(load_line=line, is_diffusers=diffusers)).decode()
    assert f"library_name: {library}\n" in text
    assert imported in text
    assert "1 rank," in text


CHOSEN = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["bf16", "fp16", "auto"]),
        "max_shard_size": st.sampled_from(["5GB", "1GiB", None]),
        "lora": st.sampled_from(["merge", "adapter", "keep"]),
        "adapters": st.lists(st.sampled_from(["default", "a b", "-x"]), min_size=1).map(tuple),
        "include": st.lists(st.sampled_from(["*.layers.*", "it's", "$HOME", "--x"]), min_size=1).map(tuple),
        "rescue": st.sampled_from([True, "zeros"]),
        "base": st.sampled_from(["Qwen/Qwen2.5-7B", "llama"]),
        "model_card": st.just(False),
        "ties": st.just("copy"),
        "exclude_frozen": st.just(True),
        "reflink": st.just("never"),
    },
)


@given(CHOSEN)
def test_the_command_means_the_same_options(chosen: dict[str, object]) -> None:
    words = ["convert", "CHECKPOINT", "OUTPUT", *shlex.split(flags_of(Options(**chosen)))]
    assert Options(**given_of(Options, understand(words))) == Options(**chosen)


def test_a_function_has_no_flag() -> None:
    assert flags_of(Options(rename=str.lower, dtype="bf16")) == "--dtype bf16"
