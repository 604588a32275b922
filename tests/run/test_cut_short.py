"""A file that another process cuts short while it is read is an error that names it, and not the end of this process.

Each in a process of its own, which a mapping of the file would let die of SIGBUS.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

CASES = {
    "runs": """
from zeroconsolidate.run.local import LocalFiles
true = os.fstat
def fstat(fd):
    status = true(fd)
    os.truncate(path, 5)  # after the size has been asked for
    return status
with LocalFiles() as files:
    files.opened(path)
    os.fstat = fstat
    files.read_runs(path, 0, run_bytes=8, step_bytes=STEP, count=20, buffer=memoryview(bytearray(160)))
""",
    "known": """
from zeroconsolidate.archive.places import looks
from zeroconsolidate.run.local import LocalFiles
with LocalFiles(known=looks([path])) as files:
    files.opened(path)
    os.truncate(path, 5)
    files.read_runs(path, 0, run_bytes=8, step_bytes=4096, count=20, buffer=memoryview(bytearray(160)))
""",
    "pickles": """
from zeroconsolidate.archive import legacy
true = legacy.Interpreter
def interpreter(*arguments):
    os.truncate(path, 5)  # after it has been opened, and its size asked for
    return true(*arguments)
legacy.Interpreter = interpreter
legacy.open_container(path)
""",
}
HEAD = """
import os, sys
from zeroconsolidate.errors import DamagedFile
path = sys.argv[1]
try:
"""
TAIL = """
except DamagedFile as error:
    print(error)
"""


def said(case: str, path: Path, **values: int) -> str:
    """What the error says, if the process lives to say it."""
    code = CASES[case]
    for name, value in values.items():
        code = code.replace(name, str(value))
    indented = code.replace("\n", "\n    ")
    done = subprocess.run([sys.executable, "-c", f"{HEAD}{indented}{TAIL}", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("step", [16, 4096, 1 << 15])
def test_while_runs_are_read(step: int, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(step * 20))
    expected = step * 19 + 8
    assert said("runs", tmp_path / "in", STEP=step) == (
        f"the file ends too early; expected at least {expected} bytes, got 5 (at {tmp_path}/in)\n"
    )


def test_a_file_that_was_known_has_changed(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(4096 * 20))
    assert said("known", tmp_path / "in").startswith("the file was changed while it was being read;")


def test_while_pickles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert "the file ends" in said("pickles", path)
