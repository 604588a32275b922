"""Converts the model fixtures in fp32 and bf16, for suites that load them in another environment.

python tools/convert_models.py OUTPUT           makes OUTPUT/fp32/<case> and OUTPUT/bf16/<case>
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from model_cases import model_cases
from models.converted import ask_in_this_process

import zeroconsolidate
from zeroconsolidate import evidence


def main(output: Path) -> None:
    """Convert every case without an adapter."""
    evidence._ask = ask_in_this_process
    for case in model_cases(adapter=False):
        for dtype in ("fp32", "bf16"):
            zeroconsolidate.consolidate(case.checkpoint, output / dtype / case.name, dtype=dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
