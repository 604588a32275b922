"""Interrupted conversions continue: what is on disk is not made again, and the bytes are those of one straight run."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import synthetic
from command import REPOSITORY, signals
from fixtures import FIXTURES
from folders import contents
from interrupting import Interrupt

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import BadOption, DamagedFile, Disagreement, OutputExists, OutputFailed, PlanBroken
from zeroconsolidate.outputs import weights as convert
from zeroconsolidate.run.execute import BLOCK_BYTES
from zeroconsolidate.write import part, publish, stage, staging_folder
from zeroconsolidate.write.journal import Journal
from zeroconsolidate.write.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zeroconsolidate.plan.layout import FilePlan
    from zeroconsolidate.run.storage import Writable

MB = 1 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("big") / "checkpoint-5"
    synthetic.write(root, synthetic.values_of(synthetic.shapes_of(12)), stage=2, ranks=3)
    (root / "generation_config.json").write_text("{}")
    (root / "tokenizer.json").write_text("{}")
    return root


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync every megabyte."""
    monkeypatch.setattr(part, "SYNC_BYTES", MB)


OPTIONS = {"max_shard_size": "5MB", "digest": "sha256"}


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("straight") / "model"
    consolidate(checkpoint, out, **OPTIONS)
    return contents(out)


def stop(checkpoint: Path, out: Path, after: int, **options: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        consolidate(checkpoint, out, progress=Interrupt(after), **(OPTIONS | options))


@pytest.mark.parametrize("after", [1, 3 * MB, 7 * MB, 11 * MB])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_goes_on_where_it_was_interrupted(checkpoint: Path, tmp_path: Path, after: int, dtype: str) -> None:
    if dtype == "bf16":
        after //= 2
    consolidate(checkpoint, tmp_path / "straight", dtype=dtype, **OPTIONS)
    stop(checkpoint, tmp_path / "out", after, dtype=dtype)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]
    again = Interrupt()
    report = consolidate(checkpoint, tmp_path / "out", dtype=dtype, progress=again, **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert report.resumed_bytes >= after - 1
    assert again.first is None or again.first > after - 1


def test_a_function_that_gives_other_names_than_it_did_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    """A function is recorded by its name only, and what it exchanges does not change a header."""

    def renaming(*names: str) -> Callable[[str], str]:
        return lambda name: next((other for other in names if name in names and other != name), name)

    one_file = {"max_shard_size": None}
    stop(checkpoint, tmp_path / "out", 7 * MB, rename=renaming(), **one_file)
    exchanged = {"rename": renaming("layers.0.up.weight", "layers.1.up.weight")}
    with pytest.raises(BadOption, match=r"the tensors of model\.safetensors are made of others"):
        consolidate(checkpoint, tmp_path / "out", **(OPTIONS | exchanged | one_file))
    consolidate(checkpoint, tmp_path / "out", **(OPTIONS | {"rename": renaming()} | one_file))


def test_does_not_copy_what_is_on_disk(checkpoint: Path, tmp_path: Path) -> None:
    stop(checkpoint, tmp_path / "out", 3 * MB, max_shard_size=None, digest=None)
    staged = tmp_path / "out/.zeroconsolidate/files/model.safetensors"
    with staged.open("r+b") as file:  # a mark that only survives if nobody writes here again
        file.seek(2 * MB)
        file.write(b"mark")
    consolidate(checkpoint, tmp_path / "out", max_shard_size=None)
    assert (tmp_path / "out/model.safetensors").read_bytes()[2 * MB :][:4] == b"mark"


def test_bytes_beyond_the_last_sync_are_made_again(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power failure: the journal is older than the file, and what lies between is rubbish."""
    monkeypatch.setattr(part.Part, "_begin_sync", lambda self: None)
    stop(checkpoint, tmp_path / "out", 2 * MB)
    monkeypatch.undo()
    monkeypatch.setattr(part, "SYNC_BYTES", MB)
    (tmp_path / "out/.zeroconsolidate/files").mkdir(parents=True, exist_ok=True)
    (tmp_path / "out/.zeroconsolidate/files/model-00001-of-00004.safetensors").write_bytes(os.urandom(3 * MB))
    consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_a_torn_journal_counts_up_to_its_last_whole_line(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
) -> None:
    stop(checkpoint, tmp_path / "out", 4 * MB)
    journal = tmp_path / "out/.zeroconsolidate/journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_a_journal_that_claims_more_than_is_there_is_not_believed(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
) -> None:
    stop(checkpoint, tmp_path / "out", 3 * MB)
    staged = next((tmp_path / "out/.zeroconsolidate/files").iterdir())
    os.truncate(staged, 1000)
    consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_data_is_synced_before_the_journal_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every record about a file comes after an fsync of that file with nothing written in between."""
    synced: dict[int, int] = {}  # inode -> size at its last fsync
    true_fsync, true_append, claims = os.fsync, Journal.append, []

    def fsync(fd: int) -> None:
        true_fsync(fd)
        status = os.fstat(fd)
        synced[status.st_ino] = status.st_size

    def append(self: Journal, record: dict[str, object]) -> None:
        if "file" in record:
            staged = tmp_path / "out/.zeroconsolidate/files" / str(record["file"])
            upto = record.get("upto", record.get("done"))
            claims.append(upto)
            assert upto <= synced[staged.stat().st_ino]
        if "publish" in record:
            for name in record["publish"]:
                staged = tmp_path / "out/.zeroconsolidate/files" / name
                assert synced[staged.stat().st_ino] == staged.stat().st_size
            assert (tmp_path / "out/.zeroconsolidate/files").stat().st_ino in synced
        true_append(self, record)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Journal, "append", append)
    consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    assert len(claims) >= 8


def test_at_most_a_gibibyte_or_ten_seconds_are_lost(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the disk, copying is never more than two syncs (and the piece at hand) ahead of the journal."""
    safe, ahead = {"upto": 0}, []
    true_fsync, true_remember, true_reached = os.fsync, Stage.remember, part.Part.reached

    def fsync(fd: int) -> None:
        time.sleep(0.02)
        true_fsync(fd)

    def remember(self: Stage, name: str, upto: int, facts: dict[str, object]) -> None:
        true_remember(self, name, upto, facts)
        safe["upto"] = upto

    def reached(self: part.Part, upto: int) -> None:
        true_reached(self, upto)
        ahead.append(upto - safe["upto"])

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Stage, "remember", remember)
    monkeypatch.setattr(part.Part, "reached", reached)
    consolidate(checkpoint, tmp_path / "out")
    assert max(ahead) <= 2 * part.SYNC_BYTES + BLOCK_BYTES
    assert len(ahead) > 10
    # The fixture lowers SYNC_BYTES, so the default is read from the source.
    (default,) = re.findall(r"^SYNC_BYTES = (\d+) << 20$", Path(part.__file__).read_text(), re.MULTILINE)
    assert 2 * int(default) * MB + (64 << 20) <= 1 << 30
    assert 2 * part.SYNC_SECONDS <= 10


def test_a_sync_that_failed_in_the_background_stops_the_conversion(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a lost write once: the next fsync of the file succeeds, and must not be believed."""
    true_fsync, failed = os.fsync, []

    def fsync(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread() and not failed:
            failed.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        true_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputFailed, match="input/output error"):
        consolidate(checkpoint, tmp_path / "out")
    assert failed
    journal = tmp_path / "out/.zeroconsolidate/journal"
    assert not journal.exists() or b'"upto"' not in journal.read_bytes()


def test_time_alone_brings_a_sync(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "SYNC_BYTES", 1 << 40)
    monkeypatch.setattr(part, "SYNC_SECONDS", 0.0)
    records = []
    true_append = Journal.append
    monkeypatch.setattr(Journal, "append", lambda self, r: (records.append(r), true_append(self, r))[1])
    consolidate(checkpoint, tmp_path / "out")
    assert sum("upto" in record for record in records) > 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "bf16"}, "dtype was 'fp32', is 'bf16'"),
        ({"max_shard_size": "6MB"}, "max_shard_size was '5MB', is '6MB'"),
        ({"include": ["layers.*"]}, "include"),
    ],
)
def test_other_options_are_refused_and_named(
    checkpoint: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    stop(checkpoint, tmp_path / "out", 3 * MB)
    with pytest.raises(BadOption, match="restart=True") as refused:
        consolidate(checkpoint, tmp_path / "out", **(OPTIONS | change))
    assert said in str(refused.value)
    consolidate(checkpoint, tmp_path / "straight", **(OPTIONS | change))
    consolidate(checkpoint, tmp_path / "out", restart=True, **(OPTIONS | change))
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_changed_source_is_refused_and_named(tmp_path: Path) -> None:
    root = tmp_path / "checkpoint-5"
    folder = synthetic.write(root, synthetic.values_of(synthetic.shapes_of(6)), stage=3, ranks=2)
    stop(root, tmp_path / "out", 3 * MB)
    touched = folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    os.utime(touched, (1, 1))
    with pytest.raises(BadOption, match=r"rank_1_mp_rank_00_optim_states\.pt was bytes"):
        consolidate(root, tmp_path / "out", **OPTIONS)
    consolidate(root, tmp_path / "out", restart=True, **OPTIONS)
    assert not (tmp_path / "out/.zeroconsolidate").exists()


def test_two_at_once_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from zeroconsolidate import consolidate\n"
        "def hold(done, total): print('writing', flush=True); time.sleep(60)\n"
        "consolidate(sys.argv[1], sys.argv[2], progress=hold)"
    )
    first = subprocess.Popen([sys.executable, "-c", script, checkpoint, tmp_path / "out"], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"writing\n"
        with pytest.raises(OutputExists, match=f"another conversion .*process {first.pid}"):
            consolidate(checkpoint, tmp_path / "out")
        with pytest.raises(OutputExists, match="another conversion"):
            consolidate(checkpoint, tmp_path / "out", restart=True, overwrite=True)
    finally:
        first.kill()
        first.wait()
    consolidate(checkpoint, tmp_path / "out")


def test_two_at_once_in_one_process_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(OutputExists, match="another conversion"):
            consolidate(checkpoint, tmp_path / "out")

    consolidate(checkpoint, tmp_path / "out", progress=second)


@pytest.mark.parametrize("overwrite", [False, True])
def test_half_done_publishing_is_finished(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """Killed between any two renames, the next run finishes; until then no manifest vouches for the directory."""
    true_replace = os.replace
    for survived in range(len(straight)):
        out = tmp_path / f"out-{survived}"
        out.mkdir()
        if overwrite:
            (out / "model.safetensors").write_bytes(b"an old model")
            (out / "model.safetensors.index.json").write_bytes(b"{}")
            (out / "zeroconsolidate.json").write_bytes(b"{}")
        left = iter(range(survived))

        def replace(source: str, target: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            true_replace(source, target)

        monkeypatch.setattr(publish.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, out, overwrite=overwrite, **OPTIONS)
        monkeypatch.setattr(publish.os, "replace", true_replace)
        assert not (out / "zeroconsolidate.json").exists()
        report = consolidate(checkpoint, out, **(OPTIONS if not overwrite else OPTIONS | {"overwrite": True}))
        assert contents(out) == straight
        assert report.files.keys() == straight.keys()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_killed_while_clearing_up(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The model is whole; making it again ends well as long as anything is left to be cleared up."""
    published: list[bool] = []
    left = iter(range(steps))

    def until_killed(true: Callable[..., None], *arguments: object, **how: object) -> None:
        if published and next(left, None) is None:
            raise KeyboardInterrupt
        true(*arguments, **how)

    with monkeypatch.context() as killed:
        for place, name in ((staging_folder.shutil, "rmtree"), (staging_folder, "remove")):
            killed.setattr(place, name, partial(until_killed, getattr(place, name)))
        rename = stage.rename
        killed.setattr(stage, "rename", lambda *a, **k: (rename(*a, **k), published.append(True)))
        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    if steps < 2:
        consolidate(checkpoint, tmp_path / "out", **OPTIONS)
        assert contents(tmp_path / "out") == straight
    else:  # there is nothing of it left but an empty folder
        assert verify(tmp_path / "out").ok


def test_a_published_file_that_was_taken_away_is_noticed(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: str, target: str) -> None:
        if target.endswith("zeroconsolidate.json"):
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(publish.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    (tmp_path / "out/tokenizer.json").unlink()
    with pytest.raises(OutputFailed, match=r"tokenizer\.json has been removed"):
        consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    consolidate(checkpoint, tmp_path / "out", restart=True, **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_overflow_counts_survive(tmp_path: Path) -> None:
    values = synthetic.values_of(synthetic.shapes_of(6))
    for value in values.values():
        value.view(-1)[::1000] = 1e30
    root = tmp_path / "checkpoint-5"
    synthetic.write(root, values, stage=3, ranks=2)
    straight = consolidate(root, tmp_path / "straight", dtype="fp16")
    with pytest.raises(KeyboardInterrupt):
        consolidate(root, tmp_path / "out", dtype="fp16", progress=Interrupt(2 * MB))
    assert consolidate(root, tmp_path / "out", dtype="fp16").overflows == straight.overflows != {}


DRIFTED = FIXTURES / "layouts/tp3_z1_uneven/checkpoint"


def test_warnings_of_drift_survive(tmp_path: Path) -> None:
    straight = consolidate(DRIFTED, tmp_path / "straight", replicas="first")
    assert any("different copies" in warning for warning in straight.warnings)
    stop(DRIFTED, tmp_path / "out", 1, replicas="first", max_shard_size="50GB", digest=None)
    assert consolidate(DRIFTED, tmp_path / "out", replicas="first").warnings == straight.warnings


def test_another_check_is_made_anew(tmp_path: Path) -> None:
    """What was begun without a check does not pass for checked."""
    stop(DRIFTED, tmp_path / "out", 1, replicas="first", max_shard_size="50GB", digest=None)
    with pytest.raises(Disagreement, match=r"replicas=.first"):
        consolidate(DRIFTED, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]
    assert consolidate(DRIFTED, tmp_path / "out", replicas="first").resumed_bytes > 0


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    """Someone trains on into the same folder: half of each file would be of another step."""
    root = tmp_path / "checkpoint-5"
    folder = synthetic.write(root, synthetic.values_of(synthetic.shapes_of(1)), stage=3, ranks=2)

    def train_on(done: int, total: int) -> None:
        if done == total:  # nothing is read any more, which would tell
            os.utime(folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt")

    with pytest.raises(DamagedFile, match="changed while it was being converted; no output was written"):
        consolidate(root, tmp_path / "out", progress=train_on)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]


def test_a_finished_file_is_compared_with_the_plan(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that says other things than the plan gets no final name, and is not kept to be continued."""
    true = convert.execute

    def mistaken(plan: FilePlan, inputs: object, output: Writable, **how: object) -> None:
        true(plan, inputs, output, **how)
        output.write(plan.header.replace(b'"F32"', b'"I32"'), 0)

    monkeypatch.setattr(convert, "execute", mistaken)
    with pytest.raises(PlanBroken, match=r"the tensor was written wrongly; expected F32 .*, got .*I32"):
        consolidate(checkpoint, tmp_path / "out", max_shard_size="5MB")
    assert not (tmp_path / "out").exists()


def test_nothing_worth_continuing_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise OSError("the caller's own trouble")

    with pytest.raises(OSError, match="own trouble"):
        consolidate(checkpoint, tmp_path / "deep/out", progress=fail)
    assert not (tmp_path / "deep").exists()


def test_terminated_from_outside_says_that_it_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from zeroconsolidate import cli; from zeroconsolidate.api import converting as api\n"
        "true = api.consolidate\n"
        "def stop(done, total):\n"
        "    if done > 3 << 20: os.kill(os.getpid(), signal.SIGTERM)\n"
        "api.consolidate = lambda *a, **k: true(*a, **(k | {'progress': stop}))\n"
        "sys.exit(cli.main(['convert', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", script, str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=signals())
    assert done.returncode == 143, done.stderr
    assert "continues from here" in done.stderr
    command = [sys.executable, "-m", "zeroconsolidate", "convert", "--json", *command[3:]]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert report["resumed_bytes"] > 3 * MB


@pytest.mark.parametrize("verb", ["convert", "universal"])
def test_killed_at_random_moments(verb: str) -> None:
    """A handful of what tools/kill_rounds.py does a hundred times."""
    tool = REPOSITORY / "tools/kill_rounds.py"
    done = subprocess.run(
        [sys.executable, tool, "--verb", verb, "--rounds", "6", "--megabytes", "6", "--seed", str(time.time_ns())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
