"""Tries this package with releases of other programs, and writes docs/compatibility.md.

    cd tools && python -m compatibility                          what has not been tried yet
    cd tools && python -m compatibility --only transformers PEFT
    cd tools && python -m compatibility --again --newest         the newest of each, once more
    cd tools && python -m compatibility --page                   only write the page

It runs in the environment that `sh tools/test.sh` makes: programs that need torch use the one that is there. Results
are kept in compatibility/results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from .environments import converted, tried
from .matrix import PROGRAMS, ROOT, rows
from .page import page

RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs" / "compatibility.md"


def main() -> int:
    """Exit code 1 if something that was tried does not work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--again", action="store_true", help="also what has been tried")
    parser.add_argument("--newest", action="store_true", help="only the newest release of each program")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = [row for row in rows() if row.program in options.only and (options.again or row.name not in results)]
    if options.newest:
        wanted = list({row.program: row for row in wanted}.values())
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        models = converted(Path(folder)) if wanted and not options.page else Path(folder)
        for row in [] if options.page else wanted:
            ok, said, python = tried(row, Path(folder) / "environment", models)
            print(f"{row.name}: {'works' if ok else 'DOES NOT WORK'}: {said}", flush=True)
            results[row.name] = {
                "ok": ok, "said": said, "python": python, "date": time.strftime("%Y-%m-%d"),
            }  # fmt: skip
            failed |= not ok
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
