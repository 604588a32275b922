"""What prune removes, and above all what it does not."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import zero_model
from command import contents
from command import zeroconsolidate as command
from fixtures import FIXTURES

from zeroconsolidate import consolidate, inspect_run, prune
from zeroconsolidate.errors import BadOption
from zeroconsolidate.saves import removal

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate import Pruning

TRAINED = FIXTURES / "trainer_zero3_tied" / "checkpoint"


def fates(pruning: Pruning) -> dict[str, str]:
    return {save.name: save.removes for save in pruning.saves}


def uses(run: Path) -> dict[str, str]:
    return {save.name: save.use for save in inspect_run(run).saves}


def age(folder: Path, seconds: int) -> None:
    """Set the times of all files."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000 + seconds, 1_700_000_000 + seconds))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four saves, the oldest two of which are converted."""
    folder = tmp_path / "run"
    for step in (1, 2, 3, 4):
        zero_model.save(zero_model.example(2, step=step), folder / f"checkpoint-{step}", f"global_step{step}")
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        (folder / f"checkpoint-{step}" / "scheduler.pt").touch()
        for rank in range(2):
            (folder / f"checkpoint-{step}" / f"rng_state_{rank}.pth").touch()
        age(folder / f"checkpoint-{step}", 100 * step)
    for step in (1, 2):
        consolidate(folder / f"checkpoint-{step}", f"{folder}-models/checkpoint-{step}")
    return folder


def test_without_yes_nothing_is_touched(run: Path) -> None:
    before = contents(run)
    pruning = prune(run)
    assert not pruning.done
    assert fates(pruning) == {
        "checkpoint-1": "optimizer", "checkpoint-2": "optimizer", "checkpoint-3": "nothing", "checkpoint-4": "nothing",
    }  # fmt: skip
    done = command("prune", run)
    assert done.returncode == 0
    assert f"{run}: --yes frees " in done.stdout
    assert contents(run) == before
    size_bytes = sum(path.stat().st_size for step in (1, 2) for path in run.glob(f"checkpoint-{step}/*/*optim*"))
    assert pruning.freed_bytes == size_bytes > 0


def test_with_yes_optimizer_files_of_verified_saves_go(run: Path) -> None:
    before = contents(run / "checkpoint-3", run / "checkpoint-4")
    pruning = prune(run, yes=True)
    assert (pruning.done, pruning.failed) == (True, ())
    assert not [*run.glob("checkpoint-[12]/*/*optim*")]
    assert not [*run.glob("checkpoint-[12]/latest")]
    assert len([*run.glob("checkpoint-[12]/*/*model_states*")]) == 2
    assert contents(run / "checkpoint-3", run / "checkpoint-4") == before
    assert uses(run) == {
        "checkpoint-1": "nothing", "checkpoint-2": "nothing", "checkpoint-3": "resume", "checkpoint-4": "resume",
    }  # fmt: skip
    again = prune(run, yes=True)
    assert [save.reason for save in again.saves[:2]] == ["it has no optimizer files"] * 2


def test_whole_checkpoints(run: Path) -> None:
    done = command("prune", run, "--remove", "checkpoint", "--keep", "1", "--yes", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [save["removes"] for save in found["saves"]] == ["checkpoint", "checkpoint", "nothing", "nothing"]
    assert "it was not converted" in found["saves"][2]["reason"]
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    assert prune(run, remove="checkpoint", keep=1, unconverted=True, yes=True).done
    assert [path.name for path in run.iterdir()] == ["checkpoint-4"]


def test_a_model_that_differs_keeps_its_save(run: Path) -> None:
    path = f"{run}-models/checkpoint-1/model.safetensors"
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    done = command("prune", run, "--yes")
    assert done.returncode == 1
    assert "could not be verified against it" in " ".join(done.stdout.split())
    assert uses(run)["checkpoint-1"] == "resume"
    assert uses(run)["checkpoint-2"] == "nothing"


@pytest.mark.parametrize("options", [{"include": "norm.*"}, {"exclude": "embed.*"}])
def test_a_part_of_a_model_keeps_its_save(run: Path, options: dict[str, str]) -> None:
    consolidate(run / "checkpoint-1", f"{run}-models/checkpoint-1", overwrite=True, allow_missing=True, **options)
    pruning = prune(run, yes=True)
    assert pruning.failed == ("checkpoint-1",)
    assert uses(run)["checkpoint-1"] == "resume"


def test_a_model_in_16_bits_is_said_to_be_one(run: Path) -> None:
    consolidate(run / "checkpoint-1", f"{run}-models/checkpoint-1", overwrite=True, dtype="bf16")
    assert prune(run).saves[0].reason.endswith("it is in bf16, so the fp32 master weights are lost")


@pytest.mark.parametrize("remove", ["optimizer", "checkpoint"])
def test_a_quantized_model_keeps_its_save(remove: str, tmp_path: Path) -> None:
    """It is what its save says, byte for byte, and yet the weights cannot be had again from it."""
    pytest.importorskip("transformers", minversion="5")
    run, models = tmp_path / "run", tmp_path / "run-models"
    for step in (1, 2):
        shutil.copytree(FIXTURES / "models/llm_untied_z3/checkpoint", run / f"checkpoint-{step}")
        age(run / f"checkpoint-{step}", 100 * step)
    consolidate(run / "checkpoint-1", models / "quantized", quantize="fp8")
    before = contents(run)
    pruning = prune(run, keep=1, remove=remove, yes=True)
    assert fates(pruning) == {"checkpoint-1": "nothing", "checkpoint-2": "nothing"}
    assert pruning.saves[0].reason.endswith("quantized was written with --quantize, which does not keep its weights")
    assert contents(run) == before
    # Beside a model that has the weights it does not matter.
    consolidate(run / "checkpoint-1", models / "weights")
    assert fates(prune(run, keep=1, remove=remove))["checkpoint-1"] == remove


def test_models_elsewhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run-models").rename(tmp_path / "others")
    assert set(fates(prune(run)).values()) == {"nothing"}
    assert fates(prune(run, models=tmp_path / "others"))["checkpoint-1"] == "optimizer"


class TestNeverTouched:
    def test_the_last_complete_one(self, run: Path) -> None:
        """The newer ones are cut off: then the newest that is whole is older than usual."""
        for step in (2, 3, 4):
            next((run / f"checkpoint-{step}").glob("*/*optim*")).unlink()
        pruning = prune(run, keep=1, remove="checkpoint", unconverted=True, yes=True)
        assert fates(pruning) == dict.fromkeys(
            ("checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"), "nothing"
        )
        assert uses(run)["checkpoint-1"] == "resume"

    def test_the_best_one(self, run: Path) -> None:
        (run / "checkpoint-4" / "trainer_state.json").write_text('{"best_model_checkpoint": "run/checkpoint-1"}')
        assert prune(run, yes=True).saves[0].reason == "the best one"
        assert uses(run)["checkpoint-1"] == "resume"

    def test_one_that_is_written_again(self, run: Path) -> None:
        """A training that was resumed from an old save passes the newer ones again."""
        age(run / "checkpoint-2", 500)
        pruning = prune(run, remove="checkpoint", unconverted=True, yes=True)
        assert fates(pruning)["checkpoint-2"] == "nothing"
        assert fates(pruning)["checkpoint-1"] == "checkpoint"

    def test_one_that_is_written_while_it_is_verified(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from zeroconsolidate.api import pruning as api

        real = api.verify

        def verify(model: str, **options: object) -> object:
            found = real(model, **options)
            age(run / "checkpoint-1", 101)
            return found

        monkeypatch.setattr(api, "verify", verify)
        assert prune(run, yes=True).saves[0].reason == "something has written to it meanwhile"
        assert uses(run)["checkpoint-1"] == "resume"

    def test_what_latest_names(self, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            zero_model.save(zero_model.example(2, step=step), tmp_path / "run", f"global_step{step}")
            age(tmp_path / "run" / f"global_step{step}", 100 * step)
        (tmp_path / "run" / "latest").write_text("global_step1")
        pruning = prune(tmp_path / "run", keep=1, remove="checkpoint", unconverted=True, yes=True)
        assert fates(pruning) == {"global_step1": "nothing", "global_step2": "checkpoint", "global_step3": "nothing"}
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["global_step1", "global_step3", "latest"]

    def test_other_trainings_in_the_same_directory(self, run: Path) -> None:
        """Of each, this is the last complete save."""
        for step, name in ((1, "bert"), (2, "run2"), (3, "run3")):
            (run / f"checkpoint-{step}").rename(run / name)
        consolidate(run / "bert", f"{run}-models/bert")
        pruning = prune(run, keep=1, remove="checkpoint", unconverted=True, yes=True)
        assert set(fates(pruning).values()) == {"nothing"}
        assert set(uses(run).values()) == {"resume"}

    def test_no_save_to_resume_from(self, run: Path) -> None:
        for path in run.glob("*/trainer_state.json"):
            path.unlink()
        assert set(fates(prune(run, remove="checkpoint", unconverted=True, yes=True)).values()) == {"nothing"}


class TestCutOff:
    @pytest.mark.parametrize("calls", range(1, 5))
    @pytest.mark.parametrize("keyed", ["names", "metadata"])
    def test_no_save_looks_whole(self, run: Path, calls: int, keyed: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """However few files are gone: neither by names nor by metadata is it complete."""
        from zeroconsolidate.saves import run as reading

        real, left = removal.remove, [calls]

        def remove(path: str) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path)

        monkeypatch.setattr(removal, "remove", remove)
        with pytest.raises(KeyboardInterrupt):
            prune(run, yes=True)
        if keyed == "names":
            monkeypatch.setattr(reading, "MAX_EXAMINED_FILES", 0)
        first = inspect_run(run).saves[0]
        assert not first.resumable
        if calls > 2:  # after `latest` and `latest_universal`: files of DeepSpeed
            assert not first.complete
        monkeypatch.setattr(removal, "remove", real)
        prune(run, yes=True)
        assert uses(run)["checkpoint-3"] == uses(run)["checkpoint-4"] == "resume"

    def test_a_whole_checkpoint_loses_its_name_first(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def rmtree(path: str, **_: object) -> None:
            if os.path.exists(path):
                raise KeyboardInterrupt

        monkeypatch.setattr(removal.shutil, "rmtree", rmtree)
        with pytest.raises(KeyboardInterrupt):
            prune(run, remove="checkpoint", yes=True)
        monkeypatch.undo()
        assert sorted(uses(run)) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
        assert (run / f"{removal.REMOVING}checkpoint-1").is_dir()
        prune(run, yes=True)
        assert not (run / f"{removal.REMOVING}checkpoint-1").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "^keep takes a number of saves, at least 1; got 0"),
        ({"keep": "two"}, "^keep takes a number of saves"),
        ({"unconverted": True}, 'unconverted=True is used only with remove="checkpoint"'),
        ({"remove": "all"}, "remove must be 'optimizer' or 'checkpoint'"),
    ],
)
def test_options_that_make_no_sense(run: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        prune(run, **options)


def test_a_trainers_saves(tmp_path: Path) -> None:
    """A real Trainer's files: the same step in each, so that both are of the model."""
    for step in (3, 4):
        shutil.copytree(TRAINED, tmp_path / "run" / f"checkpoint-{step}")
        age(tmp_path / "run" / f"checkpoint-{step}", step)
    consolidate(tmp_path / "run" / "checkpoint-3", tmp_path / "run-models" / "three")
    assert fates(prune(tmp_path / "run", keep=1, yes=True)) == {"checkpoint-3": "optimizer", "checkpoint-4": "nothing"}
