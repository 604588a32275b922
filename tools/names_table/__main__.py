"""Makes and proves the built-in table of names.

    python -m names_table make [TYPE…]                  describes model types anew, asking the transformers installed
    python -m names_table prove [TYPE…] [--configs N]   holds every class against transformers, N random configs each
    python -m names_table settle [TYPE…]                with transformers 4: takes out what differs

Run in `tools/` (or with it on PYTHONPATH). The order is: make with transformers 5, settle with each transformers 4,
prove with all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import zeroconsolidate
from names_table import compact, make, prove, settle
from names_table.families import FAMILIES
from names_table.oracle import MAJOR, VERSION, Oracle

ENTRIES = Path(zeroconsolidate.__file__).parent / "naming" / "table" / "entries"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("make", "prove", "settle"))
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--configs", type=int, default=1000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--entries", type=Path, default=ENTRIES)
    options = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore")  # of odd values, which are drawn on purpose
    oracle = Oracle()
    if options.verb == "make":
        return made(options.types or list(FAMILIES), options.entries, oracle)
    if options.verb == "settle":
        for entry in prove.entries_in(options.entries, options.types):
            path = options.entries / f"{entry['model_type']}.json"
            for step in (settle.settled(entry), settle.compared(entry, options.entries, oracle)):
                for line in step:
                    print(line, flush=True)
                path.write_text(compact.text(entry))
        return 0
    return proved(options.types, options.entries, oracle, options.configs, options.seed)


def made(types: list[str], folder: Path, oracle: Oracle) -> int:
    """Write entries anew."""
    if MAJOR < 5:
        print("entries are made with transformers 5")
        return 2
    (folder / "_common.json").write_text(json.dumps(make.COMMON, indent=1) + "\n")
    for model_type in types:
        began = time.perf_counter()
        entry, problems = make.entry_of(model_type, oracle)
        for problem in problems:
            print(f"  {model_type}: {problem}"[:2000])
        classes = sum(len(variant["classes"]) for variant in entry["variants"])
        if classes:
            (folder / f"{model_type}.json").write_text(compact.text(entry))
        print(f"{model_type}: {classes} classes, {len(problems)} not, {time.perf_counter() - began:.0f} s", flush=True)
    return 0


def proved(types: list[str], folder: Path, oracle: Oracle, configs: int, seed: str) -> int:
    """Print what holds."""
    wrong = agreed = refused = classes = 0
    for entry in prove.entries_in(folder, types):
        for proof in prove.proven(entry, folder, oracle, configs, seed):
            classes, agreed, wrong = classes + 1, agreed + proof.agreed, wrong + bool(proof.wrong)
            refused += proof.refused
            print(
                f"{entry['model_type']:<20} {proof.name:<40} {proof.agreed:>5} agree, {proof.unknown} unknown, "
                f"{proof.refused} not built, {proof.saved_known}/{proof.saved} saved forms known, "
                f"{len(proof.wrong)} wrong",
                flush=True,
            )
            for reason, number in proof.reasons.most_common(3):
                print(f"    unknown: {reason[:200]} ({number} times)")
            for reason, number in proof.refusals.most_common(3):
                print(f"    not built: {reason} ({number} times)")
            for problem in proof.wrong[:3]:
                print(f"    {problem}"[:3000], flush=True)
    print(
        f"transformers {VERSION}: {classes} classes, {agreed} configs agree, {refused} not built, {wrong} classes wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
