"""Which saves there are in a run directory, what each is good for, and where a training can resume."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import zero_model
from command import zeroconsolidate as command
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate import consolidate, inspect, inspect_run
from zeroconsolidate.errors import BadOption, NotACheckpoint
from zeroconsolidate.saves import run as reading

if TYPE_CHECKING:
    from pathlib import Path

TRAINED = FIXTURES / "trainer_zero3_tied" / "checkpoint"
LOST = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"


def make_run(folder: Path, *steps: int, of: Path = TRAINED) -> Path:
    """A Trainer's run directory with a save of each step."""
    for step in steps:
        shutil.copytree(of, folder / f"checkpoint-{step}")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three saves, of which the newest lacks a rank's optimizer."""
    folder = make_run(tmp_path / "run", 500, 1000, 90)
    (folder / "checkpoint-1000" / "global_step3" / LOST).unlink()
    return folder


class TestTrainer:
    def test_the_newest_whole_one_is_to_resume_from(self, run: Path) -> None:
        info = inspect_run(run)
        assert [(save.name, save.use, save.step) for save in info.saves] == [
            ("checkpoint-90", "resume", 90),
            ("checkpoint-500", "resume", 500),
            ("checkpoint-1000", "nothing", 1000),
        ]
        assert info.resume.line == f"resume_from_checkpoint={run}/checkpoint-500"
        assert not info.resume.newest_whole
        assert info.newest.missing == {LOST: "missing"}
        assert info.last_complete is not None
        assert info.last_complete.name == "checkpoint-500"

    def test_inspect_is_a_table_and_exits_with_3(self, run: Path) -> None:
        done = command("inspect", run)
        assert done.returncode == 3
        first, *rows = done.stdout.splitlines()
        assert first == f"{run}: 3 saves by the Hugging Face Trainer"
        assert rows[0].startswith("  resume  from checkpoint-500:")
        assert [row.split()[0] for row in rows if row.startswith("  checkpoint-")] == [
            "checkpoint-90", "checkpoint-500", "checkpoint-1000",
        ]  # fmt: skip
        assert f"    {LOST}: missing" in rows
        shutil.rmtree(run / "checkpoint-1000")
        assert command("inspect", run).returncode == 0

    def test_json(self, run: Path) -> None:
        found = json.loads(command("inspect", run, "--json").stdout)
        assert (found["ok"], found["kind"]) == (False, "run")
        assert [save["use"] for save in found["saves"]] == ["resume", "resume", "nothing"]
        assert found["resume"]["text"] == inspect_run(run).resume.text

    def test_a_checkpoint_says_where_else(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert inspect(run / "checkpoint-90").resume.line == f"resume_from_checkpoint={run}/checkpoint-90"
        resume = inspect(run / "checkpoint-1000").resume
        assert (resume.save, resume.newest) == ("checkpoint-500", "checkpoint-1000")
        assert command("inspect", run / "checkpoint-1000").returncode == 3
        monkeypatch.chdir(run)
        assert inspect("checkpoint-1000").resume.line == "resume_from_checkpoint=checkpoint-500"
        monkeypatch.chdir(run / "checkpoint-1000")
        assert inspect(".").resume.line == f"resume_from_checkpoint={run}/checkpoint-500"

    def test_a_checkpoint_beside_those_of_other_trainings(self, run: Path) -> None:
        (run / "checkpoint-1000").rename(run / "mine")
        assert inspect(run / "mine").resume.save is None
        (run / "mine").rename(run / "checkpoint-1000")
        (run / "checkpoint-500").rename(run / "other")
        assert inspect(run / "checkpoint-1000").resume.save == "checkpoint-90"

    @pytest.mark.parametrize(
        ("file", "resumable", "lacks"),
        [
            ("trainer_state.json", False, ("trainer_state.json",)),
            ("latest", False, ("latest",)),
            ("rng_state_1.pth", True, ("rng_state_1.pth",)),
        ],
    )
    def test_what_lies_beside_deepspeeds_files(
        self, tmp_path: Path, file: str, resumable: bool, lacks: tuple[str, ...]
    ) -> None:
        folder = make_run(tmp_path / "run", 5)
        (folder / "checkpoint-5" / file).unlink()
        (save,) = inspect_run(folder).saves
        assert (save.complete, save.resumable, save.whole, save.lacks) == (True, resumable, False, lacks)
        assert save.has_weights
        assert command("inspect", folder / "checkpoint-5").returncode == 3

    def test_a_scheduler_of_its_own_is_needed_where_deepspeed_has_none(self, tmp_path: Path) -> None:
        shutil.copytree(FIXTURES / "models" / "lora_z3" / "checkpoint", tmp_path / "run" / "checkpoint-3")
        assert inspect_run(tmp_path / "run").newest.resumable
        (tmp_path / "run" / "checkpoint-3" / "scheduler.pt").unlink()
        assert inspect_run(tmp_path / "run").newest.lacks[0] == "scheduler.pt"
        assert not inspect_run(tmp_path / "run").newest.resumable

    def test_a_save_that_has_just_begun(self, run: Path) -> None:
        (run / "checkpoint-1500" / "global_step1500").mkdir(parents=True)
        (run / "tmp-checkpoint-2000").mkdir()
        info = inspect_run(run)
        assert [(save.name, save.use) for save in info.saves[-2:]] == [
            ("checkpoint-1500", "nothing"),
            ("tmp-checkpoint-2000", "nothing"),
        ]
        assert info.resume.save == "checkpoint-500"

    def test_only_weights(self, tmp_path: Path) -> None:
        """`save_only_model` leaves what transformers loads, and nothing else."""
        folder = make_run(tmp_path / "run", 5, of=FIXTURES / "trainer_zero2_bf16" / "checkpoint")
        shutil.rmtree(folder / "checkpoint-5" / "global_step3")
        assert inspect_run(folder).newest.use == "weights"
        assert inspect_run(folder).resume.save is None

    def test_a_damaged_file(self, run: Path) -> None:
        path = run / "checkpoint-500" / "global_step3" / LOST
        path.write_bytes(path.read_bytes()[:-100])
        save = inspect_run(run).saves[1]
        assert not save.complete
        assert list(save.missing) == [LOST]


class TestOthers:
    def test_a_folder_of_tags(self, tmp_path: Path) -> None:
        for step in (2, 10):
            zero_model.save(zero_model.example(2, step=step), tmp_path, f"global_step{step}")
        assert inspect(tmp_path).resume.line == f'engine.load_checkpoint("{tmp_path}")'
        (tmp_path / "latest").write_text("global_step2")
        resume = inspect(tmp_path).resume
        assert (resume.save, resume.line) == ("global_step10", f"echo global_step10 > {tmp_path}/latest")
        assert resume.remarks == ("latest names global_step2",)
        next(tmp_path.glob("global_step10/*optim*")).unlink()
        resume = inspect(tmp_path).resume
        assert (resume.save, resume.line) == ("global_step2", f'engine.load_checkpoint("{tmp_path}")')
        (tmp_path / "latest").write_text("global_step7")
        assert (
            inspect(tmp_path, tag="global_step2").resume.remarks[-1] == "latest names global_step7, which is not there"
        )

    def test_accelerate(self, tmp_path: Path) -> None:
        for number in (0, 1, 10):
            folder = tmp_path / "project" / "checkpoints" / f"checkpoint_{number}"
            zero_model.save(zero_model.example(3, step=100 * number), folder, "pytorch_model")
            for rank in range(2):
                (folder / f"random_states_{rank}.pkl").touch()
        for given in ("project", "project/checkpoints"):
            info = inspect_run(tmp_path / given)
            assert [(save.name, save.step, save.whole) for save in info.saves] == [
                ("checkpoint_0", 0, True), ("checkpoint_1", 100, True), ("checkpoint_10", 1000, True),
            ]  # fmt: skip
            assert info.resume.line == f'accelerator.load_state("{tmp_path}/project/checkpoints/checkpoint_10")'
        (folder / "random_states_1.pkl").unlink()
        assert inspect_run(tmp_path / "project").newest.lacks == ("random_states_1.pkl",)

    def test_lightning(self, tmp_path: Path) -> None:
        best = str(tmp_path / "epoch=0-step=10.ckpt")
        state = {"pytorch-lightning_version": "2.6", "callbacks": {"ModelCheckpoint{}": {"best_model_path": best}}}
        for step in (10, 20):
            run = zero_model.example(2, step=step, extra=state)
            zero_model.save(run, tmp_path / f"epoch=0-step={step}.ckpt", "checkpoint")
        (tmp_path / "last.ckpt").symlink_to("epoch=0-step=20.ckpt")
        info = inspect_run(tmp_path)
        assert [(save.name, save.step, save.whole) for save in info.saves] == [
            ("epoch=0-step=10.ckpt", 10, True), ("epoch=0-step=20.ckpt", 20, True),
        ]  # fmt: skip
        assert info.resume.line == f'trainer.fit(model, ckpt_path="{tmp_path}/epoch=0-step=20.ckpt")'
        assert info.best == "epoch=0-step=10.ckpt"

    def test_nodes_with_disks_of_their_own(self, tmp_path: Path) -> None:
        for step in (1, 2):
            whole = zero_model.save(
                zero_model.example(3, step=step), tmp_path / "a" / f"checkpoint_{step}", "pytorch_model"
            )
            other = tmp_path / "b" / f"checkpoint_{step}" / "pytorch_model"
            other.mkdir(parents=True)
            for path in whole.glob("pytorch_model/*rank_1_*"):
                path.rename(other / path.name)
        assert inspect_run(tmp_path / "a").newest.use == "nothing"
        both = inspect_run([tmp_path / "a", tmp_path / "b"])
        assert both.newest.complete
        report = consolidate([tmp_path / "a", tmp_path / "b"], tmp_path / "out", checkpoint="1", names="stored")
        assert report.step == 1

    def test_no_save(self, tmp_path: Path) -> None:
        (tmp_path / "logs").mkdir()
        with pytest.raises(NotACheckpoint, match="there is no save of DeepSpeed"):
            inspect_run(tmp_path)
        with pytest.raises(NotACheckpoint, match="no such directory"):
            inspect_run(tmp_path / "nowhere")

    def test_of_hundreds_only_the_newest_are_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        original = zero_model.save(zero_model.example(2), tmp_path / "one")
        for step in range(300):
            copy = tmp_path / "run" / f"step_{step}" / "global_step7"
            copy.mkdir(parents=True)
            for path in original.glob("*/*.pt"):
                os.link(path, copy / path.name)
        opened = []
        real = reading.examine
        info = reading.read_run(tmp_path / "run", read=lambda listing: opened.append(listing.name) or real(listing))
        assert len(info.saves) == 300
        assert opened == [f"step_{step}" for step in range(299, 299 - reading.MAX_EXAMINED_FILES // 3, -1)]
        assert all(save.complete for save in info.saves)
        assert {save.checked for save in info.saves[:100]} == {"names"}

    def test_names_and_sizes_tell_of_a_lost_rank(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "MAX_EXAMINED_FILES", 0)
        (run / "checkpoint-1000" / "global_step3" / LOST.replace("rank_1", "rank_0")).rename(
            run / "checkpoint-1000" / "global_step3" / LOST
        )
        (run / "checkpoint-90" / "global_step3" / LOST.replace("rank_1", "rank_0")).write_bytes(b"")
        info = inspect_run(run)
        assert [(save.checked, save.complete) for save in info.saves] == [
            ("names", False), ("metadata", True), ("metadata", False),
        ]  # fmt: skip
        assert info.saves[0].missing == {LOST.replace("rank_1", "rank_0"): "empty"}


class TestWhichOne:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"checkpoint": "last-complete"}, "checkpoint-500"),
            ({"checkpoint": 90}, "checkpoint-90"),
            ({"checkpoint": "90"}, "checkpoint-90"),
            ({"checkpoint": "checkpoint-90"}, "checkpoint-90"),
            ({"checkpoint": "best"}, "checkpoint-90"),
            ({"tag": "last-complete"}, "checkpoint-500"),
            ({"tag": "checkpoint-90"}, "checkpoint-90"),
            ({"checkpoint": "last"}, "checkpoint-1000"),
        ],
    )
    def test_all_spellings(self, run: Path, options: dict[str, str], expected: str) -> None:
        state = run / "checkpoint-500" / "trainer_state.json"
        state.write_text(json.dumps({"best_model_checkpoint": "elsewhere/checkpoint-90"}))
        (run / "checkpoint-1000" / "trainer_state.json").unlink()
        assert inspect(run, **options).root == f"{run}/{expected}"

    def test_convert_universal_verify_and_open(self, run: Path, tmp_path: Path) -> None:
        consolidate(run, tmp_path / "out", checkpoint="last-complete")
        assert zeroconsolidate.verify(tmp_path / "out", against=run, checkpoint=500).ok
        assert zeroconsolidate.universal(run, tmp_path / "universal", checkpoint=90).step == 3
        assert zeroconsolidate.verify_source(run, checkpoint=90).ok
        assert "model.embed_tokens.weight" in zeroconsolidate.open_checkpoint(run, checkpoint="last-complete")
        assert zeroconsolidate.estimate(run, checkpoint=500).files == 1
        done = command("verify", tmp_path / "out", run, "--checkpoint", "500")
        assert done.returncode == 0, done.stderr

    def test_one_alone_is_taken(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", 3)
        assert command("convert", folder, tmp_path / "out").returncode == 0
        assert inspect(folder).root == f"{folder}/checkpoint-3"

    def test_inspect_takes_the_newest_complete_one_of_several(self, run: Path) -> None:
        assert inspect(run).root == f"{run}/checkpoint-500"

    @pytest.mark.parametrize(
        ("checkpoint", "kind", "message"),
        [
            ("7", NotACheckpoint, "there is no save of step 7; got 3 saves: checkpoint-90, checkpoint-500"),
            ("newest", BadOption, "expected last-complete, last, best or a step"),
            ("best", NotACheckpoint, "no save is known to be the best"),
        ],
    )
    def test_what_is_not_there(self, run: Path, checkpoint: str, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            inspect(run, checkpoint=checkpoint)

    def test_a_tag_of_a_folder_of_tags(self, tmp_path: Path) -> None:
        for step in (2, 10, 9):
            zero_model.save(zero_model.example(2, step=step), tmp_path, f"global_step{step}")
        assert inspect(tmp_path, checkpoint=10).tag == "global_step10"
        assert inspect(tmp_path, checkpoint="last").tag == "global_step10"
        with pytest.raises(BadOption, match="both say which save"):
            inspect(tmp_path, checkpoint=10, tag="global_step9")

    def test_no_such_tag_in_a_run(self, run: Path) -> None:
        with pytest.raises(NotACheckpoint, match="there is no checkpoint 'global_step9' in this run directory"):
            inspect(run, tag="global_step9")
        with pytest.raises(NotACheckpoint, match="several checkpoints of this run have the tag 'global_step3'"):
            inspect(run, tag="global_step3")

    def test_no_save_is_complete(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", 3, 4)
        for path in folder.glob(f"*/*/{LOST}"):
            path.unlink()
        with pytest.raises(NotACheckpoint, match="no save is complete; tried checkpoint-4, checkpoint-3"):
            inspect(folder, checkpoint="last-complete")


def test_models_that_were_made_of_a_save_are_found(run: Path, tmp_path: Path) -> None:
    for folder in ("run-models/checkpoint-90", "run/model"):
        consolidate(run / "checkpoint-90", tmp_path / folder)
    # The copies are all of step 3, as their files say; but a model that is called like a save belongs to that.
    assert {save.name: save.converted for save in inspect_run(run).saves} == {
        "checkpoint-90": (f"{run}-models/checkpoint-90", f"{run}/model"),
        "checkpoint-500": (f"{run}/model",),
        "checkpoint-1000": (f"{run}/model",),
    }
    assert f"{run}-models/checkpoint-90 and 1 more" in command("inspect", run).stdout
