"""Train the test fixtures: tiny real models under DeepSpeed ZeRO, on CPU, with the live engine's values beside them.

    python tools/make_fixtures.py --list
    python tools/make_fixtures.py --only z2_bf16 z3_frozen --out somewhere

Each case becomes DIR/<case>/ with `checkpoint/` as the engine saved it, `expected.safetensors` with the values it held
in memory, and `provenance.json`. A case is built aside and moved into place when it is complete.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fixtures_lib import ranks
from shared.folders import size_bytes

if TYPE_CHECKING:
    from fixtures_lib.cases import Case

ranks.prepare()

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"


def main() -> int:
    from fixtures_lib.cases import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=CASES, default=list(CASES), help="just these")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--out", type=Path, metavar="DIR", default=FIXTURES, help="default: tests/fixtures")
    parser.add_argument("--seed", type=int, help="other weights and other data than the committed fixtures have")
    args = parser.parse_args()
    if args.list:
        for case in CASES.values():
            print(f"{case.name:28} {case.description}")
        return 0

    ranks.import_deepspeed()
    failed = []
    for name in args.only:
        started = time.monotonic()
        case = CASES[name] if args.seed is None else dataclasses.replace(CASES[name], seed=args.seed)
        try:
            size = make(case, args.out / name)
        except Exception as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print(f"{name:28} {size / 1000:7.1f} kB  {time.monotonic() - started:5.1f} s", flush=True)
    if failed:
        print(f"failed: {' '.join(failed)}", file=sys.stderr)
    return bool(failed)


def make(case: Case, target: Path) -> int:
    """Build `case` and put it at `target`, replacing what was there. Returns its size in bytes."""
    from fixtures_lib import cases, flagembedding, train, trainer

    work = {
        cases.EngineCase: train.train,
        cases.TrainerCase: trainer.train,
        cases.FlagEmbeddingCase: flagembedding.train,
    }[type(case)]
    workshop = Path(tempfile.mkdtemp(prefix=f"fixture-{case.name}-"))
    built = workshop / case.name
    built.mkdir()
    ranks.run(work, case, built, world_size=case.world_size, log=workshop / "ranks.log")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    shutil.move(built, target)
    shutil.rmtree(workshop)
    return size_bytes(target)


if __name__ == "__main__":
    sys.exit(main())
