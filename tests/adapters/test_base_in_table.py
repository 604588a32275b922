"""A merge into a base model looks its names up in the built-in table; transformers is asked where they do not fit."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from model_cases import ModelCase, model_cases
from safetensors.torch import load_file, save_file

from zeroconsolidate import ZeroConsolidateError, consolidate
from zeroconsolidate.api.converting import dry_run
from zeroconsolidate.naming import asking, sources
from zeroconsolidate.outputs.gate import model as gate_model

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from zeroconsolidate import Report

CASES = [case for case in model_cases(adapter=True) if case.stage == 2]
LORA = next(case for case in CASES if case.name == "lora_z2")


def merged(case: ModelCase, out: Path, base: Path | None = None) -> tuple[Report, dict[str, torch.Tensor]]:
    report = consolidate(case.checkpoint, out, lora="merge", base=base or case.base, cache=False)
    return report, load_file(out / "model.safetensors")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nobody_is_asked_and_the_merge_is_the_same(
    case: ModelCase, questions: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers", minversion="5")
    report, tensors = merged(case, tmp_path / "by_table")
    assert questions == []
    monkeypatch.setattr(sources, "looked_up", lambda _: None)
    other, same = merged(case, tmp_path / "asked")
    assert questions != []
    assert list(tensors) == list(same)
    assert all(tensors[name].equal(tensor) for name, tensor in same.items())
    assert (tmp_path / "by_table/config.json").read_bytes() == (tmp_path / "asked/config.json").read_bytes()
    assert [report.names, report.warnings] == [other.names, other.warnings]


def test_transformers_need_not_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(asking, "find_spec", lambda _: None)
    case = next(case for case in CASES if case.name == "mixtral_lora_z2")
    report, tensors = merged(case, tmp_path / "out")
    assert report.warnings == ()
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in tensors


@pytest.mark.parametrize("what", ["shape", "fewer", "more", "key"])
def test_a_base_that_is_not_exactly_so(
    what: str, questions: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What is written is held against the table once more, and it is not about that question here.
    monkeypatch.setattr(gate_model, "architecture", lambda *_, **__: (None, "not asked here"))
    base = tmp_path / "base"
    shutil.copytree(LORA.base, base)
    tensors, config = load_file(base / "model.safetensors"), json.loads((base / "config.json").read_text())
    if what == "shape":
        config["intermediate_size"] += 1
    elif what == "fewer":
        del tensors["model.norm.weight"]
    elif what == "more":
        tensors["model.norms.weight"] = tensors["model.norm.weight"].clone()
    else:
        config["a_key_of_tomorrow"] = True
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps(config))
    with suppress(ZeroConsolidateError):
        dry_run(LORA.checkpoint, tmp_path / "out", lora="merge", base=base, cache=False)
    assert len({*questions}) == 1
