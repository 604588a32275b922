"""What quantizing and averaging cost, side by side with what they are made of: the tables in docs/quantize.md and
docs/average.md.

    python tools/bench_transforms.py --dir DIR [--repeat 5] [--megabytes 500]

The checkpoints are synthetic, of ZeRO-2 and two ranks, under the names of a Llama with its config.json. Quantizing is
compared with a conversion to bf16, the mean of four checkpoints with reading their optimizer files and with one
conversion. Every command is a process of its own; in a round each runs once, and the first round is not counted.
transformers' answer is kept, as it is after the first run. Timings are never asserted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from bench import OURS, Run, clear, measure  # noqa: E402

STEPS = (1, 2, 3, 4)
WIDTH, VOCABULARY = 1024, 8192


def shapes_of(megabytes: float) -> tuple[OrderedDict[str, tuple[int, ...]], int]:
    """(shapes of a Llama whose masters take about so many megabytes, its layers)."""
    inner = 8 * WIDTH // 3 // 128 * 128
    layers = max(round((megabytes * 250_000 - 2 * VOCABULARY * WIDTH) / (4 * WIDTH * WIDTH + 3 * WIDTH * inner)), 1)
    shapes = OrderedDict({"model.embed_tokens.weight": (VOCABULARY, WIDTH)})
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}self_attn.{name}.weight"] = (WIDTH, WIDTH)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{prefix}mlp.{name}.weight"] = (inner, WIDTH)
        shapes[f"{prefix}mlp.down_proj.weight"] = (WIDTH, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (WIDTH,)
    shapes["model.norm.weight"] = (WIDTH,)
    shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    return shapes, layers


def make(directory: Path, megabytes: float) -> None:
    """Write the checkpoints of one run, one for each step."""
    import synthetic
    import torch

    shapes, layers = shapes_of(megabytes)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "vocab_size": VOCABULARY,
        "intermediate_size": shapes["model.layers.0.mlp.up_proj.weight"][0], "num_hidden_layers": layers,
        "num_attention_heads": 16, "tie_word_embeddings": False,
    }  # fmt: skip
    sizes = OrderedDict((name, torch.Size(shape)) for name, shape in shapes.items())
    for step in STEPS:
        root = directory / f"checkpoint-{step}"
        if not root.exists():
            synthetic.write(root, synthetic.values_of(sizes, seed=step), stage=2, ranks=2, step=step)
            (root / "config.json").write_text(json.dumps(config))


def commands(checkpoints: list[Path], scratch: Path) -> dict[str, list[str]]:
    """What is compared, by label."""
    out = [str(scratch / "out"), "--quiet"]
    convert = [*OURS, "convert", str(checkpoints[0]), *out]
    states = " ".join(str(file) for root in checkpoints for file in sorted(root.rglob("*optim_states.pt")))
    several = [*OURS, "convert", *map(str, checkpoints), *out, "--average", "uniform"]
    return {
        "bf16": [*convert, "--dtype", "bf16"],
        "fp8": [*convert, "--dtype", "bf16", "--quantize", "fp8"],
        "int8": [*convert, "--dtype", "bf16", "--quantize", "int8"],
        "fp8-block": [*convert, "--dtype", "bf16", "--quantize", "fp8-block"],
        "fp32": convert,
        "4 reads": ["sh", "-c", f"cat {states} >/dev/null"],
        "mean of 4": several,
    }


def table(runs: dict[str, list[Run]], labels: tuple[str, ...], first: str) -> str:
    """Markdown: wall, its ratio to `first`, CPU time and memory."""
    lines = [f"| | time | x {first} | CPU time | memory |", "|---|--:|--:|--:|--:|"]
    for label in labels:
        ratio = statistics.median(a.wall / b.wall for a, b in zip(runs[label], runs[first], strict=True))
        wall, cpu, peak = (
            statistics.median(getattr(r, key) for r in runs[label]) for key in ("wall", "cpu", "peak_mib")
        )
        lines.append(f"| {label} | {wall:.2f} s | {ratio:.2f} | {cpu:.2f} s | {peak:.0f} MiB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", choices=("run", "make"), default="run")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=500)
    options = parser.parse_args()
    if options.verb == "make":
        make(options.dir, options.megabytes)
        return
    # In a process of its own: a child's peak of memory begins with what this one has.
    again = [sys.executable, __file__, "make", "--dir", str(options.dir), "--megabytes", str(options.megabytes)]
    subprocess.run(again, check=True)
    checkpoints, scratch = [options.dir / f"checkpoint-{step}" for step in STEPS], options.dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Run]] = {}
    for number in range(options.repeat + 1):
        for label, command in commands(checkpoints, scratch).items():
            clear(scratch, cold=False)
            run = measure(command, {"XDG_CACHE_HOME": str(scratch / "cache")})
            print(f"  round {number}  {label:<10} {run.wall:6.2f} s  {run.peak_mib:5.0f} MiB", file=sys.stderr)
            if number:
                runs.setdefault(label, []).append(run)
    print(table(runs, ("bf16", "fp8", "int8", "fp8-block"), "bf16"))
    print("\n" + table(runs, ("4 reads", "fp32", "mean of 4"), "4 reads"))
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
