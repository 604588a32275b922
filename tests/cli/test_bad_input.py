"""Bad input: one clear sentence, exit code 2, no traceback, nothing half-written, the source as it was.

Every case runs the real command in a process of its own. The edits are those of `tools/break_fixture.py`.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import break_fixture
import pytest
import torch
import zero_model
from command import WITHOUT_PRIVILEGES, contents, environment, python, refusal, zeroconsolidate
from fixtures import FIXTURES
from folders import final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a fixture's checkpoint, to be broken."""

    def copied(case: str) -> Path:
        root = tmp_path / "checkpoint"
        shutil.copytree(FIXTURES / case / "checkpoint", root)
        return root

    return copied


def refused(root: Path, out: Path, *options: object) -> str:
    """The sentence with which `convert` refuses; asserts that it left no trace."""
    before, there = contents(root), os.path.lexists(out)
    said = refusal(zeroconsolidate("convert", root, out, *options))
    assert contents(root) == before, "the source was touched"
    assert os.path.lexists(out) == there, "something was written"
    return said


OPTIMIZER, MODEL = r"bf16_zero_pp_rank_1_mp_rank_00_optim_states\.pt", r"zero_pp_rank_1_mp_rank_00_model_states\.pt"
FIRST_MODEL = r"mp_rank_00_model_states\.pt"

RANK_1_MISSING = rf"1 of 2 ranks is incomplete: {OPTIMIZER} is missing; .* % of all bytes are lost; .*--rescue"
TOO_MANY_RANKS = r"left over from a save with more ranks; expected ranks 0 to 1 of 2, got rank 2.*pp_rank_2_mp"

BROKEN = [
    ("truncated", "z2_bf16", rf"1 of 2 ranks is incomplete: {OPTIMIZER} is truncated;"),
    ("truncated", "z3_bf16", rf"1 of 2 ranks is incomplete: {OPTIMIZER} is truncated;"),
    ("truncated_model", "z1_bf16", rf"(truncated|directory).*{FIRST_MODEL}"),
    ("zero_bytes", "z2_bf16", rf"1 of 2 ranks is incomplete: {OPTIMIZER} is empty;"),
    ("not_a_zip", "z3_bf16", rf"{FIRST_MODEL} is not a torch checkpoint: it is not a zip archive"),
    ("other_zip", "z2_bf16", rf"a zip archive but not a torch checkpoint.*{FIRST_MODEL}"),
    ("garbage_pickle", "z2_bf16", rf"{OPTIMIZER}: the pickle is damaged"),
    ("os_system", "z2_bf16", rf"the pickle names 'os\.system'.*nothing in it was run.*{OPTIMIZER}"),
    ("os_system", "z3_bf16", rf"the pickle names 'os\.system'.*nothing in it was run.*{OPTIMIZER}"),
    ("rank_missing", "z1_bf16", RANK_1_MISSING),
    ("rank_missing", "z3_bf16", RANK_1_MISSING),
    ("model_rank_missing", "z3_bf16", rf"1 of 2 ranks is incomplete: {MODEL} is missing"),
    ("model_rank_missing", "z2_bf16", r"the model states are missing; look for mp_rank_00_model_states\.pt"),
    ("extra_rank", "z2_bf16", TOO_MANY_RANKS),
    ("extra_rank", "z3_bf16", TOO_MANY_RANKS),
    ("rank_twice", "z2_bf16", r"rank 1 has two files; expected one.*one of them is left over from another save"),
    ("other_step", "z3_bf16", rf"belong to different saves: the step.*differs; expected 2.*got 99.*{MODEL}"),
    ("other_world", "z3_bf16", r"3 of 5 ranks are incomplete \(2, 3, 4\): .* and 5 more are missing"),
    ("other_world", "z2_bf16", r"3 of 5 ranks are incomplete \(2, 3, 4\): .* and 2 more are missing"),
    ("other_masters", "z1_bf16", r"the master weights do not round to the copy.*expected .*, got .*--no-check"),
    ("other_masters", "z2_fp16", r"the master weights do not round to the copy in 'module'"),
    ("latest_wrong", "z2_bf16", r"`latest` names the tag 'global_step99', which is not here; the tags here are: glo"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "case", "message"), BROKEN, ids=[f"{edit}-{case}" for edit, case, _ in BROKEN])
def test_a_broken_checkpoint(edit: str, case: str, message: str, checkpoint: Callable[[str], Path], tmp_path: Path):
    root = checkpoint(case)
    break_fixture.EDITS[edit](root)
    said = refused(root, tmp_path / "out")
    assert re.search(message, said), said


def test_swapped_ranks_do_not_pass_the_witness(checkpoint: Callable[[str], Path], tmp_path: Path):
    root = checkpoint("z2_bf16")
    break_fixture.ranks_swapped(root)
    said = refused(root, tmp_path / "out")
    assert re.search(r"do not round to the copy|do not add up", said), said


def test_nothing_of_a_hostile_pickle_is_run(checkpoint: Callable[[str], Path], tmp_path: Path):
    """The pickle would call `os.system` with its argument, which is swapped for a command here."""
    root = checkpoint("z2_bf16")
    path = break_fixture.optimizer_files(root)[1]
    proof = tmp_path / "proof"
    command = f"touch {proof}".encode()
    evil = b"cos\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R"
    break_fixture.edit_record(path, r"data\.pkl", lambda content: b"\x80\x02" + evil + content[2:])
    assert "os.system" in refused(root, tmp_path / "out")
    assert "os.system" in refusal(zeroconsolidate("inspect", root))
    assert not proof.exists()


# --- the wrong place -----------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path):
    said = refusal(zeroconsolidate("convert", tmp_path / "nowhere", tmp_path / "out"))
    assert said.startswith("there is no such directory; expected a DeepSpeed checkpoint")
    assert not (tmp_path / "out").exists()


def test_a_mistyped_name(tmp_path: Path):
    shutil.copytree(FIXTURES / "z3_bf16" / "checkpoint", tmp_path / "checkpoint-500")
    said = refused(tmp_path / "chekpoint-500", tmp_path / "out")
    assert f"did you mean {tmp_path}/checkpoint-500?" in said


def test_a_model(tmp_path: Path):
    shutil.copytree(FIXTURES / "models/_bases/llama", tmp_path / "model")
    said = refused(tmp_path / "model", tmp_path / "out")
    assert said.startswith("this is a model, not a DeepSpeed checkpoint; expected a folder such as global_step500, got")
    assert f"zeroconsolidate verify {tmp_path}/model says whether it is whole" in said
    (tmp_path / "model/zeroconsolidate.json").write_text("{}")
    assert refused(tmp_path / "model", tmp_path / "out").startswith("this is a model that zeroconsolidate wrote, not a")


def test_a_file(tmp_path: Path):
    (tmp_path / "f.pt").touch()
    said = refusal(zeroconsolidate("convert", tmp_path / "f.pt", tmp_path / "out"))
    assert f"this is a file; expected the checkpoint's directory, perhaps {tmp_path}" in said


def test_not_a_checkpoint(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    said = refused(tmp_path / "model", tmp_path / "out")
    assert re.search(r"not a DeepSpeed checkpoint; expected a file `latest`.*got config\.json", said)


def test_an_empty_directory(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "got an empty directory" in refused(tmp_path / "empty", tmp_path / "out")


def test_a_directory_of_checkpoints_lists_them(tmp_path: Path):
    for step in (500, 1000, 50):
        shutil.copytree(FIXTURES / "z3_bf16" / "checkpoint", tmp_path / "run" / f"checkpoint-{step}")
    said = refused(tmp_path / "run", tmp_path / "out")
    assert "a directory of checkpoints, not a checkpoint" in said
    assert "name one of them: checkpoint-50, checkpoint-500, checkpoint-1000" in said
    assert f"; zeroconsolidate convert {tmp_path}/run/checkpoint-1000 {tmp_path}/out" in said
    assert "; --checkpoint last-complete takes the newest complete one" in said


@pytest.fixture
def several_tags(tmp_path: Path) -> Path:
    for step in (2, 10, 9):
        zero_model.save(zero_model.example(2, step=step), tmp_path / "run", f"global_step{step}", latest=False)
    return tmp_path / "run"


def test_several_tags_and_no_latest(several_tags: Path, tmp_path: Path):
    said = refused(several_tags, tmp_path / "out")
    assert "several tags and no file `latest`; choose one with --tag: global_step2, global_step9, global_step10" in said


def test_a_wrong_tag(several_tags: Path, tmp_path: Path):
    said = refused(several_tags, tmp_path / "out", "--tag", "global_step3")
    assert "no tag 'global_step3'; the tags here are: global_step2, global_step9, global_step10" in said


def test_a_tag_that_is_a_folder_of_something_else(several_tags: Path, tmp_path: Path):
    (several_tags / "runs").mkdir()
    assert "the folder 'runs' holds no checkpoint files" in refused(several_tags, tmp_path / "out", "--tag", "runs")


@pytest.mark.parametrize("text", ["", "../elsewhere", "a\x00b", "\xff" * 3])
def test_a_damaged_latest(several_tags: Path, tmp_path: Path, text: str):
    (several_tags / "latest").write_text(text, "latin-1")
    assert "latest" in refused(several_tags, tmp_path / "out")
    # Whoever names the tag does not need it.
    done = zeroconsolidate("convert", several_tags, tmp_path / "out", "--tag", "global_step10")
    assert done.returncode == 0, done.stderr


# --- files of two saves ----------------------------------------------------------------------------------------------


def mixed(tmp_path: Path, first: zero_model.Run, second: zero_model.Run, *names: str) -> Path:
    """`first`, with the files whose names contain one of `names` taken from `second`."""
    root, other = zero_model.save(first, tmp_path / "run"), zero_model.save(second, tmp_path / "other")
    for path in (other / "global_step7").iterdir():
        if any(name in path.name for name in names):
            shutil.copyfile(path, root / "global_step7" / path.name)
    return root


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_optimizer_file_of_another_step(tmp_path: Path, stage: int):
    root = mixed(tmp_path, zero_model.example(stage), zero_model.example(stage, step=6), "rank_1_mp_rank_00_optim")
    said = refused(root, tmp_path / "out")
    assert re.search(r"different saves: the optimizer's step differs; expected \(7.0,\).*got \(6.0,\).*rank_1", said), (
        said
    )


def test_a_model_file_of_another_step(tmp_path: Path):
    root = mixed(tmp_path, zero_model.example(3), zero_model.example(3, step=6), "rank_1_mp_rank_00_model")
    assert re.search(
        r"the step \('global_steps'\) differs; expected 7 .*got 6.*rank_1", refused(root, tmp_path / "out")
    )


def test_a_file_of_a_larger_world(tmp_path: Path):
    root = mixed(tmp_path, zero_model.example(3, 2), zero_model.example(3, 4), "pp_rank_1_")
    assert re.search(r"'dp_world_size'.*expected 2 .*got 4.*pp_rank_1_", refused(root, tmp_path / "out"))


def test_stale_files_of_a_larger_world(tmp_path: Path):
    root = mixed(tmp_path, zero_model.example(3, 2), zero_model.example(3, 4), "pp_rank_2_", "pp_rank_3_")
    assert re.search(r"left over from a save with more ranks.*got rank 2", refused(root, tmp_path / "out"))


@pytest.mark.parametrize("stage", [2, 3])
def test_a_file_of_another_deepspeed(tmp_path: Path, stage: int):
    other = zero_model.example(stage, ds_version="0.14.0")
    root = mixed(tmp_path, zero_model.example(stage), other, "rank_1_mp_rank_00_optim")
    assert re.search(r"DeepSpeed version differs; expected '0.19.8'.*got '0.14.0'", refused(root, tmp_path / "out"))


def test_a_file_of_another_stage(tmp_path: Path):
    root = mixed(tmp_path, zero_model.example(1), zero_model.example(2), "rank_1_mp_rank_00_optim")
    assert re.search(r"the stage differs; expected 1 .*got 2", refused(root, tmp_path / "out"))


def test_a_rank_with_other_shapes(tmp_path: Path):
    groups = [{"embed.weight": torch.zeros(5, 4), "norm": torch.zeros(2)}, {"bias": torch.zeros(3)}]
    root = mixed(tmp_path, zero_model.example(3), zero_model.example(3, groups=groups, ties={}), "rank_1_mp")
    assert re.search(r"'param_shapes' differs.*rank_1", refused(root, tmp_path / "out"))


@pytest.mark.parametrize("stage", [1, 2])
def test_masters_and_module_of_different_saves(tmp_path: Path, stage: int):
    """The model file is older than all optimizer files, which agree with one another: only the values can tell."""
    groups = [{n: t + 0.25 for n, t in group.items()} for group in zero_model.example(stage).groups]
    root = mixed(tmp_path, zero_model.example(stage), zero_model.example(stage, groups=groups), "optim_states")
    said = refused(root, tmp_path / "out")
    assert "the master weights do not round to the copy in 'module'" in said
    done = zeroconsolidate("convert", root, tmp_path / "out", "--no-check")
    assert done.returncode == 0, done.stderr


# --- shapes that do not add up ---------------------------------------------------------------------------------------


def with_shapes(tmp_path: Path, stage: int, *, more: int) -> Path:
    """A run whose model files describe a parameter of `more` elements more than its flat group holds."""
    run = zero_model.example(stage, buffers={}, ties={}, frozen={})
    changed = [dict(group) for group in run.groups]
    changed[1]["norm.weight"] = torch.zeros(7 + more)
    liar = zero_model.example(stage, groups=changed, buffers={}, ties={}, frozen={})
    return mixed(tmp_path, run, liar, "model_states")


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("more", [9, -5])
def test_shapes_that_do_not_add_up(tmp_path: Path, stage: int, more: int):
    said = refused(with_shapes(tmp_path, stage, more=more), tmp_path / "out")
    assert re.search(r"the shapes in 'param_shapes' do not add up.*expected .*got .*group 1|would end at", said), said


def test_a_group_too_few(tmp_path: Path):
    run = zero_model.example(2)
    short = zero_model.example(2, groups=run.groups[:1])
    root = mixed(tmp_path, run, short, "optim_states")
    assert re.search(r"do not describe the same model; expected 2 flat groups.*got 1", refused(root, tmp_path / "out"))


# --- options and outputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "int4"], r"the dtype is not one of fp32, bf16, fp16, auto; got 'int4'"),
        (["--max-shard-size", "big"], r"a size is a number with B, KB, MB, GB or TB.*got 'big'"),
        (
            ["--base", "no/such/dir"],
            r"no such directory: no/such/dir; it is not a hub id either",
        ),
        (["--exclude", "*"], r"nothing is left to write"),
        (["--include", "nothing.*"], r"--include 'nothing\.\*' matches no tensor"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str], message: str):
    assert re.search(message, refused(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "out", *options))


@pytest.mark.parametrize("where", [".", "out", "global_step2", "global_step2/out", "a/../out"])
def test_an_output_inside_the_checkpoint(checkpoint: Callable[[str], Path], where: str):
    root = checkpoint("z2_bf16")
    before = contents(root)
    for source in (root, root / "global_step2"):
        for overwrite in ([], ["--overwrite"]):
            said = refusal(zeroconsolidate("convert", source, root / where, *overwrite))
            assert re.search(r"lies in the checkpoint .*, which is never modified; name another directory", said)
    assert contents(root) == before


def test_an_output_inside_the_checkpoint_by_a_link(checkpoint: Callable[[str], Path], tmp_path: Path):
    root = checkpoint("z2_bf16")
    (tmp_path / "link").symlink_to(root)
    assert "lies in the checkpoint" in refused(root, tmp_path / "link" / "out")


def test_an_output_that_exists(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    before = contents(out)
    said = refused(FIXTURES / "z2_bf16" / "checkpoint", out)
    assert re.search(r"the output directory is not empty \(precious\.txt\).*--overwrite", said)
    assert contents(out) == before


def test_an_output_that_is_a_file(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    for options in ([], ["--overwrite"]):
        said = refused(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "out", *options)
        assert "the output is a file; expected a directory or nothing" in said
    assert (tmp_path / "out").read_text() == "mine"


def test_a_failed_overwrite_leaves_the_old_model(tmp_path: Path, checkpoint: Callable[[str], Path]):
    out = tmp_path / "out"
    assert (
        zeroconsolidate("convert", FIXTURES / "z3_bf16" / "checkpoint", out, "--max-shard-size", "1KB").returncode == 0
    )
    before = contents(out)
    root = checkpoint("z2_bf16")
    break_fixture.other_masters(root)
    refused(root, out, "--overwrite")
    assert contents(out) == before


def test_an_output_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    said = refused(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "file" / "out")
    assert "the output cannot be written" in said


def test_an_output_whose_name_is_too_long_leaves_no_parent(tmp_path: Path):
    refused(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "new" / ("x" * 300))
    assert not (tmp_path / "new").exists()


# --- what the system refuses -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a checkpoint in it."""
    shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "checkpoint")
    return tmp_path


def test_a_file_that_may_not_be_read(folder: Path):
    path = break_fixture.optimizer_files(folder / "checkpoint")[1]
    path.chmod(0)
    said = refusal(python(WITHOUT_PRIVILEGES, "convert", folder / "checkpoint", folder / "out"))
    assert f"1 of 2 ranks is incomplete: {path.name} cannot be read: permission denied; 6 of 19 tensors" in said
    assert not (folder / "out").exists()
    done = python(WITHOUT_PRIVILEGES, "inspect", folder / "checkpoint")
    assert done.returncode == 3, done
    assert f"{path.name}: the file cannot be read: permission denied" in " ".join(done.stdout.split()), done.stdout


def test_a_model_file_that_may_not_be_read(folder: Path):
    """Of stage 2, whose only one says what the parameters are."""
    (folder / "checkpoint/global_step2/mp_rank_00_model_states.pt").chmod(0)
    for command in (
        ["convert", folder / "checkpoint", folder / "out"],
        ["inspect", folder / "checkpoint"],
    ):
        said = refusal(python(WITHOUT_PRIVILEGES, *command))
        assert "the file cannot be read: permission denied" in said
        assert "mp_rank_00_model_states.pt" in said


@pytest.mark.parametrize("named", [["latest"], ["--tag", "global_step2"], []], ids=["latest", "tag", "neither"])
@pytest.mark.parametrize("what", ["checkpoint", "checkpoint/global_step2"])
def test_a_directory_that_may_not_be_read(folder: Path, what: str, named: list[str]):
    """What lies in it nobody knows: it is not said to be empty."""
    if named != ["latest"]:
        (folder / "checkpoint/latest").unlink()
    (folder / what).chmod(0)
    options = named if named != ["latest"] else []
    try:
        convert = refusal(python(WITHOUT_PRIVILEGES, "convert", folder / "checkpoint", folder / "out", *options))
        inspect = refusal(python(WITHOUT_PRIVILEGES, "inspect", folder / "checkpoint", *options))
    finally:
        (folder / what).chmod(0o755)
    assert convert == inspect == f"the directory cannot be read: permission denied (at {folder / what})"


def test_of_a_directory_that_may_not_be_read_another_tag_is_named(folder: Path):
    shutil.copytree(folder / "checkpoint/global_step2", folder / "checkpoint/global_step1")
    (folder / "checkpoint/global_step2").chmod(0)
    try:
        said = refusal(python(WITHOUT_PRIVILEGES, "convert", folder / "checkpoint", folder / "out"))
    finally:
        (folder / "checkpoint/global_step2").chmod(0o755)
    assert "permission denied; --tag last-complete takes global_step1, the newest complete tag (at" in said


def test_an_output_that_may_not_be_written(folder: Path):
    (folder / "closed").mkdir(mode=0o555)
    said = refusal(python(WITHOUT_PRIVILEGES, "convert", folder / "checkpoint", folder / "closed" / "out"))
    assert re.search(r"the output cannot be written: permission denied.*closed/out", said), said
    assert not list((folder / "closed").iterdir())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_config_that_may_not_be_read(folder: Path, name: str):
    (folder / "checkpoint" / name).write_text("{}")
    (folder / "checkpoint" / name).chmod(0)
    said = refusal(python(WITHOUT_PRIVILEGES, "convert", folder / "checkpoint", folder / "out"))
    assert re.search(rf"(cannot|may not) be read: .*ermission denied.*{name}", said), said
    assert not final(folder / "out")


def test_a_base_model_that_may_not_be_read(folder: Path):
    (folder / "base").mkdir(mode=0)
    arguments = ["convert", folder / "checkpoint", folder / "out", "--base", folder / "base"]
    said = refusal(python(WITHOUT_PRIVILEGES, *arguments))
    assert re.search(r"ermission denied.*base", said), said
    assert not final(folder / "out")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_file_size_limit(tmp_path: Path, dtype: str):
    """The write itself fails, as on a full disk, after some of the file is there."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    checkpoint = FIXTURES / "z2_bf16" / "checkpoint"
    said = refusal(zeroconsolidate("convert", checkpoint, tmp_path / "out", "--dtype", dtype, preexec_fn=limit))
    assert re.search(r"the output cannot be written: file too large \(at \S+/out/model\.safetensors\)$", said), said
    assert not final(tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs rights that this user has not")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_full_disk(small_disk: Path, tmp_path: Path, dtype: str):
    """The room is there when asked for, and gone when it is needed: an asset takes it."""
    root = zero_model.save(zero_model.example(2), tmp_path / "run")
    (root / "tokenizer.json").write_bytes(b"x" * (1 << 17))
    said = refusal(zeroconsolidate("convert", root, small_disk / "out", "--dtype", dtype))
    assert re.search(r"the output cannot be written: the disk is full.*tokenizer\.json", said), said
    assert not final(small_disk / "out")


def test_a_disk_that_is_too_small_is_noticed_first(small_disk: Path, tmp_path: Path):
    groups = [{"weight": torch.zeros(50_000)}]
    root = zero_model.save(zero_model.example(2, groups=groups, ties={}), tmp_path / "run")
    said = refusal(zeroconsolidate("convert", root, small_disk / "out"))
    assert re.search(r"the disk has too little room; expected 203 KB free, got 65\.5 KB \(at .*/out\)", said), said
    assert not final(small_disk / "out")


def test_a_disk_that_has_room_for_the_bytes_but_not_for_the_files(small_disk: Path):
    """A universal checkpoint of 55 KB in 53 files."""
    said = refusal(zeroconsolidate("universal", FIXTURES / "z2_bf16" / "checkpoint", small_disk / "out"))
    assert re.search(r"the disk has too little room; expected 4\d\d KB free, got 65\.5 KB \(at .*/out\)", said), said
    assert not list(small_disk.iterdir())


def test_inspect_tells_of_a_file_that_cannot_be_used(checkpoint: Callable[[str], Path]):
    root = checkpoint("z3_bf16")
    break_fixture.zero_bytes(root)
    done = zeroconsolidate("inspect", root)
    assert done.returncode == 3
    assert re.search(rf"  lost file +{OPTIMIZER}: the file is empty", done.stdout)


def test_inspect_lists_missing_files(checkpoint: Callable[[str], Path]):
    root = checkpoint("z3_bf16")
    break_fixture.rank_missing(root)
    done = zeroconsolidate("inspect", root)
    assert done.returncode == 3
    assert re.search(rf"  lost file +{OPTIMIZER}: missing", done.stdout)


def test_names_that_the_locale_has_no_letters_for(tmp_path: Path):
    run = zero_model.Run(stage=2, world_size=1, groups=[{"größe→2": torch.ones(3)}])
    zero_model.save(run, tmp_path / "in")
    done = python(
        "import sys; from zeroconsolidate.cli import main; sys.exit(main(sys.argv[1:]))",
        *("inspect", tmp_path / "in", "--tensors"),
        env=environment(LC_ALL="C", PYTHONUTF8="0"),
    )
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe\u21922" in done.stdout


def test_an_environment_is_not_needed(tmp_path: Path):
    """No home, no terminal, a foreign locale."""
    everything = environment(LC_ALL="C", HOME="/nonexistent")
    bare = {name: everything[name] for name in ("PYTHONPATH", "PATH", "LC_ALL", "HOME")}
    done = subprocess.run(
        [sys.executable, "-m", "zeroconsolidate", "convert", FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "öut"],
        env=bare, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
