"""Loads a converted M3 fixture with FlagEmbedding and compares its vectors with those of the live engine.

python tools/compare_with_live.py tests/fixtures/models/m3_z3 demo-model

The fixture's `outputs.safetensors` has what the model answered to a few texts when the checkpoint was saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

from model_fixtures.outputs import TEXTS, flag_inference
from safetensors.torch import load_file

TOLERANCE = 1e-5
"""For processors that add in another order than the one the fixture was made on, where the difference is zero."""


def main(fixture: Path, directory: Path) -> int:
    """Print the largest difference of each kind of vector; 1 if any is larger than rounding explains."""
    live = load_file(fixture / "outputs.safetensors")
    found = flag_inference("m3", str(directory), heads=True)
    print(f'BGEM3FlagModel("{directory}") on {len(TEXTS)} texts, against the model in the live engine:')
    worst = 0.0
    for kind, name in (("dense", "dense"), ("sparse", "lexical_weights"), ("colbert", "colbert")):
        ours, theirs = found[name].double(), live[f"flag.{name}"].double()
        if ours.shape != theirs.shape:
            raise SystemExit(f"{kind}: expected {list(theirs.shape)}, got {list(ours.shape)}")
        difference = (ours - theirs).abs().max().item()
        worst = max(worst, difference)
        print(f"  {kind:<8} {'x'.join(map(str, ours.shape)):>6}   largest difference {difference}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
