"""Ctrl-C and SIGTERM, whenever they come, leave no file under a final name."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import environment, python, zeroconsolidate
from fixtures import FIXTURES
from folders import final

if TYPE_CHECKING:
    from pathlib import Path

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

HELD = """
import os, sys
from zeroconsolidate import cli

function, call = sys.argv[1], int(sys.argv[2])
before, calls = getattr(os, function), 0

def held(*arguments, **how):
    global calls
    calls += 1
    if calls == call:
        print("held", flush=True)
        os.read(0, 1)  # until the signal, or, had it come before, until stdin is closed after it
    return before(*arguments, **how)

setattr(os, function, held)
sys.exit(cli.main(sys.argv[3:]))
"""
"""The command, which waits when it calls a function of `os` for the n-th time, and says so."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [("open", 3), ("pwrite", 1), ("pwrite", 2), ("fsync", 1), ("fsync", 2)])
def test_a_signal_at_a_chosen_moment(tmp_path: Path, number: signal.Signals, moment: tuple[str, int]):
    arguments = _conversion(tmp_path / "out")
    done = python(INTERRUPTED, *moment, int(number), *arguments)
    assert done.returncode == 128 + number, done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not final(tmp_path / "out")
    # Whoever asks again gets the model.
    assert zeroconsolidate(*arguments).returncode == 0
    assert "model.safetensors.index.json" in final(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "moment", [("mkdir", 1), ("preadv", 1), ("pwrite", 5), ("fsync", 3), ("replace", 1), ("replace", 2)]
)
def test_a_signal_from_outside(
    tmp_path: Path, straight: dict[str, bytes], number: signal.Signals, moment: tuple[str, int]
):
    """It comes while the command waits in a call, before the call does anything."""
    command = [sys.executable, "-c", HELD, *map(str, moment), *map(str, _conversion(tmp_path / "out"))]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    assert "Traceback" not in errors
    # Between two renames some names are final, but nothing vouches for them.
    assert len(final(tmp_path / "out")) == (1 if moment == ("replace", 2) else 0)
    assert zeroconsolidate(*_conversion(tmp_path / "out")).returncode == 0
    assert _contents(tmp_path / "out") == straight


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a conversion makes that nobody interrupts."""
    out = tmp_path_factory.mktemp("straight") / "out"
    assert zeroconsolidate(*_conversion(out)).returncode == 0
    return _contents(out)


def _contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in final(out)}


def _conversion(output: Path) -> list[object]:
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    return ["convert", source, output, "--dtype", "bf16", "--max-shard-size", "20KB", "--names", "stored"]


def test_an_interrupted_overwrite_leaves_the_old_model(tmp_path: Path):
    out = tmp_path / "out"
    assert zeroconsolidate("convert", FIXTURES / "z2_bf16" / "checkpoint", out).returncode == 0
    before = _contents(out)
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    done = python(
        INTERRUPTED, "fsync", 2, int(signal.SIGTERM), "convert", source, out, "--overwrite", "--names", "stored"
    )
    assert done.returncode == 143
    assert _contents(out) == before
