"""From a case to its fixture folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from .assemble import Expected, assemble

if TYPE_CHECKING:
    from .case import Case

LIMIT_BYTES = 200_000
"""What a case may weigh in the repository."""

COPIED_SCRIPTS = ("zero_to_fp32.py", "zero_to_torch.py")
"""DeepSpeed puts these beside every checkpoint; they are its code, not its data."""


def make(case: Case, target: Path, *, old: Path | None, timeout: float, loud: bool) -> int:
    """Train, assemble, write `target`; returns its size in bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        train(case, work, old=old, timeout=timeout, loud=loud)
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
    files = sorted(path for path in target.rglob("*") if path.is_file() and path.name != "provenance.json")
    provenance = {
        "case": case.name,
        "description": case.about,
        "command": f"python tools/make_layout_fixtures.py {case.name}",
        "versions": packages,
        "dtype": case.dtype,
        "zero_stage": case.stage,
        "parallel": {"world": case.world, "dp": case.dp, "tp": case.tp, "pp": case.pp, "ep": case.ep},
        "optimizer_class": expected.facts["optimizer_class"],
        "ds_config": expected.facts["ds_config"],
        "steps": case.steps,
        "replicas_differ": case.drift,
        "ties": expected.ties,
        "frozen": expected.frozen,
        "buffers": expected.buffers,
        **more,
        "sha256": {str(path.relative_to(target)): digest(path) for path in files},
    }
    (target / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        raise ValueError(f"the folder weighs {size} bytes, more than {LIMIT_BYTES}")
    return size


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions(case: Case, old: Path | None) -> dict[str, str]:
    packages = ["torch", "deepspeed", "numpy"] + (["transformers"] if case.model == "mixtral" else [])
    found = {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
    if case.deepspeed is not None and old is not None:
        found["deepspeed"] = case.deepspeed
    return found


def train(case: Case, work: Path, *, old: Path | None, timeout: float, loud: bool) -> None:
    """Run the ranks; raises RuntimeError with the end of their output when they fail."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(case.world)]
    command += ["--master-port", str(port), "-m", "layouts.worker", case.name, str(work)]
    # Whatever a job names by relative path (swap files) stays in the scratch directory and out of the configs.
    run(command, cwd=work, env=environment(case, old), timeout=timeout, loud=loud)


def environment(case: Case, old: Path | None) -> dict[str, str]:
    paths = [str(Path(__file__).resolve().parents[1])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    # DeepSpeed's own launcher sets these; the configurable writers read them.
    env |= {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": str(case.world)}
    if case.deepspeed is not None:
        if old is None:
            raise ValueError(f"{case.name} needs --old-deepspeed with a folder {case.deepspeed} in it")
        release = tuple(int(part) for part in case.deepspeed.split("."))
        paths.append(str(old / case.deepspeed))
        if release < (0, 12):
            paths.append(str(old / "pydantic1"))
        env["LAYOUTS_OLD_DEEPSPEED"] = case.deepspeed
        env["TORCH_EXTENSIONS_DIR"] = str(old / f"extensions-{case.deepspeed}")
    env["PYTHONPATH"] = os.pathsep.join(paths)
    return env


def to_universal(case: Case, work: Path, *, timeout: float) -> Path:
    """Run DeepSpeed's ds_to_universal over the checkpoint; returns a root that holds only its output."""
    tag = (work / "checkpoint" / "latest").read_text().strip()
    root = work / "universal"
    root.mkdir()
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--num_extract_workers", "1"]
    command += ["--num_merge_workers", "1", "--input_folder", str(work / "checkpoint" / tag)]
    command += ["--output_folder", str(root / f"{tag}_universal"), *(case.universal or ())]
    run(command, cwd=work, env=environment(case, None), timeout=timeout, loud=False)
    for pointer in work.rglob("latest_universal"):
        shutil.copy(pointer, root / "latest_universal")
    return root


def run(command: list[str], *, cwd: Path, env: dict[str, str], timeout: float, loud: bool) -> None:
    stream = None if loud else subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=stream, stderr=subprocess.STDOUT if not loud else None, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # The ranks are children of the launcher: end the whole session, or they keep the port and the cores.
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise RuntimeError(f"no end after {timeout:.0f} s; last output:\n{tail(output)}") from None
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}; last output:\n{tail(output)}")


def tail(output: bytes | None) -> str:
    """The end of what the ranks printed; what the launcher says about their exit codes comes after it."""
    lines = (output or b"").decode(errors="replace").splitlines()
    launcher = next((i for i, line in enumerate(lines) if "elastic/multiprocessing/api.py" in line), len(lines))
    return "\n".join(lines[max(0, launcher - 40) : launcher])
