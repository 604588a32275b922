"""A process that has torch, transformers and PEFT imported, and forks for each question that the package asks them.

The package starts a process for a config (`integrations/architecture.py`), for adapters that PEFT merges
(`integrations/peft_modules.py`) and for a model that is to answer (`integrations/answer.py`). Importing takes each of
them seconds, and the rest milliseconds. Here a stand-in for the interpreter has such a script run by a fork of one
process for the whole session, with its own arguments, environment, folder, pipes and exit code. Any other command is
the interpreter's.

    python preloaded.py serve FOLDER            started by the first that asks
    python preloaded.py ask FOLDER ARGUMENT...  what the stand-in does for those scripts
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

SCRIPTS = ("integrations/answer.py", "integrations/architecture.py", "zeroconsolidate.integrations.peft_modules")
FOLDER = "ZEROCONSOLIDATE_TESTS_PRELOADED"
"""The environment variable with the folder where the process is found."""
IDLE_SECONDS = 120
"""After so long without a question the process ends."""


def stand_in(folder: Path) -> Path:
    """Write the stand-in for this interpreter to `folder`."""
    cases = "|".join(f"*{script}*" for script in SCRIPTS)
    python = folder / "python"
    ask = f'"{sys.executable}" -I "{Path(__file__).resolve()}" ask "{folder}" "$@"'
    python.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}) exec {ask} ;;\n*) exec "{sys.executable}" "$@" ;;\nesac\n')
    python.chmod(0o755)
    return python


def python() -> str:
    """The stand-in of this session, or the interpreter itself where there is none."""
    return str(Path(os.environ[FOLDER], "python")) if FOLDER in os.environ else sys.executable


def serve(folder: Path) -> None:
    """Answer until nobody has asked for a while."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "new"))
    for module in ("torch", "transformers", "peft"):
        with suppress(ImportError):
            importlib.import_module(module)
    listener.listen(64)
    os.rename(folder / "new", folder / "socket")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while select.select([listener], [], [], IDLE_SECONDS)[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            answer(connection)
        connection.close()
    os.unlink(folder / "socket")


def answer(connection: socket.socket) -> None:
    """Run one script in a fork of its own; say its exit code. If who asked goes away, it ends too. Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    size = struct.unpack("=I", head)[0]
    text = b""
    while len(text) < size:
        text += connection.recv(size - len(text))
    child = os.fork()
    if child == 0:
        connection.close()
        run(json.loads(text), files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    if connection in select.select([connection, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.sendall(struct.pack("=i", status))
    finally:
        os._exit(0)


def run(asked: dict[str, object], files: list[int]) -> None:
    """Be the process that was asked for. Never returns."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        arguments = [argument for argument in asked["arguments"] if argument != "-P"]
        sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        is_module = arguments[0] == "-m"
        sys.argv = arguments[is_module:]
        runner = runpy.run_module if is_module else runpy.run_path
        runner(sys.argv[0], run_name="__main__", **({"alter_sys": True} if is_module else {}))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def ask(folder: Path, arguments: list[str]) -> int:
    """Have a script run; its exit code."""
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(asked).encode()
    connection = connect(folder)
    socket.send_fds(connection, [struct.pack("=I", len(text))], [0, 1, 2])
    connection.sendall(text)
    code = connection.recv(4)
    return struct.unpack("=i", code)[0] if code else 1


def connect(folder: Path) -> socket.socket:
    """To the process, which is started if it is not there."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(folder / "socket"))
        except OSError:
            (folder / "new").unlink(missing_ok=True)
            with (folder / "log").open("ab") as log:
                started = subprocess.Popen(
                    [sys.executable, "-P", str(Path(__file__).resolve()), "serve", str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            (folder / "pid").write_text(str(started.pid))
            ended = os.pidfd_open(started.pid)
            while not (folder / "socket").exists():
                if select.select([ended], [], [], 0.05)[0]:
                    raise SystemExit((folder / "log").read_text()) from None
            connection.connect(str(folder / "socket"))
        return connection


def end(folder: Path) -> None:
    """End the process, if it was started, and take `folder` away."""
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
    shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        code = ask(Path(sys.argv[2]), sys.argv[3:])
        if code < 0:
            os.kill(os.getpid(), -code)
        sys.exit(code)
