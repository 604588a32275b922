"""Converts the model fixtures, for suites that load them in another environment.

python tools/convert_models.py OUTPUT

makes OUTPUT/fp32/<case> and OUTPUT/bf16/<case>, OUTPUT/merged/<case> of adapters merged in fp32, and of experts
OUTPUT/resaved/<dtype>/<case>: the live engine's weights, none of ours, as transformers' `save_pretrained` writes them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import torch
import transformers
from converted import ask_in_this_process
from model_cases import ModelCase, model_cases

import zeroconsolidate
from zeroconsolidate.naming import sources as evidence

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(output: Path) -> None:
    """Convert every case."""
    evidence._ask = ask_in_this_process
    for case in model_cases(adapter=False):
        for dtype in DTYPES:
            zeroconsolidate.consolidate(case.checkpoint, output / dtype / case.name, dtype=dtype)
            if case.name.startswith("mixtral"):
                resave(case, output / dtype / case.name, output / "resaved" / dtype / case.name, DTYPES[dtype])
    for case in model_cases(adapter=True):
        zeroconsolidate.consolidate(case.checkpoint, output / "merged" / case.name, lora="merge", base=case.base)


def resave(case: ModelCase, ours: Path, folder: Path, dtype: torch.dtype) -> None:
    """The live weights of `case` in a model of transformers, saved by it; the config, which is no weights, is ours."""
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(ours)).to(dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in case.expected.items()})
    model.save_pretrained(folder)
    shutil.copy(ours / "config.json", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
