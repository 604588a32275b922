"""A run directory with several saves is taken by every function that loads, and `checkpoint` says which save."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate.errors import NotACheckpoint

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = FIXTURES / "z2_fp32", FIXTURES / "z3_fp32"
NAME = "embed.weight"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step, fixture in ((2, OLD), (4, NEW)):
        shutil.copytree(fixture / "checkpoint", tmp_path / "run" / f"checkpoint-{step}")
    return tmp_path / "run"


def truth(fixture: Path) -> torch.Tensor:
    return safetensors.torch.load_file(fixture / "expected.safetensors")[NAME]


def model() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"embed": torch.nn.Embedding(13, 7)})


@pytest.mark.parametrize(("which", "fixture"), [("last", NEW), ("last-complete", NEW), (2, OLD), ("2", OLD)])
def test_it_is_the_save_that_was_meant(run: Path, which: str | int, fixture: Path):
    assert not torch.equal(truth(OLD), truth(NEW))
    filled = model()
    zeroconsolidate.load_into(filled, run, strict=False, checkpoint=which)
    assert torch.equal(filled["embed"].weight, truth(fixture))
    assert torch.equal(zeroconsolidate.state_dict(run, checkpoint=which)[NAME], truth(fixture))
    there = zeroconsolidate.open_checkpoint(run, checkpoint=which).optimizer_state(NAME)["exp_avg"].load()
    state = zeroconsolidate.to_torch_optimizer(model(), run, strict=False, checkpoint=which)
    assert torch.equal(state["state"][0]["exp_avg"], there)


def test_without_saying_which_it_is_an_error(run: Path):
    for load in (
        lambda: zeroconsolidate.load_into(model(), run),
        lambda: zeroconsolidate.state_dict(run),
        lambda: zeroconsolidate.to_torch_optimizer(model(), run),
        lambda: zeroconsolidate.state_dict(run, checkpoint=3),
    ):
        with pytest.raises(NotACheckpoint) as caught:
            load()
        assert " --" not in str(caught.value), "to a caller from Python it speaks of keywords"


def test_a_model_beside_the_saves_is_what_is_loaded(run: Path):
    """As the Trainer leaves them: the last model in the directory that the checkpoints are in."""
    weight = torch.randn(13, 7)
    safetensors.torch.save_file({NAME: weight}, run / "model.safetensors")
    filled = model()
    zeroconsolidate.load_into(filled, run)
    assert torch.equal(filled["embed"].weight, weight)
