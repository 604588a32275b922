"""From a case to its fixture folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from shared.folders import COPIED_SCRIPTS, RECORD, digests, size_bytes

from . import ranks
from .assemble import Expected, assemble
from .patches import PATCHES

if TYPE_CHECKING:
    from .case import Case

LIMIT_BYTES = 200_000
"""What a case may weigh in the repository."""


def make(case: Case, target: Path, *, old: Path | None, timeout: float) -> int:
    """Train, assemble, write `target`; returns its size in bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        train(case, work, old=old, timeout=timeout)
        expected = assemble(case, work / "live")
        checkpoint = work / "checkpoint"
        if case.universal is not None:
            checkpoint = to_universal(case, work, timeout=timeout)
        for name in COPIED_SCRIPTS:
            (checkpoint / name).unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(checkpoint, target / "checkpoint")
        return finish(case, target, expected, versions(case, old))


def finish(case: Case, target: Path, expected: Expected, packages: dict[str, str], **more: Any) -> int:
    """Write the expected tensors and the provenance beside `target`/checkpoint; returns the folder's size."""
    save_file(expected.weights, target / "expected.safetensors", metadata={"format": "pt"})
    if expected.moments:
        save_file(expected.moments, target / "expected_moments.safetensors", metadata={"format": "pt"})
    provenance = {
        "case": case.name,
        "description": case.about,
        "command": f"python tools/make_layout_fixtures.py {case.name}",
        "versions": packages,
        "dtype": case.dtype,
        "zero_stage": case.stage,
        "parallel": {"world": case.world, "dp": case.dp, "tp": case.tp, "pp": case.pp, "ep": case.ep},
        "stand_ins": {name: (PATCHES[name].__doc__ or "").partition("\n")[0] for name in case.patches},
        "optimizer_class": expected.facts["optimizer_class"],
        "ds_config": expected.facts["ds_config"],
        "steps": case.steps,
        "replicas_differ": case.drift,
        "lagging_masters": expected.lagging,
        "ties": expected.ties,
        "frozen": expected.frozen,
        "buffers": expected.buffers,
        **more,
        "sha256": digests(target),
    }
    (target / RECORD).write_text(json.dumps(provenance, indent=1) + "\n")
    size = size_bytes(target)
    if size > LIMIT_BYTES:
        raise ValueError(f"the folder weighs {size} bytes, more than {LIMIT_BYTES}")
    return size


def versions(case: Case, old: Path | None) -> dict[str, str]:
    packages = ["torch", "deepspeed", "numpy"] + (["transformers"] if case.model == "mixtral" else [])
    packages += ["bitsandbytes"] if case.optimizer == "adamw_8bit" else []
    found = {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
    if case.deepspeed is not None and old is not None:
        found["deepspeed"] = case.deepspeed
    return found


def train(case: Case, work: Path, *, old: Path | None, timeout: float) -> None:
    """Run the ranks, in forks of this process or under an older release in one of its own."""
    if case.deepspeed is None:
        ranks.run(case, work, timeout)
        return
    if old is None:
        raise ValueError(f"{case.name} needs --old-deepspeed with a folder {case.deepspeed} in it")
    paths = [str(Path(__file__).resolve().parents[1]), str(old / case.deepspeed)]
    if tuple(int(part) for part in case.deepspeed.split(".")) < (0, 12):
        paths.append(str(old / "pydantic1"))
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "LAYOUTS_OLD_DEEPSPEED": case.deepspeed,
        "TORCH_EXTENSIONS_DIR": str(old / f"extensions-{case.deepspeed}"),
    }
    run([sys.executable, "-m", "layouts.ranks", case.name, str(work), str(timeout)], env=env, timeout=timeout + 60)


def to_universal(case: Case, work: Path, *, timeout: float) -> Path:
    """Run DeepSpeed's ds_to_universal over the checkpoint; returns a root that holds only its output."""
    tag = (work / "checkpoint" / "latest").read_text().strip()
    root = work / "universal"
    root.mkdir()
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--num_extract_workers", "1"]
    command += ["--num_merge_workers", "1", "--input_folder", str(work / "checkpoint" / tag)]
    command += ["--output_folder", str(root / f"{tag}_universal"), *(case.universal or ())]
    run(command, env=dict(os.environ), timeout=timeout)
    return root


def run(command: list[str], *, env: dict[str, str], timeout: float) -> None:
    """Raises RuntimeError with the end of the output when the command fails or takes too long."""
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # Its forks would live on, and hold the cores.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise RuntimeError(f"no end after {timeout:.0f} s") from None
    if process.returncode:
        raise RuntimeError("\n".join(output.splitlines()[-30:]))
