"""Measures conversions of a real checkpoint, side by side in one run: ours, DeepSpeed's, and a plain copy.

    python tools/bench.py make  --dir DIR              trains the checkpoints with DeepSpeed (needs the extra)
    python tools/bench.py run   --dir DIR [--repeat 5] prints tables of docs/measured.md
    python tools/bench.py run   --dir DIR --what universal --only large_z2 large_z3 --cold
                                                       prints that of universal checkpoints

The model is a Llama with its config.json, and transformers is installed, as people have it. The names of a Llama are in
the built-in table, so that transformers is not started. What it costs where it is ("asked") is measured on the same
files next to a config.json with a key that the table does not have: cold, with no answer kept, and warm, with it kept.

`cp` of a universal checkpoint copies the folder that ours has written, and syncs the file system. DeepSpeed's converter
gets `--inject_missing_state`, without which it refuses checkpoints like these; the memory of its workers is counted
for the largest only. It does not sync.

Every command is a process of its own. In a round each command runs once, in turn, so that a drift of the
machine's speed meets all of them alike; the first round warms the page cache and is not counted. With `--cold` the page
cache is emptied before each command instead (needs root). Wall, CPU and
peak memory are the operating system's figures for the finished process (`wait4`), CPU with the processes that it
started, memory of the largest of them; quoted are medians, and ratios are medians of the ratios within a round.
Timings are never asserted, here or in tests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RANKS = 4
SIZES = {
    # name: (vocabulary, width, layers); the large model is four times the small one, the tiny one all overhead
    "tiny": (64, 64, 1),
    "small": (16_000, 512, 18),
    "large": (32_000, 1024, 20),
}
STAGES = (2, 3)


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process."""

    wall: float
    cpu: float
    peak_mib: float


def make(directory: Path) -> None:
    """Train one step of each size at each stage and save it."""
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(directory / "torch_extensions"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for size in SIZES:
        for stage in STAGES:
            target = directory / f"{size}_z{stage}"
            if (target / "latest").exists():
                continue
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                str(RANKS),
                "--master-port",
                "29611",
            ]
            subprocess.run(
                [*command, __file__, "train", "--dir", str(target), "--size", size, "--stage", str(stage)],
                env=environment,
                check=True,
            )


def train(target: Path, size: str, stage: int) -> None:
    """What each rank runs."""
    import deepspeed
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary, width, layers = SIZES[size]
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        architectures=["LlamaForCausalLM"],
    )
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    model = LlamaForCausalLM(shape)
    engine, *_ = deepspeed.initialize(
        model=model, config=config, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4)
    )
    ids = torch.randint(0, vocabulary, (1, 8))
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    engine.save_checkpoint(str(target))
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shape.save_pretrained(target)
    os._exit(0)  # gloo's threads may outlive the interpreter's shutdown otherwise


def measure(command: list[str], more: dict[str, str] | None = None) -> Run:
    """Run a command to its end, with `more` in its environment. Raises if it fails."""
    began = time.perf_counter()
    # As installed: with compiled modules, which the first round leaves behind.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | (
        more or {}
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    noise = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed: {noise.decode()[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


OURS = [sys.executable, "-m", "zeroconsolidate"]
COPY = "cp + sync of the output"
ASKED, WARM = "zeroconsolidate, fp32, transformers asked", "zeroconsolidate, fp32, its answer kept"


def conversions(checkpoint: Path, scratch: Path, reference: Path) -> dict[str, list[str]]:
    """What is compared, by label."""
    unknown_to_the_table(checkpoint, scratch)
    out = [str(scratch / "out"), "--quiet"]
    convert = [*OURS, "convert", str(checkpoint), *out]
    asked = [*OURS, "convert", str(scratch / "asked"), *out]
    theirs = [sys.executable, str(checkpoint / "zero_to_fp32.py"), str(checkpoint), str(scratch / "out")]
    copy = f"cp {reference}/model.safetensors {scratch}/out && sync {scratch}/out"
    return {
        COPY: ["sh", "-c", copy],
        "zeroconsolidate, fp32": convert,
        "zeroconsolidate, bf16": [*convert, "--dtype", "bf16"],
        ASKED: [*asked, "--no-cache"],
        WARM: asked,
        "DeepSpeed zero_to_fp32.py": [*theirs, "--safe_serialization", "--max_shard_size", "100GB"],
        "zeroconsolidate inspect": [*OURS, "inspect", str(checkpoint)],
    }


def universals(checkpoint: Path, scratch: Path, reference: Path) -> dict[str, list[str]]:
    """What is compared for universal checkpoints, by label."""
    tag = checkpoint / (checkpoint / "latest").read_text()
    theirs = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    return {
        COPY: ["sh", "-c", f"cp -r {reference} {scratch}/out && sync -f {scratch}/out"],
        "zeroconsolidate universal": [*OURS, "universal", str(checkpoint), str(scratch / "out"), "--quiet"],
        "DeepSpeed ds_to_universal": [*theirs, "--input_folder", str(tag), "--output_folder", str(scratch / "out")],
    }


COMMANDS = {"convert": conversions, "universal": universals}
"""By what is measured, which is our command, the commands that are compared."""


def unknown_to_the_table(checkpoint: Path, scratch: Path) -> None:
    """The same files beside a config that the built-in table does not know, although it means the same."""
    shutil.rmtree(scratch / "asked", ignore_errors=True)
    shutil.copytree(checkpoint, scratch / "asked", copy_function=os.link)
    config = json.loads((checkpoint / "config.json").read_text())
    (scratch / "asked" / "config.json").unlink()
    (scratch / "asked" / "config.json").write_text(json.dumps(config | {"not_in_the_table": True}))


def clear(scratch: Path, *, cold: bool) -> None:
    """Take away the last command's output and let the disk finish, so that nobody pays for another's bytes."""
    out = scratch / "out"
    if out.is_file():
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("1")


def compare(what: str, checkpoint: Path, scratch: Path, repeat: int, *, cold: bool) -> dict[str, list[Run]]:
    """Rounds of all commands on one checkpoint; the first is not counted, unless all begin `cold`."""
    scratch.mkdir(parents=True, exist_ok=True)
    reference = scratch / "reference"
    shutil.rmtree(reference, ignore_errors=True)
    clear(scratch, cold=False)
    more = {"XDG_CACHE_HOME": str(scratch / "cache"), "DS_ACCELERATOR": "cpu"}
    measure([*OURS, what, str(checkpoint), str(reference), "--quiet"])
    runs: dict[str, list[Run]] = {}
    for number in range(repeat + (not cold)):
        for label, command in COMMANDS[what](checkpoint, scratch, reference).items():
            clear(scratch, cold=cold)
            run = measure(command, more)
            if number or cold:
                runs.setdefault(label, []).append(run)
            print(f"  round {number}  {label:<30} {run.wall:6.2f} s  {run.peak_mib:7.0f} MiB", file=sys.stderr)
    clear(scratch, cold=False)
    shutil.rmtree(reference)
    return runs


def table(checkpoint: Path, runs: dict[str, list[Run]]) -> str:
    """Markdown."""
    copies = runs[COPY]
    lines = [
        f"**{checkpoint.name}**",
        "",
        "| command | wall | of the copy | CPU | peak memory |",
        "|---|--:|--:|--:|--:|",
    ]
    for label, measured in runs.items():
        ratio = statistics.median(run.wall / copy.wall for run, copy in zip(measured, copies, strict=True))
        wall, cpu, peak = (
            statistics.median(getattr(run, key) for run in measured) for key in ("wall", "cpu", "peak_mib")
        )
        lines.append(f"| {label} | {wall:.2f} s | {ratio:.2f} | {cpu:.2f} s | {peak:.0f} MiB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("make", "run", "train"))
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--what", choices=COMMANDS, default="convert")
    parser.add_argument("--only", nargs="*", help="such as large_z2")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each command")
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--stage", type=int)
    options = parser.parse_args()
    if options.verb == "make":
        make(options.dir)
    elif options.verb == "train":
        train(options.dir, options.size, options.stage)
    else:
        names = options.only or [f"{size}_z{stage}" for size in SIZES for stage in STAGES]
        packages = ", ".join(
            f"{name} {version(name)}" for name in ("deepspeed", "torch", "transformers", "safetensors")
        )
        print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
              f"Python {platform.python_version()}, {packages}; medians of {options.repeat}")  # fmt: skip
        for name in names:
            checkpoint, scratch = options.dir / name, options.dir / "scratch"
            runs = compare(options.what, checkpoint, scratch, options.repeat, cold=options.cold)
            print("\n" + table(checkpoint, runs))


if __name__ == "__main__":
    main()
