"""A row -> an environment of its own, in which its probe is run; it is removed afterwards."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import zeroconsolidate

from . import arm

if TYPE_CHECKING:
    from .matrix import Row

HERE = Path(__file__).resolve().parent


def converted(folder: Path) -> Path:
    """Models, an adapter and a merged model, converted here: what probes load. `padded` is a model as it is cloned,
    with spaces behind the headers."""
    import pytest

    from .matrix import FIXTURES, PADDED, PADDED_OF

    sys.path.append(str(FIXTURES.parent / "support"))
    from disks import pretend

    models = FIXTURES / "models"
    names = ("llm_tied_z3", "llm_untied_z2", "embedder_z2", "m3_z3", "reranker_z2", "mixtral_z2", "qwen3_moe_z2")
    for name in names:
        zeroconsolidate.consolidate(models / name / "checkpoint", folder / name)
    zeroconsolidate.consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", folder / "trainer")
    zeroconsolidate.consolidate(models / "lora_z3/checkpoint", folder / "adapter")
    base = models / "_bases/llama"
    zeroconsolidate.consolidate(models / "lora_z3/checkpoint", folder / "merged", lora="merge", base=base)
    zeroconsolidate.consolidate(models / "embedder_z2/checkpoint", folder / "sentence", sentence_transformers="cls")
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, 4096)
        zeroconsolidate.consolidate(models / PADDED_OF / "checkpoint", folder / PADDED, reflink="always")
    return folder


def tried(row: Row, folder: Path, models: Path) -> tuple[bool, str, str]:
    """Whether it works, what was seen or what went wrong, and with which Python."""
    try:
        python = _made(row, folder)
        if isinstance(python, str):
            return False, f"could not be installed: {python}", platform.python_version()
        done = subprocess.run(
            [python, HERE / "probes.py", row.program, row.version, models], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["nothing"]
        code = "import platform; print(platform.python_version())"
        version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        return done.returncode == 0, said[-1], version + (", Arm (emulated)" if row.on_arm else "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(row: Row, folder: Path) -> Path | str:
    """The interpreter of a new environment, or why there is none. Who needs nothing gets this one."""
    if not row.needs:
        return Path(sys.executable)
    if row.on_arm:
        made = arm.interpreter(folder)
        if isinstance(made, str):
            return made
        python, site = made
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
    for packages, flags in ((row.needs, []), (row.alone, ["--no-deps"])):
        if packages and row.on_arm:
            done = arm.install(packages, flags, site)
        elif packages:
            command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *flags, *packages]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        else:
            continue
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["?"])[-1]
    if row.with_torch:
        # Behind its own packages on the path: what the environment has itself is not taken from there.
        own = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
                             capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
        (Path(own) / "torch-of-another.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python
