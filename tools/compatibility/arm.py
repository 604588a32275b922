"""A Python for 64-bit Arm, and an emulator to run it: for programs that are to be had for no other machine.

PyPI's builds of torch for x86-64 need several gigabytes of CUDA; those for Arm did not, up to 2.10.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EMULATOR = "qemu-aarch64-static"
PYTHON = "3.11"
"""Debian 12's, which has it for Arm as well."""
LIBRARIES = ("libstdc++6", "libgomp1", "libgfortran5")
PIP_FLAGS = (
    "--only-binary=:all:",
    f"--python-version={PYTHON}",
    *(f"--platform={tag}_aarch64" for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")),
)


def interpreter(folder: Path) -> tuple[Path, Path] | str:
    """Put Debian's packages into `folder`; returns what runs its Python and where packages go, or why it cannot be."""
    if shutil.which(EMULATOR) is None:
        return "there is no emulator: apt-get install qemu-user-static"
    root, state, archives = folder / "root", folder / "apt", folder / "apt/cache/archives"
    for each in (root, state / "lists/partial", archives / "partial"):
        each.mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures::": "arm64", "Dir::State": state,
        "Dir::State::status": state / "status", "Dir::State::lists": state / "lists", "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root", "APT::Install-Recommends": "false",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    wanted = [f"python{PYTHON}", f"python{PYTHON}-minimal", *LIBRARIES]
    for command in (["update"], ["install", "--yes", "--download-only", *wanted]):
        done = subprocess.run(["apt-get", *options, "-qq", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"apt-get {command[0]}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    for package in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    # A script, so that a process which starts its own interpreter again is emulated, too.
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {EMULATOR} -L {root} {root}/usr/bin/python{PYTHON} "$@"\n')
    python.chmod(0o755)
    return python, root / "usr/lib/python3/dist-packages"


def install(packages: tuple[str, ...], flags: list[str], into: Path) -> subprocess.CompletedProcess[str]:
    """Packages for Arm, by the pip of the machine."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", *PIP_FLAGS]
    return subprocess.run(
        [*command, *flags, "--target", into, *packages], capture_output=True, text=True, check=False, env=os.environ
    )
