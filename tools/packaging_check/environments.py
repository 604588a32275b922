"""Environments that have nothing but a wheel: a new venv, no cache, no variables of this machine but for pip's."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_KEPT = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA", "LANG", "LC_")
"""Variables that say how packages are reached here; all others are dropped."""


class Environment:
    """A virtual environment in `folder`, made with the interpreter `python`."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        subprocess.run([python, "-m", "venv", str(folder)], check=True, env=self._variables())
        self.home.mkdir()

    def _variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        return {**kept, "PATH": f"{self.folder}/bin:/usr/bin:/bin", "HOME": str(self.home)}

    def install(self, *what: str, constraints: Path | None = None) -> float:
        """Install without pip's cache; returns how many seconds it took."""
        began = time.monotonic()
        limits = [] if constraints is None else ["-c", str(constraints)]
        self.run("pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check", *limits, *what)
        return time.monotonic() - began

    def installed(self) -> set[str]:
        """Names of the packages that are there."""
        listed = self.run("pip", "list", "--format", "json", "--disable-pip-version-check").stdout
        return {package["name"] for package in json.loads(listed)}

    def run(
        self, *command: str | Path, expect: int = 0, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, from its home. Raises SystemExit if its exit code is another."""
        done = subprocess.run(
            list(map(str, command)), cwd=cwd or self.home, env=self._variables() | variables, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode != expect:
            raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done
