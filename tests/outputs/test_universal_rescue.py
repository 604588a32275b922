"""Universal checkpoints of incomplete checkpoints: what stands in for each lost element, and what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import hostile
import pytest
import synthetic
import torch
from fixtures import FIXTURES

from zeroconsolidate import consolidate, universal, verify
from zeroconsolidate.errors import BadOption, MissingFiles, UnsafePickle

if TYPE_CHECKING:
    from collections import OrderedDict
    from pathlib import Path

    from torch import Tensor

RANKS = 3
SHAPES = synthetic.shapes_of(0.02, layers=2)
NOW, BEFORE = synthetic.values_of(SHAPES, seed=7), synthetic.values_of(SHAPES, seed=8)


def damaged(root: Path, stage: int, lost: int) -> Path:
    """A checkpoint without the files of one rank."""
    folder = synthetic.write(root, NOW, stage=stage, ranks=RANKS, moments=True)
    for path in folder.glob(f"*zero_pp_rank_{lost}_*"):
        path.unlink()
    return root


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An earlier save, at another stage and on other ranks."""
    root = tmp_path_factory.mktemp("before") / "checkpoint-3"
    synthetic.write(root, BEFORE, stage=1, ranks=2, step=3, moments=True)
    return root


def is_lost(stage: int, lost: int) -> OrderedDict[str, Tensor]:
    """By parameter, which elements only that rank had: those that are 1 where all of its elements are, and no other."""
    names, flat = list(SHAPES), torch.zeros(sum(shape.numel() for shape in SHAPES.values()))
    if stage == 3:
        for name, mark in zip(names, flat.split([shape.numel() for shape in SHAPES.values()]), strict=True):
            numel = -(-SHAPES[name].numel() // RANKS)
            mark[lost * numel : (lost + 1) * numel] = 1
    else:
        numel = -(-len(flat) // (2 * RANKS)) * 2
        flat[lost * numel : (lost + 1) * numel] = 1
    cut = flat.split([shape.numel() for shape in SHAPES.values()])
    return type(SHAPES)((name, mark.reshape(SHAPES[name]).bool()) for name, mark in zip(names, cut, strict=True))


def fragments(out: Path) -> dict[str, dict[str, Any]]:
    zero = out / (out / "latest_universal").read_text() / "zero"
    return {
        folder.name: {path.stem: torch.load(path, weights_only=True) for path in folder.iterdir()}
        for folder in zero.iterdir()
        if folder.is_dir()
    }


def expected(stage: int, lost: int, *, filled: bool) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, mark in is_lost(stage, lost).items():
        now, other = NOW[name], BEFORE[name] if filled else torch.zeros_like(BEFORE[name])
        found[name] = {
            "fp32": torch.where(mark, other if stage == 3 else now.bfloat16().float(), now),
            "exp_avg": torch.where(mark, other / 2, now / 2),
            "exp_avg_sq": torch.where(mark, other * other, now * now),
        }
    return found


@pytest.mark.parametrize("lost", range(RANKS))
@pytest.mark.parametrize(("stage", "filled"), [(2, True), (2, False), (3, True)])
def test_lost_elements_are_replaced_and_no_others(stage: int, filled: bool, lost: int, before: Path, tmp_path: Path):
    """Masters by their 16-bit copies, or else by those of an earlier save; moments by an earlier save's, or zeros."""
    root = damaged(tmp_path / "run", stage, lost)
    report = universal(root, tmp_path / "out", rescue=True, fill=before if filled else ())
    found, truth = fragments(tmp_path / "out"), expected(stage, lost, filled=filled)
    assert found.keys() == truth.keys()
    for name, held in truth.items():
        for state, value in held.items():
            assert torch.equal(found[name][state]["param"], value), f"{name} {state}"
        assert found[name]["step"] == 5
    numel = sum(int(mark.sum()) for mark in is_lost(stage, lost).values())
    assert report.rescue is not None
    assert report.rescue.by_source["module" if stage == 2 else "fill"] == numel
    assert {state: part.by_source["fill" if filled else "zeros"] for state, part in report.rescue.states.items()} == {
        "exp_avg": numel,
        "exp_avg_sq": numel,
    }
    assert any("are zeros" in warning for warning in report.warnings) == (not filled)


@pytest.mark.parametrize("lost", range(RANKS))
@pytest.mark.parametrize("stage", [2, 3])
def test_every_extent_is_in_the_report(stage: int, lost: int, before: Path, tmp_path: Path):
    universal(damaged(tmp_path / "run", stage, lost), tmp_path / "out", rescue=True, fill=before)
    said = json.loads((tmp_path / "out" / "rescue-report.json").read_text())
    source = "module" if stage == 2 else "fill"
    for name, mark in is_lost(stage, lost).items():
        for tensors, other in ((said["tensors"], source), (said["states"]["exp_avg_sq"]["tensors"], "fill")):
            there = torch.zeros(mark.numel(), dtype=torch.bool)
            here = 0
            for extent in tensors[name]:
                assert extent["start"] == here
                here = extent["stop"]
                assert extent["source"] in ("checkpoint", other)
                if extent["source"] == other:
                    there[extent["start"] : here] = True
                    assert (extent["step"], extent["directory"]) == ((3, str(before)) if other == "fill" else (5, None))
            assert here == mark.numel()
            assert torch.equal(there, mark.reshape(-1)), name


def test_masters_that_nothing_has_are_refused_by_name(tmp_path: Path):
    root = damaged(tmp_path / "run", 3, 1)
    with pytest.raises(BadOption, match=r"7 parameters cannot be rescued.*embed\.weight.*fill=.DIR"):
        universal(root, tmp_path / "out", rescue=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "gone", "message"),
    [
        (2, "*optim_states.pt", "no optimizer file is left, so nothing says how to resume"),
        (3, "*optim_states.pt", "no optimizer file is left, so nothing says how to resume"),
        (2, "*model_states.pt", "the model states are missing"),
        (3, "*model_states.pt", "the model states are missing"),
    ],
)
def test_what_no_rank_has_is_refused_by_name(stage: int, gone: str, message: str, before: Path, tmp_path: Path):
    folder = synthetic.write(tmp_path / "run", NOW, stage=stage, ranks=RANKS, moments=True)
    for path in folder.glob(gone):
        path.unlink()
    with pytest.raises(MissingFiles, match=message):
        universal(tmp_path / "run", tmp_path / "out", rescue=True, fill=before)
    assert not (tmp_path / "out").exists()


def test_model_file_of_rank_0(before: Path, tmp_path: Path):
    """An engine at stage 3 reads that name only, others the one without a rank: another rank's is put there."""
    root = damaged(tmp_path / "run", 3, 0)
    report = universal(root, tmp_path / "out", rescue=True, fill=before)
    folder = tmp_path / "out" / "global_step5_universal"
    other = (root / "global_step5" / "zero_pp_rank_1_mp_rank_00_model_states.pt").read_bytes()
    for name in ("mp_rank_00", "zero_pp_rank_0_mp_rank_00", "zero_pp_rank_1_mp_rank_00"):
        assert (folder / f"{name}_model_states.pt").read_bytes() == other
    assert "step, scheduler and client state are rank 1's: rank 0's model file is lost" in report.notes


def test_a_model_directory_has_masters_and_no_moments(before: Path, tmp_path: Path):
    consolidate(before, tmp_path / "model", names="stored")
    root = damaged(tmp_path / "run", 3, 1)
    report = universal(root, tmp_path / "out", rescue=True, fill=tmp_path / "model")
    found, truth = fragments(tmp_path / "out"), expected(3, 1, filled=True)
    zeros = expected(3, 1, filled=False)
    assert all(torch.equal(found[name]["fp32"]["param"], truth[name]["fp32"]) for name in truth)
    assert all(torch.equal(found[name]["exp_avg"]["param"], zeros[name]["exp_avg"]) for name in truth)
    assert report.rescue is not None
    assert {extent.step for extent in report.rescue.tensors["embed.weight"] if extent.source == "fill"} == {3}


def test_the_first_that_has_a_tensor_is_used(before: Path, tmp_path: Path):
    """A model has no moments: those come from the checkpoint behind it."""
    synthetic.write(tmp_path / "other", NOW, stage=3, ranks=2, step=1)
    consolidate(tmp_path / "other", tmp_path / "model", names="stored")
    universal(damaged(tmp_path / "run", 3, 1), tmp_path / "out", rescue=True, fill=[tmp_path / "model", before])
    found, truth = fragments(tmp_path / "out"), expected(3, 1, filled=True)
    assert all(torch.equal(found[name]["fp32"]["param"], NOW[name]) for name in truth)
    assert all(torch.equal(found[name]["exp_avg"]["param"], truth[name]["exp_avg"]) for name in truth)


def test_what_is_filled_from_must_be_whole(tmp_path: Path):
    root, other = damaged(tmp_path / "run", 3, 1), damaged(tmp_path / "other", 3, 1)
    with pytest.raises(BadOption, match="the checkpoint in fill cannot be used: 1 of 3 ranks is incomplete"):
        universal(root, tmp_path / "out", rescue=True, fill=other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadOption, match="the model in fill cannot be used"):
        universal(root, tmp_path / "out", rescue=True, fill=tmp_path / "empty")
    with pytest.raises(BadOption, match="fill is used only with rescue=True"):
        universal(root, tmp_path / "out", fill=other)


def test_an_attack_is_no_loss_wherever_it_is(before: Path, tmp_path: Path):
    """In what is rescued, and in what that is filled from."""
    root, other = damaged(tmp_path / "run", 3, 1), tmp_path / "other"
    shutil.copytree(before, other)
    hostile.checkpoint(tmp_path / "forged", hostile.Zip(hostile.records(b"cos\nsystem\n.")).build())
    shutil.copy(tmp_path / "forged" / hostile.MODEL, next(other.glob("*/*pp_rank_1_*optim_states.pt")))
    with pytest.raises(UnsafePickle, match=r"'os\.system'"):
        universal(root, tmp_path / "out", rescue=True, fill=other)
    shutil.copy(tmp_path / "forged" / hostile.MODEL, next(root.glob("*/*pp_rank_2_*optim_states.pt")))
    with pytest.raises(UnsafePickle, match=r"'os\.system'"):
        universal(root, tmp_path / "out", rescue=True, fill=before)


def test_a_model_is_filled_from_a_checkpoint_too(before: Path, tmp_path: Path):
    from safetensors.torch import load_file

    consolidate(damaged(tmp_path / "run", 3, 2), tmp_path / "out", rescue=True, fill=before, names="stored")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], held["fp32"]) for name, held in expected(3, 2, filled=True).items())


def test_a_checkpoint_that_has_lost_nothing_is_written_as_ever(tmp_path: Path):
    source = FIXTURES / "z3_w4" / "checkpoint"
    universal(source, tmp_path / "plain")
    report = universal(source, tmp_path / "rescued", rescue=True)
    assert report.rescue is None
    one, other = (
        {
            str(path.relative_to(out)): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file() and path.name != "zeroconsolidate.json"
        }
        for out in (tmp_path / "plain", tmp_path / "rescued")
    )
    assert one == other


def test_verify_against_the_checkpoint(before: Path, tmp_path: Path):
    """As of a rescued model: the incomplete checkpoint cannot vouch for it, and the whole one names what differs."""
    root = damaged(tmp_path / "run", 2, 1)
    universal(root, tmp_path / "out", rescue=True, fill=before)
    assert verify(tmp_path / "out").ok
    with pytest.raises(MissingFiles, match="1 of 3 ranks is incomplete"):
        verify(tmp_path / "out", against=root)
    shutil.rmtree(root)
    synthetic.write(root, NOW, stage=2, ranks=RANKS, moments=True)
    changed = [name for name, mark in is_lost(2, 1).items() if mark.any()]
    problems = verify(tmp_path / "out", against=root).problems
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(
        f"{name}/{state}" for name in changed for state in ("fp32", "exp_avg", "exp_avg_sq")
    )


def test_other_fillings_are_other_work(before: Path, tmp_path: Path):
    """An interrupted rescue is continued with what it began with, and with nothing else."""
    root = damaged(tmp_path / "run", 3, 1)
    synthetic.write(tmp_path / "other", NOW, stage=3, ranks=2, step=1, moments=True)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        universal(root, tmp_path / "out", rescue=True, fill=before, progress=stop)
    with pytest.raises(BadOption, match="interrupted conversion with other options or input"):
        universal(root, tmp_path / "out", rescue=True, fill=tmp_path / "other")
    report = universal(root, tmp_path / "out", rescue=True, fill=before)
    assert report.resumed_bytes > 0
    found, truth = fragments(tmp_path / "out"), expected(3, 1, filled=True)
    assert all(torch.equal(found[name]["exp_avg"]["param"], truth[name]["exp_avg"]) for name in truth)
