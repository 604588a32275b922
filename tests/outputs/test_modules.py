"""Models of sentence-transformers: each module in its folder, with the live engine's values, and held against it.

The checkpoints are those of the library's own Trainers (tools/make_sentence_transformers_fixtures.py); that it loads
what we write is in tests/models/test_sentence_transformers.py.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES
from reported import Case
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate, inspect, verify
from zeroconsolidate.errors import DamagedFile, WrongNames
from zeroconsolidate.outputs.modules import Module, apart, modules_in
from zeroconsolidate.plan.build import Selection

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FIXTURES / "sentence_transformers"
PLACES = {
    "0.model.": "",
    "2.": "2_Dense",
    "3.": "3_LayerNorm",
    "0.sub_modules.query.0.model.": "query_0_Transformer",
    "0.sub_modules.query.2.": "query_2_Dense",
    "0.sub_modules.document.0.model.": "document_0_Transformer",
    "0.sub_modules.document.2.": "document_2_Dense",
}
"""Where a tensor of the live model belongs."""
TIED = "roberta.embeddings.word_embeddings.weight"
CASES = sorted(path.name for path in ROOT.iterdir())


def truth(case: str) -> dict[str, dict[str, torch.Tensor]]:
    """Folder -> the tensors of its module."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in load_file(ROOT / case / "expected.safetensors").items():
        prefix = max((prefix for prefix in PLACES if name.startswith(prefix)), key=len)
        found.setdefault(PLACES[prefix], {})[name.removeprefix(prefix)] = value
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_module_has_the_live_values(case: str, tmp_path: Path) -> None:
    report = consolidate(ROOT / case / "checkpoint", tmp_path)
    assert report.warnings == ()
    assert report.missing == ()
    for folder, expected in truth(case).items():
        # Of tied names transformers saves the embedding, whichever comes first in the module.
        kept = {TIED if name == "lm_head.decoder.weight" else name: value for name, value in expected.items()}
        written = load_file(tmp_path / folder / "model.safetensors")
        assert written.keys() == kept.keys()
        assert all(written[name].equal(value) for name, value in kept.items())
    assert {path.parent.name for path in tmp_path.rglob("*.safetensors")} == {
        folder or tmp_path.name for folder in truth(case)
    }
    assert verify(tmp_path).ok
    assert verify(tmp_path, against=ROOT / case / "checkpoint").ok


@pytest.mark.parametrize(
    ("case", "line"),
    [("dense_z3", "SentenceTransformer("), ("router_z3", "SentenceTransformer("), ("sparse_z2", "SparseEncoder("),
     ("cross_encoder_z2", "CrossEncoder(")],
)  # fmt: skip
def test_the_report_says_how_to_load_it(case: str, line: str, tmp_path: Path) -> None:
    assert consolidate(ROOT / case / "checkpoint", tmp_path).load_line == f'{line}"{tmp_path}")'


@pytest.mark.parametrize("case", ["dense_z3", "router_z3"])
def test_in_16_bits_configs_follow(case: str, tmp_path: Path) -> None:
    consolidate(ROOT / case / "checkpoint", tmp_path, dtype="fp16")
    assert verify(tmp_path).ok
    for folder in truth(case):
        assert {tensor.dtype for tensor in load_file(tmp_path / folder / "model.safetensors").values()} == {
            torch.float16
        }
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config.get("dtype", "float16") == "float16"


def test_verify_sees_every_folder(tmp_path: Path) -> None:
    consolidate(ROOT / "dense_z3/checkpoint", tmp_path, digest="sha256")
    path = tmp_path / "2_Dense/model.safetensors"
    kept, tensors = path.read_bytes(), load_file(path)

    def refused(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, path, {"format": "pt"})
        found = verify(tmp_path)
        assert not found.ok
        return " ".join(found.problems)

    assert "2_Dense (Dense) does not fit its config.json: linear.bias is [8] there, and nothing" in refused(
        {"linear.weight": tensors["linear.weight"]}
    )
    assert "linear.weight is [8, 16] there, and [16, 8]" in refused(
        tensors | {"linear.weight": tensors["linear.weight"].T.contiguous()}
    )
    assert "the sha256 differs" in refused(tensors | {"linear.bias": tensors["linear.bias"] + 1})
    found = verify(tmp_path, against=ROOT / "dense_z3/checkpoint")
    assert [problem.partition(" differs")[0] for problem in found.problems] == ["2_Dense/linear.bias:"]
    path.unlink()
    assert "2_Dense (Dense) has no weights that can be read" in " ".join(verify(tmp_path).problems)
    path.write_bytes(kept)
    assert verify(tmp_path).ok
    (tmp_path / "3_LayerNorm/config.json").write_text("{}")
    assert "3_LayerNorm/config.json does not describe a LayerNorm" in " ".join(verify(tmp_path).problems)


def test_a_module_that_does_not_fit_is_not_published(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "dense_z3/checkpoint", tmp_path / "c")
    config = json.loads((tmp_path / "c/2_Dense/config.json").read_text())
    (tmp_path / "c/2_Dense/config.json").write_text(json.dumps(config | {"out_features": 9}))
    with pytest.raises(WrongNames, match=r"2_Dense .* does not fit its config\.json"):
        consolidate(tmp_path / "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_modules_of_other_kinds_are_said_to_be_unchecked(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "dense_z3/checkpoint", tmp_path / "c")
    text = (tmp_path / "c/modules.json").read_text().replace("layer_norm.LayerNorm", "mine.MyOwn")
    (tmp_path / "c/modules.json").write_text(text)
    report = consolidate(tmp_path / "c", tmp_path / "out")
    assert "3_LayerNorm: it is not known which weights a MyOwn has" in report.not_checked
    assert set(load_file(tmp_path / "out/3_LayerNorm/model.safetensors")) == {"norm.weight", "norm.bias"}


def test_older_releases_call_the_transformer_auto_model(tmp_path: Path) -> None:
    case = Case("st_dense_z3")
    consolidate(case.checkpoint, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert all(case.trained[f"0.auto_model.{name}"].equal(value) for name, value in written.items())
    dense = load_file(tmp_path / "2_Dense/model.safetensors")
    assert {f"2.{name}" for name in dense} == {name for name in case.trained if name.startswith("2.")}
    assert all(case.trained[f"2.{name}"].equal(value) for name, value in dense.items())


def test_stored_names_stay_together(tmp_path: Path) -> None:
    """Which leaves the empty weights that stage 3 wrote into the folders of the modules: they go no further."""
    checkpoint = tmp_path / "c"
    shutil.copytree(ROOT / "dense_z3/checkpoint", checkpoint)
    with pytest.raises(WrongNames, match=r"2_Dense/model\.safetensors holds tensors without elements"):
        consolidate(checkpoint, tmp_path / "out", names="stored")
    for folder in ("2_Dense", "3_LayerNorm"):
        (checkpoint / folder / "model.safetensors").unlink()
    consolidate(checkpoint, tmp_path / "out", names="stored")
    names = {tensor.name for tensor in inspect(checkpoint).tensors}
    assert set(load_file(tmp_path / "out/model.safetensors")) == names


def module(prefix: str, folder: str, kind: str = "Dense") -> Module:
    return Module(prefix=prefix, folder=folder, kind=kind)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_wrappers_around_all_modules(wrapper: str) -> None:
    named: Any = {f"{wrapper}0.model.a": 1, f"{wrapper}1.b": 2, f"{wrapper}10.c": 3}
    modules = (module("0.", "", "Transformer"), module("1.", "1_Dense"), module("10.", "10_Dense"))
    own, folders = apart(Selection(named=named, left_out=()), modules)
    assert own.named == {f"{wrapper}0.model.a": 1}
    assert folders == {"1_Dense": {"b": 2}, "10_Dense": {"c": 3}}


@pytest.mark.parametrize("named", [{"a.b": 1}, {"0.a": 1, "model.1.b": 2}, {"0.a": 1, "head.weight": 2}])
def test_what_is_no_sequence_stays_together(named: Any) -> None:
    selection = Selection(named=named, left_out=())
    assert apart(selection, (module("0.", "0_Dense"), module("1.", "1_Dense"))) == (selection, {})
    assert apart(selection, ()) == (selection, {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "the modules are not listed"),
        ("[1]", "no name, path or type"),
        ('[{"name": "0", "path": ""}]', "no name, path or type"),
        ('[{"name": "0", "path": "../x", "type": "Dense"}]', "outside of the directory"),
        ('[{"name": "0", "path": "/x", "type": "Dense"}]', "outside of the directory"),
        ('[{"name": "0", "path": "", "type": "a.Router"}]', "routes of the Router are not described"),
        ("nothing", "is not JSON"),
    ],
)
def test_lists_that_make_no_sense(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(DamagedFile, match=why):
        modules_in(tmp_path.as_posix())


def test_routes_may_share_a_module(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"name": "0", "path": "", "type": "a.Router"}]')
    config = {"types": {"x_0": "b.Dense"}, "structure": {"query": ["x_0"], "document": ["x_0"]}}
    (tmp_path / "router_config.json").write_text(json.dumps(config))
    assert modules_in(str(tmp_path)) == (
        module("0.sub_modules.query.0.", "x_0"),
        module("0.sub_modules.document.0.", "x_0"),
    )
    (tmp_path / "router_config.json").write_text(json.dumps(config | {"structure": {"query": ["../y"]}}))
    with pytest.raises(DamagedFile, match="outside of the directory"):
        modules_in(str(tmp_path))
    assert modules_in(str(tmp_path / "nothing")) == ()
