"""Makes tests/fixtures/models: real fine-tunes of toy models, each with the live engine's weights and outputs.

    python tools/make_model_fixtures.py                 every case (about 20 s each on two cores)
    python tools/make_model_fixtures.py lora_z2 m3_z2   these
    python tools/make_model_fixtures.py --list

Needs the environment of tools/envs/flagembedding.txt. The table of cases is model_fixtures/cases.py. A case folder has

    checkpoint/            the Trainer's checkpoint-N as written, without random states and copied scripts
    expected.safetensors   live parameter name -> float32 master (frozen ones in their own dtype, if saved)
    outputs.safetensors    input_ids, attention_mask; live.*, float32.*, merged.*, flag.* (model_fixtures/truth.py)
    provenance.json        versions, arguments and digests

and `_bases/<name>` holds the original models they start from.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from model_fixtures import bases
from model_fixtures.cases import CASES, SEED, STEPS, Case, deepspeed_config
from shared.cpu_ranks import free_port
from shared.folders import COPIED_SCRIPTS, RECORD, digests, size_bytes

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent / "tests" / "fixtures" / "models"
RANKS = 2
PACKAGES = ("torch", "deepspeed", "transformers", "accelerate", "peft", "FlagEmbedding", "safetensors")
# Copies of DeepSpeed's scripts and the generators' states: large, the same everywhere, and no part of a model.
LEFT_OUT = (*COPIED_SCRIPTS, "rng_state_*.pth")


def train(case: Case, workplace: Path, timeout: float) -> None:
    """Run `case` on `RANKS` processes in `workplace`, which holds `_bases`; the result is in `workplace/run`."""
    (workplace / "deepspeed.json").write_text(json.dumps(deepspeed_config(case), indent=2))
    bases.write_training_data(workplace / "train.jsonl")
    environment = os.environ | {
        "PYTHONPATH": str(TOOLS),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # DeepSpeed compiles one small extension; it looks for ninja on the path.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
    command += ["--master-port", str(free_port()), "-m", "model_fixtures.worker", case.name, "run"]
    log = workplace / "log.txt"
    with log.open("w") as out:
        done = subprocess.run(
            command, cwd=workplace, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=timeout, check=False
        )
    if done.returncode or not (workplace / "run" / "notes.json").exists():
        raise RuntimeError(f"{case.name} failed with exit code {done.returncode}:\n{log.read_text()[-6000:]}")


def collect(case: Case, run: Path, folder: Path) -> None:
    """Move the run's checkpoint and truth into `folder`, replacing it, and write its provenance."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint = folder / "checkpoint"
    shutil.copytree(run / f"checkpoint-{STEPS}", checkpoint, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in ("expected.safetensors", "outputs.safetensors"):
        shutil.move(run / name, folder / name)
    provenance = {
        "command": f"python tools/make_model_fixtures.py {case.name}",
        "case": asdict(case),
        "seed": SEED,
        "ranks": RANKS,
        "deepspeed_config": deepspeed_config(case),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "truth": json.loads((run / "notes.json").read_text()),
        "sha256": digests(folder),
    }
    (folder / RECORD).write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> int:
    """Make the cases named on the command line; the exit code is the number that failed."""
    parser = argparse.ArgumentParser(description="Train the model fixtures.")
    parser.add_argument("cases", nargs="*", help="cases to make (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of all cases")
    parser.add_argument("--bases", action="store_true", help="remake the original models too")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a run may take")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    if options.bases or not (ROOT / "_bases").exists():
        bases.make_all(ROOT / "_bases")
    failed = 0
    for name in options.cases or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            workplace = Path(scratch)
            shutil.copytree(ROOT / "_bases", workplace / "_bases")
            try:
                train(CASES[name], workplace, options.timeout)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"{name}: {error}", file=sys.stderr)
                continue
            collect(CASES[name], workplace / "run", ROOT / name)
        truth = json.loads((ROOT / name / RECORD).read_text())["truth"]
        print(f"{name}: {size_bytes(ROOT / name) / 1000:.0f} KB, {truth}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
