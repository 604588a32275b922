"""Optimizer states whose writing was interrupted, even killed, are continued, with the bytes of a straight run."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import synthetic
from command import INTERRUPTED, python, signals
from folders import contents, final
from interrupting import Interrupt

from zeroconsolidate import consolidate
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20


@pytest.fixture(scope="module", params=[2, 3])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("big") / "checkpoint-5"
    synthetic.write(root, synthetic.values_of(synthetic.shapes_of(6)), stage=request.param, ranks=3, moments=True)
    return root


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("straight") / "out"
    consolidate(checkpoint, out, optimizer=True, digest="sha256", max_shard_size="4MB")
    return contents(out)


def test_it_goes_on_where_it_was_interrupted(
    checkpoint: Path, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(part, "SYNC_BYTES", MB // 3)
    how = {"optimizer": True, "digest": "sha256", "max_shard_size": "4MB"}
    total = sum(len(data) for name, data in straight.items() if name.endswith(".safetensors"))
    assert sum(name.startswith("optimizer/") for name in straight) > 4
    for after in range(MB // 2, total, total // 7):
        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, tmp_path / "out", progress=Interrupt(after), **how)  # type: ignore[arg-type]
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]
    report = consolidate(checkpoint, tmp_path / "out", **how)  # type: ignore[arg-type]
    assert report.resumed_bytes > total // 2
    assert contents(tmp_path / "out") == straight


@pytest.mark.parametrize(("function", "call"), [("pwrite", 20), ("fsync", 3), ("replace", 1), ("replace", 3)])
def test_killed_and_run_again(checkpoint: Path, straight: dict[str, bytes], tmp_path: Path, function: str, call: int):
    """Whatever was there of it: no file has a name before it is complete."""
    out = tmp_path / "out"
    command = ["convert", checkpoint, out, "--optimizer", "--digest", "sha256", "--max-shard-size", "4MB", "--quiet"]
    done = python(INTERRUPTED, function, call, int(signal.SIGKILL), *command, preexec_fn=signals())
    if done.returncode == 0:
        pytest.skip("the system copies in another way here")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert all(straight[name] == data for name, data in contents(out).items() if not name.startswith(".zero"))
    consolidate(checkpoint, out, optimizer=True, digest="sha256", max_shard_size="4MB")
    assert contents(out) == straight
    assert final(out)
