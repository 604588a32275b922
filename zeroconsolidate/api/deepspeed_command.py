"""The arguments of DeepSpeed's `zero_to_fp32.py` and `zero_to_torch.py`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .deepspeed_helpers import OUTPUT_DTYPE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, under the names that the functions of `zeroconsolidate.zero_to_fp32` have for them."""
    parser = argparse.ArgumentParser(
        prog="python -m zeroconsolidate.zero_to_fp32",
        description="Write the weights of a ZeRO checkpoint, as DeepSpeed's zero_to_fp32.py does.",
    )
    parser.add_argument("checkpoint_dir", help="the checkpoint, e.g. path/checkpoint-12")
    parser.add_argument("output_dir", help="the directory to write into, or one file such as pytorch_model.bin")
    parser.add_argument("--dtype", choices=sorted(OUTPUT_DTYPE_NAMES), default="fp32", help="dtype of the output")
    parser.add_argument("--max_shard_size", "--max-shard-size", default="5GB", help="largest size of a file")
    parser.add_argument(
        "--safe_serialization", "--safe-serialization", action="store_true", help="write safetensors, not pickles"
    )
    parser.add_argument("-t", "--tag", help="which save to read, e.g. global_step1; by default the one in latest")
    parser.add_argument(
        "--exclude_frozen_parameters",
        "--exclude-frozen-parameters",
        action="store_true",
        help="leave out parameters that were not trained",
    )
    parser.add_argument("-d", "--debug", action="store_true", help="log what is done")
    return parser.parse_args(argv)
