"""Files with which the Trainer, accelerate and Lightning resume are in a universal checkpoint, byte for byte."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES

from zeroconsolidate import universal, verify
from zeroconsolidate.errors import DamagedFile, UnsafePath, ZeroConsolidateError

if TYPE_CHECKING:
    from pathlib import Path

TRAINER = FIXTURES / "trainer_zero2_bf16" / "checkpoint"
OF_TRAINER = ["rng_state_0.pth", "rng_state_1.pth", "trainer_state.json", "training_args.bin"]
OF_ACCELERATE = [
    "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "dl_state_dict.bin", "random_states_0.pkl",
    "random_states_1.pkl", "sampler_1.bin", "scheduler.bin",
]  # fmt: skip


def entries(folder: Path) -> list[str]:
    """All but what every universal checkpoint has."""
    return sorted({path.name for path in folder.iterdir()} - {"latest_universal", "zeroconsolidate.json"})


def renamed(folder: Path, tag: str, *beside: str) -> Path:
    """A checkpoint under another tag, with small files beside it."""
    shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint" / "global_step2", folder / tag)
    (folder / "latest").write_text(tag)
    for name in beside:
        (folder / name).write_text(f"what {name} says")
    return folder


def test_the_trainers(tmp_path: Path):
    report = universal(TRAINER, tmp_path / "out")
    assert entries(tmp_path / "out") == ["global_step3_universal", *OF_TRAINER]
    assert all((tmp_path / "out" / name).read_bytes() == (TRAINER / name).read_bytes() for name in OF_TRAINER)
    assert report.load_line.startswith(f'trainer.train(resume_from_checkpoint="{tmp_path}/out")')
    assert "4 files with which the Trainer resumes: copied as well" in report.notes
    assert any(note.startswith("random states of 2 ranks: ") for note in report.notes)
    assert {name: report.files[name] for name in OF_TRAINER} == {
        name: (TRAINER / name).stat().st_size for name in OF_TRAINER
    }


def test_accelerates(tmp_path: Path):
    source = renamed(tmp_path / "in", "pytorch_model", *OF_ACCELERATE, "optimizer.bin", "notes.txt", "rng_state_0.pth")
    report = universal(source, tmp_path / "out")
    assert entries(tmp_path / "out") == sorted([*OF_ACCELERATE, "pytorch_model"])
    assert (tmp_path / "out" / "latest_universal").read_text() == "pytorch_model"
    assert report.load_line.startswith(f'accelerator.load_state("{tmp_path}/out")')
    assert verify(tmp_path / "out", against=source).problems == ()


def test_lightnings(tmp_path: Path):
    source = renamed(tmp_path / "in", "checkpoint", "scheduler.pt")
    report = universal(source, tmp_path / "out")
    assert entries(tmp_path / "out") == ["checkpoint"]
    assert (tmp_path / "out" / "latest_universal").read_text() == "checkpoint"
    assert report.load_line.startswith("engine.load_checkpoint(")


def test_nobody_elses(tmp_path: Path):
    source = renamed(tmp_path / "in", "global_step2", *OF_ACCELERATE, "rng_state_0.pth", "scheduler.pt")
    universal(source, tmp_path / "out")
    assert entries(tmp_path / "out") == ["global_step2_universal"]


@pytest.mark.parametrize("name", OF_TRAINER)
def test_a_copy_that_differs_or_is_gone_is_found(name: str, tmp_path: Path):
    universal(TRAINER, tmp_path / "out")
    copy = tmp_path / "out" / name
    data = copy.read_bytes()
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(tmp_path / "out", against=TRAINER).problems == (f"{name}: it is not the checkpoint's",)
    copy.unlink()
    assert any(name in problem for problem in verify(tmp_path / "out", against=TRAINER).problems)


def test_nodes_have_files_of_their_own(tmp_path: Path):
    """Each rank's random state is on its node."""
    for node, lacking in (("a", "1"), ("b", "0")):
        shutil.copytree(TRAINER, tmp_path / node)
        (tmp_path / node / f"rng_state_{lacking}.pth").unlink()
        (tmp_path / node / "global_step3" / f"bf16_zero_pp_rank_{lacking}_mp_rank_00_optim_states.pt").unlink()
    for name in ("trainer_state.json", "training_args.bin", "latest"):
        (tmp_path / "b" / name).unlink()
    universal([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert entries(tmp_path / "out") == ["global_step3_universal", *OF_TRAINER]


def test_a_tag_that_was_moved_has_nothing_beside_it(tmp_path: Path):
    shutil.copytree(TRAINER / "global_step3", tmp_path / "in" / "global_step3")
    (tmp_path / "in" / "trainer_state.json").write_text("{}")
    universal(tmp_path / "in" / "global_step3", tmp_path / "out")
    assert entries(tmp_path / "out") == ["global_step3_universal"]


@pytest.mark.parametrize(("kind", "error"), [("link", UnsafePath), ("pipe", UnsafePath), ("locked", DamagedFile)])
def test_what_is_no_file_of_the_checkpoint(kind: str, error: type[ZeroConsolidateError], tmp_path: Path):
    shutil.copytree(TRAINER, tmp_path / "in")
    path = tmp_path / "in" / "rng_state_0.pth"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "key").write_text("secret")
        path.symlink_to(tmp_path / "key")
    else:
        path.symlink_to("nothing")
    with pytest.raises(error, match=r"rng_state_0\.pth"):
        universal(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_meanwhile(tmp_path: Path):
    shutil.copytree(TRAINER, tmp_path / "in")
    path = tmp_path / "in" / "trainer_state.json"

    def touch(_done: int, _total: int) -> None:
        os.utime(path, ns=(0, 0))

    with pytest.raises(DamagedFile, match=r"was changed while .*trainer_state\.json"):
        universal(tmp_path / "in", tmp_path / "out", progress=touch)
    assert not (tmp_path / "out" / "latest_universal").exists()
