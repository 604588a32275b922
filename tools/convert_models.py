"""Converts the model fixtures, for suites that load them in another environment.

python tools/convert_models.py OUTPUT

makes OUTPUT/fp32/<case> and OUTPUT/bf16/<case>, and OUTPUT/merged/<case> of adapters merged in fp32. Beside them
OUTPUT/true/fp32/<case> and so on have the live engine's weights, none of ours, as `save_pretrained` writes them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import torch
import true_models
from converted import ask_in_this_process
from model_cases import ModelCase, model_cases

import zeroconsolidate
from zeroconsolidate.naming import asking

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(output: Path) -> None:
    """Convert every case."""
    asking.ask = ask_in_this_process
    for case in model_cases(adapter=False):
        for dtype in DTYPES:
            zeroconsolidate.consolidate(case.checkpoint, output / dtype / case.name, dtype=dtype)
            save(case, true_models.trained(case, DTYPES[dtype]), output / "true" / dtype / case.name)
    for case in model_cases(adapter=True):
        zeroconsolidate.consolidate(case.checkpoint, output / "merged" / case.name, lora="merge", base=case.base)
        save(case, true_models.merged(case), output / "true" / "merged" / case.name)


def save(case: ModelCase, model: torch.nn.ModuleDict, folder: Path) -> None:
    """With the base of rotary embeddings where transformers before 5 reads it."""
    true_models.save(model, folder, case)
    config = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in config:
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
