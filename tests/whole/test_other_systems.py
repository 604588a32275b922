"""What Linux has and macOS has not is never needed; on Windows a sentence says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command import refusal, zeroconsolidate
from fixtures import FIXTURES
from lacking import command_lacking, on_windows

if TYPE_CHECKING:
    from pathlib import Path

CALLS = [
    ("os", name)
    for name in (
        "copy_file_range", "posix_fadvise", "posix_fallocate", "preadv", "pwritev", "sendfile", "splice",
        "sched_getaffinity", "memfd_create", "O_TMPFILE", "O_PATH", "O_DIRECT", "POSIX_FADV_DONTNEED", "eventfd",
    )
]  # fmt: skip
"""Of what the package could use of `os`, all that Python on macOS has not."""

MACOS = """
import builtins, errno, sys
sys.platform = "darwin"

def refused(*_):
    raise ValueError("current limit exceeds maximum limit")

resource.setrlimit = refused
calls = fcntl.ioctl

def ioctl(*arguments):
    raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

fcntl.ioctl = ioctl
before = builtins.open

def opened(file, *arguments, **how):
    if str(file).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", file)
    return before(file, *arguments, **how)

builtins.open = opened
"""


def files(folder: Path) -> dict[str, bytes]:
    """What was written, but for the manifest, which has times."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name != "zeroconsolidate.json"}


@pytest.mark.parametrize(
    ("case", "command"),
    [
        ("z2_bf16", ["convert", "--reflink", "auto"]),
        ("z3_w4", ["convert", "--dtype", "bf16", "--workers", "2", "--digest", "sha256", "--max-shard-size", "2KB"]),
        ("trainer_zero3_tied", ["convert", "--optimizer", "--check"]),
        ("z3_bf16", ["universal"]),
    ],
)
def test_without_the_calls_that_macos_has_not(case: str, command: list[str], tmp_path: Path) -> None:
    verb, *options = command
    checkpoint = FIXTURES / case / "checkpoint"
    done = command_lacking(_there(), verb, checkpoint, tmp_path / "out", *options, before=MACOS)
    assert done.returncode == 0, done.stderr
    assert zeroconsolidate(verb, checkpoint, tmp_path / "linux", *options).returncode == 0
    assert files(tmp_path / "out") == files(tmp_path / "linux")
    for paths in ([tmp_path / "out"], [tmp_path / "out", checkpoint], [checkpoint]):
        checked = command_lacking(_there(), "verify", *paths, before=MACOS)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_one_call_at_a_time(tmp_path: Path) -> None:
    """Each is asked for by itself: one that is there says nothing of another."""
    checkpoint = FIXTURES / "z2_bf16/checkpoint"
    assert zeroconsolidate("convert", checkpoint, tmp_path / "linux").returncode == 0
    for call in [("os", "copy_file_range"), ("os", "posix_fadvise"), ("os", "preadv"), ("os", "O_TMPFILE")]:
        done = command_lacking([call], "convert", checkpoint, tmp_path / call[1])
        assert done.returncode == 0, (call, done.stderr)
        assert files(tmp_path / call[1]) == files(tmp_path / "linux")


def test_who_insists_on_cloning_is_told(tmp_path: Path) -> None:
    done = command_lacking(
        _there(), "convert", FIXTURES / "z2_bf16/checkpoint", tmp_path / "out", "--reflink", "always", before=MACOS
    )
    assert "cannot share blocks with the checkpoint: this system has no call for it" in refusal(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--version"], ["inspect", "x"], ["convert", "x", "y"], []])
def test_windows_gets_a_sentence(arguments: list[str]) -> None:
    done = on_windows("import sys\nfrom zeroconsolidate.cli import main\nsys.exit(main(sys.argv[1:]))", *arguments)
    assert refusal(done) == (
        "zeroconsolidate runs on Linux and macOS, not on Windows itself; install and run it in the Windows Subsystem "
        "for Linux: wsl --install"
    )


def test_functions_say_it_on_windows_too() -> None:
    code = (
        "import zeroconsolidate\n"
        "print(zeroconsolidate.__version__)\n"
        "for name in ('consolidate', 'Report', 'open_checkpoint'):\n"
        "    try:\n"
        "        getattr(zeroconsolidate, name)\n"
        "    except zeroconsolidate.UnsupportedSystem as error:\n"
        "        print(isinstance(error, ImportError), error.message)"
    )
    done = on_windows(code)
    assert done.stdout.splitlines()[1:] == [
        "True zeroconsolidate runs on Linux and macOS, not on Windows itself"
    ] * 3, done.stderr  # fmt: skip


def _there() -> list[tuple[str, str]]:
    import os

    return [(module, name) for module, name in CALLS if hasattr(os, name)]
