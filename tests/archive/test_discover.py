"""CHECKPOINT is what people have in hand: every shape of directory leads to the same files."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import zero_model
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate.archive.discover import discover, natural
from zeroconsolidate.archive.names import FileKind, parse
from zeroconsolidate.errors import BadOption, Disagreement, MissingFiles, NotACheckpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with three tags, of which `latest` names the second."""
    for step in (9, 10, 100):
        zero_model.save(zero_model.example(2, step=step), tmp_path / "run", f"global_step{step}")
    (tmp_path / "run" / "latest").write_text("global_step10\n")
    return tmp_path / "run"


def step(path: Path | str, tag: str | None = None) -> int | None:
    return zeroconsolidate.inspect(path, tag=tag).step


def test_a_run_directory_means_its_latest_tag(run: Path):
    info = zeroconsolidate.inspect(run)
    assert (info.tag, info.latest, info.step) == ("global_step10", "global_step10", 10)
    assert info.tags == ("global_step9", "global_step10", "global_step100")


def test_another_tag_by_name_or_by_path(run: Path):
    assert step(run, "global_step9") == 9
    assert step(run / "global_step100") == 100


def test_paths_may_be_written_in_any_way(run: Path, monkeypatch: pytest.MonkeyPatch):
    assert step(f"{run}/") == 10
    assert step(f"{run}/global_step9/..") == 10
    monkeypatch.chdir(run)
    assert step(".") == 10
    assert step("global_step9") == 9
    monkeypatch.chdir(run / "global_step9")
    assert step(".") == 9
    assert step("..") == 10


@pytest.mark.parametrize("tag", ["pytorch_model", "checkpoint", "checkpoint-500", "any thing"])
def test_tags_of_accelerate_lightning_and_people(tmp_path: Path, tag: str):
    zero_model.save(zero_model.example(3), tmp_path / "run", tag)
    assert zeroconsolidate.inspect(tmp_path / "run").tag == tag


def test_a_single_tag_needs_no_latest(run: Path):
    (run / "latest").unlink()
    shutil.rmtree(run / "global_step9")
    shutil.rmtree(run / "global_step100")
    assert step(run) == 10


def test_ten_ranks_and_more_are_in_the_order_of_numbers(tmp_path: Path):
    files = discover(zero_model.save(zero_model.example(3, 12), tmp_path))
    assert [name.dp_rank for name in files.of(FileKind.OPTIMIZER)] == list(range(12))
    assert [name.dp_rank for name in files.of(FileKind.PARTITIONED_MODEL)] == list(range(12))


def test_numbers_in_names_count_as_numbers():
    assert natural(["step10", "step9", "x", "step9b", "10", "9"]) == ["9", "10", "step9", "step9b", "step10", "x"]


def test_files_of_other_kinds_do_not_matter(run: Path):
    (run / "global_step10" / "notes.txt").write_text("hello")
    (run / "global_step10" / "zero_pp_rank_x_mp_rank_00_optim_states.pt").write_text("no rank")
    (run / "runs").mkdir()
    assert step(run) == 10


@pytest.mark.parametrize(
    "name",
    ["zero_pp_rank_01_mp_rank_00_optim_states.pt", "mp_rank_0_model_states.pt", "mp_rank_00_model_states.pt.tmp",
     "optimizer.pt", "xzero_pp_rank_0_mp_rank_00_optim_states.pt", "layer_1-model_states.pt"],
)  # fmt: skip
def test_names_that_deepspeed_does_not_write(name: str):
    assert parse(name) is None


def test_a_tag_in_its_checkpoint_brings_the_files_beside_it(tmp_path: Path):
    """Trainer's `checkpoint-N/global_stepN`: config and tokenizer are one level up."""
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    report = zeroconsolidate.consolidate(source / "global_step3", tmp_path / "out", names="stored")
    assert {"config.json", "tokenizer.json"} < set(report.files)
    with pytest.raises(BadOption, match="lies in the checkpoint"):
        zeroconsolidate.consolidate(source / "global_step3", source / "out")


def test_a_tag_that_was_moved_away_has_nothing_to_do_with_where_it_lies_now(tmp_path: Path):
    """A folder of projects: its README is not the model's, and an output may lie beside the tag."""
    shutil.copytree(FIXTURES / "z3_bf16" / "checkpoint" / "global_step2", tmp_path / "global_step2")
    (tmp_path / "README.md").write_text("my projects")
    (tmp_path / "config.json").write_text("{}")
    report = zeroconsolidate.consolidate(tmp_path / "global_step2", tmp_path / "out", names="stored")
    assert not {"README.md", "config.json"} & set(os.listdir(tmp_path / "out"))
    assert report.left_behind == ()
    with pytest.raises(BadOption, match="lies in the checkpoint"):
        zeroconsolidate.consolidate(tmp_path / "global_step2", tmp_path / "global_step2" / "out")


def test_a_tag_given_twice_is_refused(run: Path):
    with pytest.raises(NotACheckpoint, match="no tag 'global_step9'"):
        zeroconsolidate.inspect(run / "global_step9", tag="global_step9")


# --- the fast writer's names ----------------------------------------------------------------------------------------


def written_fast(root: Path, *, stage: int = 2, writers: int = 2) -> Path:
    """A checkpoint under the names of several writers: a whole copy of the model file each, and a file a rank."""
    folder = zero_model.save(zero_model.example(stage), root) / "global_step7"
    for path in sorted(folder.glob("*_states.pt")):
        if "optim" in path.name:
            rank = int(path.name.partition("pp_rank_")[2][0])
            path.rename(f"{path}-{rank}.{writers}")
        else:
            for writer in range(writers):
                shutil.copy(path, f"{path}-{writer}.{writers}")
            path.unlink()
    return root


def test_of_several_writers_copies_the_first_is_read(tmp_path: Path):
    checkpoint = written_fast(tmp_path / "c")
    assert zeroconsolidate.inspect(checkpoint).world_size == 2
    found = discover(str(checkpoint))
    assert [name.name for name in found.of(FileKind.MODEL)] == ["mp_rank_00_model_states.pt-0.2"]
    plain = zero_model.save(zero_model.example(2), tmp_path / "d")
    zeroconsolidate.consolidate(checkpoint, tmp_path / "fast")
    zeroconsolidate.consolidate(plain, tmp_path / "plain")
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("fast", "plain")]
    assert written[0] == written[1]


def test_the_first_writers_copy_may_be_lost(tmp_path: Path):
    checkpoint = written_fast(tmp_path / "c")
    (checkpoint / "global_step7/mp_rank_00_model_states.pt-0.2").unlink()
    assert zeroconsolidate.inspect(checkpoint).world_size == 2


@pytest.mark.parametrize("left", ["mp_rank_00_model_states.pt", "mp_rank_00_model_states.pt-0.4"])
def test_copies_of_two_saves(tmp_path: Path, left: str):
    checkpoint = written_fast(tmp_path / "c")
    folder = checkpoint / "global_step7"
    shutil.copy(folder / "mp_rank_00_model_states.pt-0.2", folder / left)
    with pytest.raises(Disagreement, match="a model-parallel rank has two files: one is left over"):
        zeroconsolidate.consolidate(checkpoint, tmp_path / "out")


def test_a_missing_rank_of_the_fast_writer_is_named_as_it_should_be(tmp_path: Path):
    checkpoint = written_fast(tmp_path / "c")
    next((checkpoint / "global_step7").glob("*pp_rank_1*")).unlink()
    with pytest.raises(MissingFiles, match=r": bf16_zero_pp_rank_1_mp_rank_00_optim_states\.pt is missing;"):
        zeroconsolidate.consolidate(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["-1.02", "-1.0", "-01.2", "-1", "-1.2.3", ".1.2"])
def test_other_endings_are_no_writers(suffix: str):
    assert parse(f"mp_rank_00_model_states.pt{suffix}") is None
