"""Prints where every byte of a model comes from, tensor by tensor, and proves that the plan covers each once.

python tools/show_plan.py CHECKPOINT [NAME_GLOB]

embed.weight  float32 [13, 7]
    elements      0-72      bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt  bytes 4352-4643
    elements     72-91      bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt  bytes 4352-4427
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase

from zeroconsolidate.archive.discover import discover
from zeroconsolidate.archive.load import load
from zeroconsolidate.catalog.read import read
from zeroconsolidate.plan.build import sources
from zeroconsolidate.plan.pieces import covers_once


def main(checkpoint: str, glob: str = "*") -> None:
    catalog = read(discover(checkpoint), load)
    for name, source in sources(catalog).items():
        if not fnmatchcase(name, glob):
            continue
        covers_once(source.recipe)
        print(f"{name}  {source.recipe.dtype.torch_name} {list(source.shape)}  {source.role}")
        for copy in source.recipe.copies():
            file = copy.file.rpartition("/")[2]
            runs = f"  {copy.count} runs, every {copy.file_step} elements" if copy.count > 1 else ""
            elements = f"{copy.start}-{copy.start + copy.numel}" if copy.count == 1 else f"from {copy.start}"
            extent = f"{copy.file_start}-{copy.file_start + copy.nbytes}"
            print(f"    elements {elements:>15}   {file}  bytes {extent}{runs}")


if __name__ == "__main__":
    main(*sys.argv[1:])
