"""Parameters with several names: each expected name is written once, whoever owns the tensor."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from converted import ask_in_this_process
from model_cases import ROOT
from safetensors.torch import load_file
from zero_model import Run, save

from zeroconsolidate import consolidate
from zeroconsolidate.errors import WrongNames
from zeroconsolidate.naming import asking, sources

if TYPE_CHECKING:
    from pathlib import Path

BASES = ROOT / "_bases"


def weights(model: str) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(BASES / model / "model.safetensors").items()}


def checkpoint(
    root: Path, model: str, trained: dict[str, torch.Tensor], ties: dict[str, str], order: list[str] | None = None
) -> Path:
    save(Run(stage=3, world_size=2, groups=[trained], ties=ties, order=order), root)
    shutil.copy(BASES / model / "config.json", root)
    return root


def tie(root: Path, *, tied: bool) -> None:
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": tied}))


def differing(written: Path, expected: dict[str, torch.Tensor]) -> list[str]:
    found = load_file(written / "model.safetensors")
    return [n for n in found.keys() | expected.keys()
            if n not in found or n not in expected or not torch.equal(found[n], expected[n])]  # fmt: skip


@pytest.fixture(params=["transformers", "the base model", "nobody"])
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who tells the expected names."""
    if request.param == "transformers":
        pytest.importorskip("transformers", minversion="5")
        monkeypatch.setattr(asking, "ask", ask_in_this_process)
    else:
        monkeypatch.setattr(asking, "find_spec", lambda _: None)
        monkeypatch.setattr(sources, "looked_up", lambda _: None)
    return request.param


@pytest.mark.parametrize(("owner", "alias"), [("lm_q.", "lm_p."), ("lm_p.", "lm_q."), ("a.lm_q.", "a.lm_p.")])
def test_an_encoder_under_two_names(asked: str, owner: str, alias: str, tmp_path: Path) -> None:
    if asked == "nobody":
        pytest.skip("nothing tells these prefixes from names")
    truth = weights("xlmr")
    own = {owner + name: tensor for name, tensor in truth.items()}
    root = checkpoint(tmp_path / "in", "xlmr", own, {alias + name: owner + name for name in truth})
    report = consolidate(root, tmp_path / "out", base=None if asked == "transformers" else BASES / "xlmr")
    assert differing(tmp_path / "out", truth) == []
    assert report.names.startswith(f"prefix {owner!r} removed; names match")


@pytest.mark.parametrize("tied", [True, False])
def test_the_wrapper_names_the_embedding_first(asked: str, tied: bool, tmp_path: Path) -> None:
    """`embed = model.embed_tokens` before `model`: the wrapper's name owns what the model's names look for."""
    if asked == "nobody":
        pytest.skip("nothing tells the model's name from the wrapper's")
    truth = weights("llama")
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    if tied:
        truth[head] = truth[embedding]
    own = {"embed.weight": truth[embedding]}
    own |= {
        f"model.{name}": value for name, value in truth.items() if name != embedding and not (tied and name == head)
    }
    ties = {f"model.{name}": "embed.weight" for name in ([embedding, head] if tied else [embedding])}
    root = checkpoint(tmp_path / "in", "llama", own, ties)
    for declared in {tied, False}:
        tie(root, tied=declared)
        out = tmp_path / str(declared)
        consolidate(root, out, base=None if asked == "transformers" else BASES / "llama")
        one_is_enough = declared and asked == "transformers"
        expected = {name: value for name, value in truth.items() if not (one_is_enough and name == head)}
        assert differing(out, expected) == []


def test_two_trained_encoders_are_not_told_apart(asked: str, tmp_path: Path) -> None:
    if asked == "nobody":
        pytest.skip("nothing tells these prefixes from names")
    truth = weights("xlmr")
    both = {f"lm_q.{name}": value for name, value in truth.items()}
    both |= {f"lm_p.{name}": value + 1 for name, value in truth.items()}
    root = checkpoint(tmp_path / "in", "xlmr", both, {})
    base = None if asked == "transformers" else BASES / "xlmr"
    with pytest.raises(WrongNames, match=r"'lm_p\.' and 'lm_q\.'.*include=.lm_q\.\*"):
        consolidate(root, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()
    consolidate(root, tmp_path / "out", base=base, include=["lm_q.*"])
    assert differing(tmp_path / "out", truth) == []


def test_another_name_that_is_renamed_as_asked_is_meant(asked: str, tmp_path: Path) -> None:
    truth = weights("xlmr")
    own = {f"lm_q.{name}": tensor for name, tensor in truth.items()}
    root = checkpoint(tmp_path / "in", "xlmr", own, {f"lm_p.{name}": f"lm_q.{name}" for name in truth})
    consolidate(root, tmp_path / "out", rename=["lm_p.="])
    assert differing(tmp_path / "out", truth) == []


def test_copies_of_ties_are_those_that_are_expected(asked: str, tmp_path: Path) -> None:
    if asked == "nobody":
        pytest.skip("nothing tells these prefixes from names")
    truth = weights("llama")
    truth["lm_head.weight"] = truth["model.embed_tokens.weight"]
    own = {f"a.{name}": value for name, value in truth.items() if name != "lm_head.weight"}
    ties = {"a.lm_head.weight": "a.model.embed_tokens.weight"} | {
        f"b.{name}": f"a.{'model.embed_tokens.weight' if name == 'lm_head.weight' else name}" for name in truth
    }
    root = checkpoint(tmp_path / "in", "llama", own, ties)
    tie(root, tied=True)
    base = None if asked == "transformers" else BASES / "llama"
    consolidate(root, tmp_path / "out", ties="copy", base=base)
    assert differing(tmp_path / "out", truth) == []
