"""Runs the real command in a process of its own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import preloaded

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with the package under test and the modules beside this one importable."""
    found = [str(REPOSITORY), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, found))
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | changes


PROGRAM = """
import sys
sys.executable = {python!r}
from zeroconsolidate.cli import main
sys.exit(main())
"""


def zeroconsolidate(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """The command with these arguments; stdout and stderr are captured as text."""
    # As `-m zeroconsolidate`, but for what it asks transformers and PEFT (preloaded.py).
    command = [sys.executable, "-c", PROGRAM.format(python=preloaded.python()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False, **how)


def python(code: str, *arguments: object, seconds: float = 120, **how: Any) -> subprocess.CompletedProcess[str]:
    """A Python program with these arguments in `sys.argv[1:]`, which may take so many seconds."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, **({"env": environment()} | how)
    )


WITHOUT_PRIVILEGES = """
import ctypes, os, sys
if os.geteuid() == 0:  # root reads what it may not, by its capabilities: without them it is a user as any other
    version_3, no_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3, no_capabilities) == 0
from zeroconsolidate.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command as a user who may do nothing but what the modes of files say."""


def signals(**dispositions: signal.Handlers) -> Callable[[], None]:
    """For `preexec_fn`: the child starts with these, by signals' names, and with the default for others that end it.

    Without it a child inherits what this process was started with: a shell that starts a job in the background ignores
    SIGINT for it, and `nohup` SIGHUP.
    """
    chosen = {name: dispositions.get(name, signal.SIG_DFL) for name in ("SIGINT", "SIGTERM", "SIGHUP")}

    def set_them() -> None:
        for name, disposition in chosen.items():
            signal.signal(signal.Signals[name], disposition)

    return set_them


def refusal(process: subprocess.CompletedProcess[str]) -> str:
    """The error with which the command refused, as one sentence; asserts that nothing else was printed."""
    assert process.returncode == 2, process
    assert process.stdout == "", process.stdout
    assert "Traceback" not in process.stderr, process.stderr
    return sentence(process.stderr)


def sentence(printed: str) -> str:
    """A printed error as `str(error)` has it: its lines put together, but for the table of what is lost, which is
    indented twice."""
    first, *others = printed.splitlines()
    assert first.startswith("zeroconsolidate: "), printed
    assert all(line.startswith("  ") for line in others), printed
    parts = [line.removeprefix("  ") for line in others if not line.startswith("    ")]
    places = [f" ({part})" for part in parts if part.startswith("at ")]
    said = first.removeprefix("zeroconsolidate: ")
    for before, part in itertools.pairwise(["", *parts]):
        if not part.startswith("at "):
            said += f"{',' if before.startswith('expected ') and part.startswith('got ') else ';'} {part}"
    return said + "".join(places)


def contents(*folders: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below, with times and bytes: equal before and after if nothing was touched."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


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
