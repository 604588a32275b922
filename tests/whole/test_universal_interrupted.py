"""A universal checkpoint whose writing was interrupted, even killed, is continued, with the bytes of a straight run."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import synthetic
from command import INTERRUPTED, python, signals, zeroconsolidate
from fixtures import FIXTURES
from folders import contents, final
from interrupting import Interrupt

from zeroconsolidate import universal
from zeroconsolidate.errors import BadOption, DamagedFile, OutputFailed
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20
SOURCE = FIXTURES / "z3_groups" / "checkpoint"


@pytest.fixture(scope="module", params=[2, 3])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("big") / "checkpoint-5"
    values = synthetic.values_of(synthetic.shapes_of(6))
    synthetic.write(root, values, stage=request.param, ranks=3, moments=True)
    return root


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("straight") / "out"
    universal(checkpoint, out, digest="sha256")
    return contents(out)


@pytest.mark.parametrize("sync_bytes", [MB // 3, 1 << 40])
def test_it_goes_on_where_it_was_interrupted(
    checkpoint: Path, straight: dict[str, bytes], tmp_path: Path, sync_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    """Again and again, in files and between them; large ones are continued in their middle."""
    monkeypatch.setattr(part, "SYNC_BYTES", sync_bytes)
    total = sum(map(len, straight.values()))
    for after in range(MB // 2, total, total // 7):
        with pytest.raises(KeyboardInterrupt):
            universal(checkpoint, tmp_path / "out", digest="sha256", progress=Interrupt(after))
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]
    report = universal(checkpoint, tmp_path / "out", digest="sha256")
    assert report.resumed_bytes > total // 2
    assert contents(tmp_path / "out") == straight


def test_other_work_is_not_continued(checkpoint: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        universal(checkpoint, tmp_path / "out", progress=Interrupt(2 * MB))
    with pytest.raises(BadOption, match="interrupted conversion with other options or input"):
        universal(checkpoint, tmp_path / "out", digest="sha256")
    with pytest.raises(BadOption, match="interrupted conversion with other options or input"):
        universal(SOURCE, tmp_path / "out")
    universal(SOURCE, tmp_path / "out", restart=True)
    assert (tmp_path / "out" / "latest_universal").read_text() == "global_step2_universal"


def test_a_checkpoint_that_changes_meanwhile(checkpoint: Path, tmp_path: Path):
    path = next(checkpoint.glob("*/*pp_rank_1_*optim_states.pt"))
    before = path.stat()

    def touch(done: int, total: int) -> None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    try:
        with pytest.raises(DamagedFile, match="was changed while it was being"):
            universal(checkpoint, tmp_path / "out", progress=touch)
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not final(tmp_path / "out")


def test_a_disk_that_is_too_small_is_refused_at_once(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    true = os.statvfs

    def small(path: object) -> os.statvfs_result:
        found = true(path)
        blocks = 4 * MB // found.f_frsize
        return os.statvfs_result((*found[:2], blocks, blocks, blocks, *found[5:]))

    monkeypatch.setattr(os, "statvfs", small)
    with pytest.raises(OutputFailed, match="too little room"):
        universal(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


MOMENTS = [("pwrite", 2), ("pwrite", 60), ("fsync", 3), ("fsync", 50), ("replace", 1), ("replace", 40)]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_at_any_moment(number: signal.Signals, moment: tuple[str, int], tmp_path: Path):
    arguments = ["universal", SOURCE, tmp_path / "out"]
    assert zeroconsolidate("universal", SOURCE, tmp_path / "straight").returncode == 0
    done = python(INTERRUPTED, *moment, int(number), *arguments, preexec_fn=signals())
    assert done.returncode in (128 + number, -number), done
    assert "latest_universal" not in final(tmp_path / "out")
    assert zeroconsolidate(*arguments).returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
