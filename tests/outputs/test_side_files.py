"""The small files beside the weights: what is edited, made, taken from the base model, and what is said of it."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import refusal
from command import zeroconsolidate as command
from fixtures import FIXTURES
from model_cases import ROOT
from safetensors.torch import load_file
from zero_model import Run, save

from zeroconsolidate import Report, consolidate
from zeroconsolidate.errors import BadOption, DamagedFile
from zeroconsolidate.naming import asking
from zeroconsolidate.outputs.config import readable_before_5

if TYPE_CHECKING:
    from pathlib import Path

XLMR = ROOT / "_bases/xlmr"
HEADS = {"colbert_linear.weight": (16, 16), "colbert_linear.bias": (16,), "sparse_linear.weight": (1, 16),
         "sparse_linear.bias": (1,)}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers were not installed: it has no say in any of this."""
    monkeypatch.setattr(asking, "find_spec", lambda _: None)


def heads(*names: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(shape, generator=generator) for name, shape in HEADS.items() if name.startswith(tuple(names))
    }


def m3(root: Path, trained_heads: dict[str, torch.Tensor], *, body: bool = True) -> Path:
    """A fine-tune of BGE-M3 under FlagEmbedding's names; with `body=False` of heads alone."""
    tensors = {f"model.{n}": t.float() for n, t in load_file(XLMR / "model.safetensors").items()}
    run = Run(
        stage=2,
        world_size=2,
        groups=[(tensors if body else {}) | trained_heads],
        frozen={} if body else tensors,
        exclude_frozen=not body,
    )
    save(run, root)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model"):
        shutil.copy(XLMR / name, root)
    return root


def state(report: Report, head: str) -> dict[str, torch.Tensor]:
    return torch.load(f"{report.output}/{head}.pt", weights_only=True)


class TestHeads:
    def test_both_are_rebuilt_from_the_shards(self, tmp_path: Path) -> None:
        truth = heads("colbert", "sparse")
        report = consolidate(m3(tmp_path / "in", truth), tmp_path / "out", base=XLMR)
        for name, tensor in truth.items():
            head, _, key = name.partition(".")
            assert torch.equal(state(report, head)[key], tensor)
        assert "colbert_linear.pt and sparse_linear.pt: made from the heads in the checkpoint" in report.notes
        assert not any("base model" in text for text in report.notes)

    def test_in_the_dtype_of_the_weights(self, tmp_path: Path) -> None:
        truth = heads("colbert", "sparse")
        report = consolidate(m3(tmp_path / "in", truth), tmp_path / "out", dtype="bf16")
        assert torch.equal(state(report, "sparse_linear")["weight"], truth["sparse_linear.weight"].bfloat16())

    def test_stale_ones_of_the_checkpoint_are_never_copied(self, tmp_path: Path) -> None:
        m3(tmp_path / "in", heads("colbert", "sparse"))
        (tmp_path / "in/sparse_linear.pt").write_bytes(b"stale")
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert set(state(report, "sparse_linear")) == {"weight", "bias"}
        shutil.copy(XLMR / "sparse_linear.pt", m3(tmp_path / "untrained", {}))
        consolidate(tmp_path / "untrained", tmp_path / "out2")
        assert not (tmp_path / "out2/sparse_linear.pt").exists()

    def test_untrained_ones_are_the_base_models(self, tmp_path: Path) -> None:
        report = consolidate(m3(tmp_path / "in", {}), tmp_path / "out", base=XLMR)
        for name in ("colbert_linear.pt", "sparse_linear.pt"):
            assert (tmp_path / "out" / name).read_bytes() == (XLMR / name).read_bytes()
        said = "colbert_linear.pt and sparse_linear.pt: copied from the base model, because the run did not train them"
        assert said in report.notes

    @pytest.mark.parametrize(
        ("own", "other"), [("colbert_linear", "sparse_linear"), ("sparse_linear", "colbert_linear")]
    )
    def test_a_lone_one_gets_its_partner_from_the_base(self, own: str, other: str, tmp_path: Path) -> None:
        """FlagEmbedding loads both or takes random ones for both."""
        truth = heads(own)
        report = consolidate(m3(tmp_path / "in", truth), tmp_path / "out", base=XLMR)
        assert torch.equal(state(report, own)["weight"], truth[f"{own}.weight"])
        assert (tmp_path / "out" / f"{other}.pt").read_bytes() == (XLMR / f"{other}.pt").read_bytes()
        assert f"{other}.pt: copied from the base model, because the run did not train them" in report.notes
        assert report.warnings == ()

    def test_a_lone_one_without_a_base_is_warned_of(self, tmp_path: Path) -> None:
        report = consolidate(m3(tmp_path / "in", heads("colbert")), tmp_path / "out")
        (warning,) = [w for w in report.warnings if "sparse_linear.pt" in w]
        assert "random heads" in warning and "--base" in warning

    def test_heads_trained_on_a_frozen_encoder(self, tmp_path: Path) -> None:
        """`fix_encoder`, saved without what was frozen: the encoder is the base model's, bit for bit."""
        truth = heads("colbert", "sparse")
        report = consolidate(m3(tmp_path / "in", truth, body=False), tmp_path / "out", base=XLMR)
        ours, base = load_file(tmp_path / "out/model.safetensors"), load_file(XLMR / "model.safetensors")
        assert ours.keys() == base.keys()
        assert all(torch.equal(ours[name], tensor.float()) for name, tensor in base.items())
        assert torch.equal(state(report, "colbert_linear")["weight"], truth["colbert_linear.weight"])

    @pytest.mark.parametrize("content", [None, b"no tensors"])
    def test_unusable_ones_of_a_base_are_not_taken(self, content: bytes | None, tmp_path: Path) -> None:
        base = shutil.copytree(XLMR, tmp_path / "base")
        if content is None:
            buffer = io.BytesIO()
            torch.save({"weight": torch.empty(0), "bias": torch.empty(0)}, buffer)
            content = buffer.getvalue()
        (base / "sparse_linear.pt").write_bytes(content)
        report = consolidate(m3(tmp_path / "in", {}), tmp_path / "out", base=base)
        assert not list((tmp_path / "out").glob("*_linear.pt"))
        assert any("sparse_linear.pt of the base model" in note for note in report.notes)

    def test_a_model_with_a_head_of_its_own_gets_none(self, tmp_path: Path) -> None:
        m3(tmp_path / "in", {})
        config = json.loads((XLMR / "config.json").read_text()) | {"architectures": ["XLMRobertaForMaskedLM"]}
        (tmp_path / "in/config.json").write_text(json.dumps(config))
        consolidate(tmp_path / "in", tmp_path / "out", base=XLMR)
        assert not list((tmp_path / "out").glob("*_linear.pt"))


class TestSentenceTransformers:
    @pytest.mark.parametrize(
        ("pooling", "mode"),
        [("cls", "pooling_mode_cls_token"), ("mean", "pooling_mode_mean_tokens"), ("last", "pooling_mode_lasttoken")],
    )
    def test_one_pooling_and_normalisation(self, pooling: str, mode: str, tmp_path: Path) -> None:
        consolidate(m3(tmp_path / "in", {}), tmp_path / "out", sentence_transformers=pooling)
        modules = json.loads((tmp_path / "out/modules.json").read_text())
        assert [(m["path"], m["type"].rpartition(".")[2]) for m in modules] == [
            ("", "Transformer"),
            ("1_Pooling", "Pooling"),
            ("2_Normalize", "Normalize"),
        ]
        config = json.loads((tmp_path / "out/1_Pooling/config.json").read_text())
        assert [key for key, value in config.items() if value is True and key.startswith("pooling")] == [mode]
        assert config["word_embedding_dimension"] == 16

    def test_nothing_unless_asked_for(self, tmp_path: Path) -> None:
        consolidate(m3(tmp_path / "in", {}), tmp_path / "out")
        assert not (tmp_path / "out/modules.json").exists()

    def test_what_was_asked_for_comes_before_what_the_base_has(self, tmp_path: Path) -> None:
        base = shutil.copytree(XLMR, tmp_path / "base")
        (base / "modules.json").write_text("[]")
        consolidate(m3(tmp_path / "in", {}), tmp_path / "out", base=base, sentence_transformers="cls")
        assert len(json.loads((tmp_path / "out/modules.json").read_text())) == 3

    def test_the_size_of_an_embedding_must_be_known(self, tmp_path: Path) -> None:
        m3(tmp_path / "in", {})
        config = json.loads((XLMR / "config.json").read_text())
        del config["hidden_size"]
        (tmp_path / "in/config.json").write_text(json.dumps(config))
        with pytest.raises(BadOption, match=r"config\.json without hidden_size"):
            consolidate(tmp_path / "in", tmp_path / "out", sentence_transformers="cls")
        with pytest.raises(BadOption, match="'cls', 'mean' or 'last'; got 'max'"):
            consolidate(tmp_path / "in", tmp_path / "out", sentence_transformers="max")


BAKED = {"truncation": {"direction": "Right", "max_length": 24, "strategy": "LongestFirst", "stride": 0},
         "padding": {"strategy": {"Fixed": 24}, "direction": "Right", "pad_id": 1, "pad_type_id": 0,
                     "pad_token": "<pad>", "pad_to_multiple_of": None}}  # fmt: skip


class TestTokenizer:
    def bake(self, root: Path) -> dict[str, Any]:
        plain = json.loads((XLMR / "tokenizer.json").read_text()) | {"truncation": None, "padding": None}
        (root / "tokenizer.json").write_text(json.dumps(plain | BAKED, ensure_ascii=False, indent=2))
        return plain

    def test_what_training_baked_in_is_cleared(self, tmp_path: Path) -> None:
        plain = self.bake(m3(tmp_path / "in", {}))
        report = consolidate(tmp_path / "in", tmp_path / "out")
        assert json.loads((tmp_path / "out/tokenizer.json").read_text()) == plain
        assert "tokenizer.json: truncation and padding of the training run removed" in report.notes

    def test_of_a_run_without_a_wrapper_it_is_copied(self, tmp_path: Path) -> None:
        """Who trains without one of these may have meant it."""
        tensors = {name: t.float() for name, t in load_file(XLMR / "model.safetensors").items()}
        save(Run(stage=2, world_size=2, groups=[tensors]), tmp_path / "in")
        shutil.copy(XLMR / "config.json", tmp_path / "in")
        self.bake(tmp_path / "in")
        consolidate(tmp_path / "in", tmp_path / "out")
        assert (tmp_path / "out/tokenizer.json").read_bytes() == (tmp_path / "in/tokenizer.json").read_bytes()

    def test_what_is_no_json_is_an_error_with_its_place(self, tmp_path: Path) -> None:
        m3(tmp_path / "in", {})
        (tmp_path / "in/tokenizer.json").write_text('{"truncation": {"max_length": ')
        with pytest.raises(DamagedFile, match=r"not JSON.*\(at .*tokenizer\.json\)"):
            consolidate(tmp_path / "in", tmp_path / "out")


class TestSpecialTokens:
    """transformers 5 writes them in a form in which 4.57 fails on them; both read what is written here."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            pytest.param(
                {"extra_special_tokens": ["<a>", "<b>"]},
                {"extra_special_tokens": {}, "additional_special_tokens": ["<a>", "<b>"]},
                id="a list",
            ),
            pytest.param(
                {"extra_special_tokens": ["<a>"], "additional_special_tokens": None},
                {"extra_special_tokens": {}, "additional_special_tokens": ["<a>"]},
                id="under both names",
            ),
            pytest.param(
                {"model_specific_special_tokens": {"image_token": "<i>"}, "extra_special_tokens": ["<a>"]},
                {
                    "model_specific_special_tokens": {"image_token": "<i>"},
                    "extra_special_tokens": {"image_token": "<i>"},
                    "additional_special_tokens": ["<a>"],
                },
                id="a list, and some with names",
            ),
            pytest.param(
                {"model_specific_special_tokens": {"image_token": "<i>"}},
                {
                    "model_specific_special_tokens": {"image_token": "<i>"},
                    "extra_special_tokens": {"image_token": "<i>"},
                },
                id="with names",
            ),
            pytest.param(*[{"extra_special_tokens": {"image_token": "<i>"}}] * 2, id="as transformers 4 writes it"),
            pytest.param(*[["no object"]] * 2, id="not an object"),
        ],
    )
    def test_in_a_form_that_both_read(self, given: object, expected: object, tmp_path: Path) -> None:
        source = m3(tmp_path / "in", heads("colbert", "sparse"))
        text = json.dumps(given)
        (source / "tokenizer_config.json").write_text(text)
        report = consolidate(source, tmp_path / "out")
        written = (tmp_path / "out/tokenizer_config.json").read_text()
        assert json.loads(written) == expected
        notes = [note for note in report.notes if note.startswith("tokenizer_config.json: ")]
        assert bool(notes) == (written != text)

    def test_every_other_byte_stays(self, tmp_path: Path) -> None:
        text = '{\n  "a":   [1,2],\n  "extra_special_tokens": [\n    "<a>"\n  ], "b":"\\u00e9"\n}'
        source = m3(tmp_path / "in", heads("colbert", "sparse"))
        (source / "tokenizer_config.json").write_text(text)
        report = consolidate(source, tmp_path / "out")
        assert (tmp_path / "out/tokenizer_config.json").read_text() == (
            '{\n  "additional_special_tokens": [\n    "<a>"\n  ],\n  "a":   [1,2],\n  "extra_special_tokens": {}, '
            '"b":"\\u00e9"\n}'
        )
        said = "extra_special_tokens named additional_special_tokens, which transformers 4 and 5 read"
        assert f"tokenizer_config.json: {said}" in report.notes

    def test_what_is_no_json_is_copied(self, tmp_path: Path) -> None:
        source = m3(tmp_path / "in", heads("colbert", "sparse"))
        (source / "tokenizer_config.json").write_text('{"extra_special_tokens": [')
        consolidate(source, tmp_path / "out")
        assert (tmp_path / "out/tokenizer_config.json").read_text() == '{"extra_special_tokens": ['


class TestRotaryEmbeddings:
    """transformers 5 writes their parameters in one place, and older releases read them in others."""

    @pytest.mark.parametrize(
        ("given", "added"),
        [
            pytest.param(
                {"rope_parameters": {"rope_type": "default", "rope_theta": 7.5}}, {"rope_theta": 7.5}, id="a base"
            ),
            pytest.param(
                {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 7}},
                {"rope_theta": 7, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
                id="scaled",
            ),
            pytest.param(
                {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2, 3], "rope_theta": 7}},
                {"rope_theta": 7, "rope_scaling": {"rope_type": "default", "mrope_section": [1, 2, 3]}},
                id="of pictures",
            ),
            pytest.param(
                {"rope_parameters": {"rope_type": "axial", "rope_theta": 7}}, {"rope_theta": 7}, id="not known to 4"
            ),
            pytest.param(
                {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 7}},
                {"rope_theta": 7, "partial_rotary_factor": 0.25},
                id="of a part of a head",
            ),
            pytest.param(
                {"model_type": "phi3", "rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 7}},
                {"rope_theta": 7},
                id="all of each head of Phi-3",
            ),
            pytest.param(
                {"model_type": "gpt_neox", "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 7}},
                {"rotary_emb_base": 7, "rotary_pct": 0.5},
                id="under other names",
            ),
            pytest.param(
                {
                    "model_type": "phi3",
                    "rope_parameters": {
                        "rope_type": "longrope",
                        "short_factor": [1.0],
                        "long_factor": [2.0],
                        "rope_theta": 7,
                        "original_max_position_embeddings": 4096,
                    },
                },
                {
                    "rope_theta": 7,
                    "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
                },
                id="of Phi-3",
            ),
            pytest.param(
                {
                    "model_type": "gemma3_text",
                    "rope_parameters": {
                        "sliding_attention": {"rope_type": "default", "rope_theta": 3},
                        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 7},
                    },
                },
                {"rope_theta": 7, "rope_local_base_freq": 3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
                id="by layer",
            ),
            pytest.param(
                {
                    "model_type": "modernbert",
                    "rope_parameters": {
                        "sliding_attention": {"rope_type": "default", "rope_theta": 3},
                        "full_attention": {"rope_type": "default", "rope_theta": 7},
                    },
                },
                {"global_rope_theta": 7, "local_rope_theta": 3},
                id="by layer, of an encoder",
            ),
            pytest.param(
                {"model_type": "x", "rope_parameters": {"full_attention": {"rope_theta": 7}}}, {}, id="unknown"
            ),
            pytest.param({"rope_parameters": {"rope_theta": 7}, "rope_theta": 8}, {}, id="there already"),
            pytest.param({"rope_parameters": None}, {}, id="none"),
        ],
    )
    def test_stand_where_older_releases_read_them(self, given: dict[str, Any], added: dict[str, Any]) -> None:
        for depth in range(3):
            text = json.dumps({"a": 1} | given, indent=2)
            expected: dict[str, Any] = {"a": 1} | given | added
            for _ in range(depth):  # the config of a part
                text, expected = f'{{"b": {{}}, "text_config": {text}, "rope_parameters": 1}}', {
                    "b": {}, "text_config": expected, "rope_parameters": 1,
                }  # fmt: skip
            written, changed = readable_before_5(text.encode())
            assert json.loads(written) == expected
            assert changed == bool(added)
            assert changed or written == text.encode()

    def test_no_time_is_spent_on_depth(self) -> None:
        text = '{"rope_parameters": 1, "a": ' * 300 + "1" + "}" * 300
        assert readable_before_5(text.encode()) == (text.encode(), False)


class TestTheCommand:
    def test_in_one_line_each(self, tmp_path: Path) -> None:
        m3(tmp_path / "in", {})
        done = command("convert", tmp_path / "in", tmp_path / "out", "--base", XLMR, "--sentence-transformers", "cls")
        assert done.returncode == 0, done.stderr
        said = "colbert_linear.pt and sparse_linear.pt: copied from the base model, because the run did not train them"
        assert f"note {said}" in " ".join(done.stdout.split())
        assert done.stdout.splitlines()[-1] == f'SentenceTransformer("{tmp_path / "out"}")'
        (tmp_path / "in/config.json").write_text("{")
        assert "config.json is not JSON" in refusal(command("convert", tmp_path / "in", tmp_path / "out2"))


def test_experts_are_counted_under_the_name_that_older_releases_read(tmp_path: Path) -> None:
    """transformers 4.57 takes 128 experts without it, and fails to load."""
    report = consolidate(FIXTURES / "models/qwen3_moe_z2/checkpoint", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["num_experts"], config["num_local_experts"]) == (4, 4)
    assert "config.json: num_experts added, where older releases of transformers read it" in report.notes
