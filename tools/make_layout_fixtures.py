"""Make the real checkpoints of `tests/fixtures/layouts`: one folder a case, trained with DeepSpeed on this machine.

    python tools/make_layout_fixtures.py --list
    python tools/make_layout_fixtures.py z0_bf16 pp2_z1_dp2
    python tools/make_layout_fixtures.py --all

Each folder gets `checkpoint/` (DeepSpeed's own output, without the scripts it copies in), `expected.safetensors`,
`expected_moments.safetensors` (where the optimizer has any) and `provenance.json`. A case whose live values are in
any doubt (ranks disagree, a rounded master is not the 16-bit weight) is not written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layouts.case import Case

TOOLS = Path(__file__).resolve().parent
FIXTURES = TOOLS.parent / "tests" / "fixtures" / "layouts"


def main() -> int:
    sys.path.insert(0, str(TOOLS))
    from layouts.cases import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CASE")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--out", type=Path, default=FIXTURES, help="where the case folders go")
    parser.add_argument("--old-deepspeed", type=Path, help="folder with one `pip --target` folder a release")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    args = parser.parse_args()
    if args.list:
        for case in CASES.values():
            print(f"{case.name:30} {case.about}")
        return 0
    made = [attempt(CASES[name], args) for name in (list(CASES) if args.all else args.names)]
    return 0 if all(made) else 1


def attempt(case: Case, args: argparse.Namespace) -> bool:
    """One broken case must not keep the others from being made."""
    from layouts.make import make

    try:
        size = make(case, args.out / case.name, old=args.old_deepspeed, timeout=args.timeout)
    except Exception as error:
        print(f"{case.name}: FAILED: {error}", flush=True)
        return False
    print(f"{case.name}: {size / 1000:.0f} kB", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
