"""Ctrl-C and SIGTERM, whenever they come, leave no file under a final name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import environment, python, zeroconsolidate
from test_bad_input import final
from test_memory import MIB, sparse_checkpoint

INTERRUPTED = """
import os, signal, sys
from zeroconsolidate import cli

function, call, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before, calls = getattr(os, function), 0

def signalled(*arguments, **how):
    global calls
    calls += 1
    if calls == call:
        os.kill(os.getpid(), number)
    return before(*arguments, **how)

setattr(os, function, signalled)
sys.exit(cli.main(sys.argv[4:]))
"""
"""The command, sent a signal by itself when it calls a function of `os` for the n-th time."""

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [("open", 3), ("pwrite", 1), ("pwrite", 2), ("fsync", 1), ("fsync", 2)])
def test_a_signal_at_a_chosen_moment(tmp_path: Path, number: signal.Signals, moment: tuple[str, int]):
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    arguments = [
        "convert",
        source,
        tmp_path / "out",
        "--dtype",
        "bf16",
        "--max-shard-size",
        "20KB",
        "--names",
        "stored",
    ]
    done = python(INTERRUPTED, *moment, int(number), *arguments)
    assert done.returncode == 128 + number, done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not final(tmp_path / "out")
    # Whoever asks again gets the model.
    assert zeroconsolidate(*arguments).returncode == 0
    assert "model.safetensors.index.json" in final(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_seconds", [0.1, 0.25, 0.4])
def test_a_signal_from_outside(tmp_path: Path, number: signal.Signals, delay_seconds: float):
    root = sparse_checkpoint(tmp_path / "run", 3, numel=96 * MIB // 4)
    command = [sys.executable, "-m", "zeroconsolidate", "convert", root, tmp_path / "out", "--dtype", "bf16"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay_seconds)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    # The signal may come when all is done, even when the interpreter is on its way out: whole or not there.
    if process.returncode == 0 or "model.safetensors" in final(tmp_path / "out"):
        assert {"model.safetensors", "zeroconsolidate.json"} <= set(final(tmp_path / "out"))
        return
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert not final(tmp_path / "out")


def test_an_interrupted_overwrite_leaves_the_old_model(tmp_path: Path):
    out = tmp_path / "out"
    assert zeroconsolidate("convert", FIXTURES / "z2_bf16" / "checkpoint", out).returncode == 0
    before = {name: (out / name).read_bytes() for name in final(out)}
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    done = python(
        INTERRUPTED, "fsync", 2, int(signal.SIGTERM), "convert", source, out, "--overwrite", "--names", "stored"
    )
    assert done.returncode == 143
    assert {name: (out / name).read_bytes() for name in final(out)} == before
