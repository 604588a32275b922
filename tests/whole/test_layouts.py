"""Every layout, a real checkpoint of each, becomes the values its live engine held: bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES
from live_values import TORCH, assert_same, provenance
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.errors import DamagedFile, Disagreement, UnsupportedLayout

if TYPE_CHECKING:
    from pathlib import Path

    import torch

LAYOUTS = FIXTURES / "layouts"
STAGES = {"ds0_5_10_z1": 2}
"""Stages that the files state otherwise: DeepSpeed 0.5 runs stage 1 in the class of stage 2, which writes 2."""
EMPTY = "writer_mock"
CASES = [path.name for path in sorted(LAYOUTS.iterdir()) if path.name != EMPTY]
UNPLACED = {name: "'__bnb_optimizer_quant_state__'" for name in CASES if name.startswith("adamw_8bit")}
"""Optimizer state that is not laid out like the parameters, by fixture."""
DRIFTED = [name for name in CASES if provenance(LAYOUTS / name)["replicas_differ"]]


def truth_of(name: str) -> dict[str, torch.Tensor]:
    """The live values. The universal checkpoint of a pipeline has neither its buffers nor the layers of its ties."""
    truth, facts = load_file(LAYOUTS / name / "expected.safetensors"), provenance(LAYOUTS / name)
    if name.startswith("universal") and facts["parallel"]["pp"] > 1:
        stored = {owner: alias for alias, owner in facts["ties"].items()}
        truth = {stored.get(n, n): tensor for n, tensor in truth.items() if n not in facts["buffers"]}
    return truth


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("name", CASES)
def test_converts_to_the_live_values(name: str, dtype: str, tmp_path: Path):
    case = LAYOUTS / name
    facts = provenance(case)
    report = zeroconsolidate.consolidate(
        case / "checkpoint",
        tmp_path / "out",
        dtype=dtype,
        check="all",
        names="stored",
        replicas="first" if facts["replicas_differ"] else "equal",
        weights_only=name in UNPLACED,
    )
    truth = {
        name: tensor if name in facts["buffers"] else tensor.to(TORCH[dtype]) for name, tensor in truth_of(name).items()
    }
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), truth)
    assert report.stage == STAGES.get(name, facts["zero_stage"])


@pytest.mark.parametrize("name", CASES)
def test_inspect_names_the_layout(name: str):
    facts = provenance(LAYOUTS / name)
    info = zeroconsolidate.inspect(LAYOUTS / name / "checkpoint")
    parallel = {key: facts["parallel"][key] for key in ("dp", "tp", "pp", "ep")}
    assert dict(info.degrees) == parallel
    assert info.stage == STAGES.get(name, facts["zero_stage"])
    assert info.training_dtype == str(TORCH[facts["dtype"]]).removeprefix("torch.")
    truth = truth_of(name)
    shown = {t.name: t for t in info.tensors if t.role != "tie"}
    assert {n: tuple(t.shape) for n, t in truth.items()} == {n: t.shape for n, t in shown.items()}


@pytest.mark.parametrize("name", DRIFTED)
def test_drifted_replicas_are_refused(name: str, tmp_path: Path):
    with pytest.raises(Disagreement, match=r"replicas=.first"):
        zeroconsolidate.consolidate(LAYOUTS / name / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", UNPLACED)
def test_moments_that_cannot_be_placed_are_refused_by_name(name: str, tmp_path: Path):
    with pytest.raises(UnsupportedLayout, match=f"the optimizer's state {UNPLACED[name]} is not laid out like the"):
        zeroconsolidate.consolidate(LAYOUTS / name / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_the_mock_writer_are_called_empty(tmp_path: Path):
    with pytest.raises(DamagedFile, match="the file is empty"):
        zeroconsolidate.consolidate(LAYOUTS / EMPTY / "checkpoint", tmp_path / "out")
