"""Adapter runs that have lost a rank: what is written of them is what the report says, whole, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from zeroconsolidate import consolidate
from zeroconsolidate.errors import BadOption, MissingFiles

pytest.importorskip("peft")

from peft_runs import Tuned, differing, llama, lora, tune

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    return tune(llama, default=lora())


def without_a_rank(tuned: Tuned, root: Path, stage: int, *, frozen: bool = True) -> Path:
    """The checkpoint of two ranks, the second of whose optimizer files is lost."""
    tuned.save(root, stage=stage, frozen=frozen, dtype=torch.bfloat16)
    for path in root.glob("*/*zero_pp_rank_1_*optim_states.pt"):
        path.unlink()
    return root


def test_nothing_is_rescued_unasked(tuned: Tuned, tmp_path: Path) -> None:
    for stage in (2, 3):
        root = without_a_rank(tuned, tmp_path / f"z{stage}", stage)
        for mode in ("adapter", "merge", "keep"):
            with pytest.raises(MissingFiles, match="rescue=True writes"):
                consolidate(root, tmp_path / "out", lora=mode)


@pytest.mark.parametrize("frozen", [True, False])
def test_stage_2_has_a_second_copy(tuned: Tuned, tmp_path: Path, frozen: bool) -> None:
    """What rank 1 held is there in 16 bits: all of the adapter is written, and merged."""
    root = without_a_rank(tuned, tmp_path / "in", 2, frozen=frozen)
    report = consolidate(root, tmp_path / "raw", lora="keep", rescue=True).rescue
    raw = load_file(tmp_path / "raw/model.safetensors")
    halves = {name: value.bfloat16().float() for name, value in tuned.masters.items()}
    assert report is not None
    assert 0 < report.by_source["module"] < sum(value.numel() for value in halves.values())
    for name, extents in report.tensors.items():
        for extent in extents:
            if name in tuned.masters:
                truth = halves[name] if extent.source == "module" else tuned.masters[name]
                here = slice(extent.start, extent.stop)
                assert torch.equal(raw[name].reshape(-1)[here], truth.reshape(-1)[here])
    consolidate(root, tmp_path / "adapter", rescue=True)
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert differing(adapter, {name.replace(".default.", "."): raw[name] for name in tuned.masters}) == []
    base = None if frozen else tuned.save_base(tmp_path / "base")
    consolidate(root, tmp_path / "merged", lora="merge", rescue=True, base=base)
    rescued = Tuned(tuned.make, tuned.configs, {name: raw[name] for name in tuned.masters}, tuned.model)
    truth = dict(rescued.merged(torch.float32, rounded_base=frozen).state_dict())
    assert differing(load_file(tmp_path / "merged/model.safetensors"), truth) == []


@pytest.mark.parametrize("options", [{}, {"lora": "merge"}, {"lora": "merge", "base": "base"}])
def test_an_adapter_is_whole_or_not_written(tuned: Tuned, tmp_path: Path, options: dict[str, Any]) -> None:
    """PEFT would put random numbers in the place of lost factors, and a merge would be the original model."""
    root = without_a_rank(tuned, tmp_path / "in", 3)
    if "base" in options:
        options = options | {"base": tuned.save_base(tmp_path / "base")}
    with pytest.raises(BadOption, match=r"12 tensors of the adapter cannot be rescued.*fill.*lora=.keep"):
        consolidate(root, tmp_path / "out", rescue=True, **options)
    assert not (tmp_path / "out").exists()
    # What is whole can be had under its own names, and is what it was.
    report = consolidate(root, tmp_path / "raw", rescue=True, lora="keep").rescue
    assert report is not None
    assert set(report.not_written) == set(tuned.masters)
    assert not set(load_file(tmp_path / "raw/model.safetensors")) & set(tuned.masters)


def test_holes_of_an_adapter_can_be_filled(tuned: Tuned, tmp_path: Path) -> None:
    whole = tuned.save(tmp_path / "whole", stage=3, frozen=True, dtype=torch.bfloat16)
    consolidate(whole, tmp_path / "earlier", lora="keep")
    root = without_a_rank(tuned, tmp_path / "in", 3)
    for mode, file in (("adapter", "adapter_model.safetensors"), ("merge", "model.safetensors")):
        report = consolidate(root, tmp_path / mode, lora=mode, rescue=True, fill=tmp_path / "earlier").rescue
        assert report is not None
        assert report.by_source["fill"] > 0
        consolidate(whole, tmp_path / f"straight-{mode}", lora=mode)
        assert (tmp_path / mode / file).read_bytes() == (tmp_path / f"straight-{mode}" / file).read_bytes()
    report = consolidate(root, tmp_path / "zeros", rescue="zeros").rescue
    assert report is not None
    zeroed = load_file(tmp_path / "zeros/adapter_model.safetensors")
    for name, truth in tuned.masters.items():
        for extent in report.tensors[name]:
            values = zeroed[name.replace(".default.", ".")].reshape(-1)[extent.start : extent.stop]
            expected = truth.reshape(-1)[extent.start : extent.stop]
            assert torch.equal(values, expected if extent.source == "checkpoint" else torch.zeros_like(expected))
