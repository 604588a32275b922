"""Load checkpoints into live engines of DeepSpeed, and see that all is as it was.

    python tools/load_into_engine.py              every check of fixtures_lib/into_engine.py, on two ranks
    python tools/load_into_engine.py unequal      just this one

`resume_universal.py` has the table of stages and world sizes; this tries what else `load_into_engine` promises.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fixtures_lib import ranks

ranks.prepare()


def main() -> int:
    ranks.import_deepspeed()
    from fixtures_lib import into_engine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="; ".join(into_engine.CHECKS))
    parser.add_argument("--ranks", type=int, default=2, help="how many ranks there are")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="into-engine-"))
    names = args.checks or list(into_engine.CHECKS)
    try:
        ranks.run(into_engine.run, names, root, world_size=args.ranks, log=root / "ranks.log")
    except (RuntimeError, TimeoutError) as error:
        print(error, file=sys.stderr)
    done = (root / "done").read_text().split() if (root / "done").exists() else []
    for name in names:
        print(name, "as it was" if name in done else "WRONG")
    return int(done != names)


if __name__ == "__main__":
    raise SystemExit(main())
