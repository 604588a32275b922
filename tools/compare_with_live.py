"""Compares a converted M3 fixture with the live engine: its weights, and what FlagEmbedding makes of them.

python tools/compare_with_live.py tests/fixtures/models/m3_z3 demo-model

The fixture's `expected.safetensors` has the weights the engine held when the checkpoint was saved, and its
`outputs.safetensors` what the model answered to a few texts, maybe on another kind of processor.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import torch
from model_fixtures.outputs import TEXTS, comparable, flag_inference
from model_fixtures.rounding import distance, largest_difference, rounding, terms
from safetensors.torch import load_file

KINDS = {"dense": "dense", "sparse": "lexical_weights", "colbert": "colbert"}


def main(fixture: Path, directory: Path) -> int:
    """Print what is equal and how far apart the rest is; 1 if a weight differs, or an answer more than by rounding."""
    held = load_file(fixture / "expected.safetensors")
    written = {f"model.{name}": tensor for name, tensor in load_file(directory / "model.safetensors").items()}
    for head in ("colbert_linear", "sparse_linear"):
        state = torch.load(directory / f"{head}.pt", weights_only=True)
        written |= {f"{head}.{name}": tensor for name, tensor in state.items()}
    equal = [name for name in held if name in written and same_bits(written[name], held[name])]
    good = len(equal) == len(held) == len(written)
    print(f"{directory}, against the live engine when it saved the checkpoint:")
    print(f"  weights    {len(equal)} of {len(held)} tensors equal, bit for bit")

    recorded, recorded_exact = comparable(flag_outputs(fixture))
    found, exact = comparable(flag_inference("m3", str(directory), heads=True))
    good &= all(torch.equal(exact[name], tensor) for name, tensor in recorded_exact.items())
    allowed = rounding(torch.float32, terms(held.values()))
    print(f'BGEM3FlagModel("{directory}") on {len(TEXTS)} texts, against its answers:')
    for kind, name in KINDS.items():
        ours, theirs = found[name], recorded[name]
        if ours.shape != theirs.shape:
            raise SystemExit(f"{kind}: expected {list(theirs.shape)}, got {list(ours.shape)}")
        within = distance(ours, theirs) <= allowed
        good &= within
        shape, largest = "x".join(map(str, ours.shape)), largest_difference(ours, theirs)
        print(f"  {kind:<8} {shape:>6}   largest difference {largest:.1e}, {'' if within else 'not '}within rounding")
    return int(not good)


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """The same dtype, shape and bytes."""
    same = (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    return same and torch.equal(ours.reshape(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8))


def flag_outputs(fixture: Path) -> dict[str, torch.Tensor]:
    """What FlagEmbedding made of the texts with the live engine's weights."""
    outputs = load_file(fixture / "outputs.safetensors")
    return {name.removeprefix("flag."): tensor for name, tensor in outputs.items() if name.startswith("flag.")}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
