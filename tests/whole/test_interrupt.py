"""Ctrl-C, SIGTERM and SIGHUP, whenever they come, leave no file under a final name; ignored, they do nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from command import INTERRUPTED, environment, python, signals, zeroconsolidate
from fixtures import FIXTURES
from folders import final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("moment", [("open", 3), ("pwrite", 1), ("pwrite", 2), ("fsync", 1), ("fsync", 2)])
def test_a_signal_at_a_chosen_moment(tmp_path: Path, number: signal.Signals, moment: tuple[str, int]):
    arguments = _conversion(tmp_path / "out")
    done = python(INTERRUPTED, *moment, int(number), *arguments, preexec_fn=signals())
    assert done.returncode == 128 + number, done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not final(tmp_path / "out")
    # Whoever asks again gets the model.
    assert zeroconsolidate(*arguments).returncode == 0
    assert "model.safetensors.index.json" in final(tmp_path / "out")


@pytest.mark.parametrize("number", [*ENDING, signal.SIGKILL])
@pytest.mark.parametrize(
    "moment", [("mkdir", 1), ("preadv", 1), ("pwrite", 5), ("fsync", 3), ("replace", 1), ("replace", 2)]
)
def test_a_signal_from_outside(
    tmp_path: Path, straight: dict[str, bytes], number: signal.Signals, moment: tuple[str, int]
):
    """It comes while the command waits in a call, before the call does anything."""
    with held(*moment, _conversion(tmp_path / "out")) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    assert "Traceback" not in errors
    # Between two renames some names are final, but nothing vouches for them.
    assert len(final(tmp_path / "out")) == (1 if moment == ("replace", 2) else 0)
    assert zeroconsolidate(*_conversion(tmp_path / "out")).returncode == 0
    assert _contents(tmp_path / "out") == straight


@pytest.mark.parametrize("number", ENDING)
def test_an_ignored_signal_stays_ignored(tmp_path: Path, straight: dict[str, bytes], number: signal.Signals):
    """As under `nohup`, or in the background of a shell without job control."""
    ignored = {number.name: signal.SIG_IGN}
    with held("pwrite", 2, _conversion(tmp_path / "out"), **ignored) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert _contents(tmp_path / "out") == straight


@pytest.mark.parametrize("number", ENDING)
def test_only_that_signal_is_ignored(tmp_path: Path, number: signal.Signals):
    ignored = {other.name: signal.SIG_IGN for other in ENDING if other != number}
    with held("pwrite", 2, _conversion(tmp_path / "out"), **ignored) as process:
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not final(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_handlers_of_a_program_that_calls_the_command_are_left_alone(tmp_path: Path, number: signal.Signals):
    own = f"import signal; signal.signal({int(number)}, lambda *_: print('own handler', flush=True))\n"
    done = python(own + INTERRUPTED, "pwrite", 2, int(number), *_conversion(tmp_path / "out"), preexec_fn=signals())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("own handler\n")


def test_afterwards_the_signals_do_what_they_did(tmp_path: Path):
    program = (
        "import signal, sys; from zeroconsolidate import cli\n"
        "before = [signal.getsignal(number) for number in signal.valid_signals()]\n"
        "assert cli.main(sys.argv[1:]) == 0\n"
        "assert [signal.getsignal(number) for number in signal.valid_signals()] == before\n"
    )
    done = python(program, *_conversion(tmp_path / "out"), preexec_fn=signals(SIGHUP=signal.SIG_IGN))
    assert done.returncode == 0, done.stderr


def test_a_terminal_that_hangs_up(tmp_path: Path):
    """Nothing can be said any more; what was written is kept all the same."""
    ours, theirs = os.openpty()
    with held("pwrite", 5, _conversion(tmp_path / "out"), stderr=theirs) as process:
        os.close(theirs)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    again = zeroconsolidate(*_conversion(tmp_path / "out"), "--json")
    assert json.loads(again.stdout)["resumed_bytes"] > 0


@contextmanager
def held(
    function: str, call: int, arguments: list[object], *, stderr: int = subprocess.PIPE, **dispositions: signal.Handlers
) -> Iterator[subprocess.Popen[str]]:
    """The command, waiting in a call; it goes on when stdin is closed, as `communicate` does."""
    command = [sys.executable, "-c", HELD, function, str(call), *map(str, arguments)]
    with subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=signals(**dispositions),
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process


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
        INTERRUPTED,
        *("fsync", 2, int(signal.SIGTERM)),
        *("convert", source, out, "--overwrite", "--names", "stored"),
        preexec_fn=signals(),
    )
    assert done.returncode == 143
    assert _contents(out) == before
