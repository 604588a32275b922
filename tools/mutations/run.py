"""Takes every protection out, one at a time, and sees that the tests notice.

    python tools/mutations/run.py                 all of them: half an hour
    python tools/mutations/run.py lock 'zeros only'    those whose names contain one of these
    python tools/mutations/run.py --list

Each protection of the tables beside this file is a text in the package and one that does without. It is replaced in a
copy of the tree, and the tests that are named with it are run there: at least one must fail. A mutation that survives
means that a promise is not tested, or that the code which makes it is superfluous.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from mutations import (  # noqa: E402
    adapted,
    answered,
    carded,
    cloned,
    compared,
    followed,
    hostile,
    hostile_files,
    incomplete,
    interrupted,
    loading,
    merged,
    named,
    optioned,
    parted,
    remote,
    tabled,
    transformed,
    universal,
    universal_layouts,
    verified,
)

if TYPE_CHECKING:
    from mutations.mutation import Mutation

TABLES = (
    adapted,
    answered,
    interrupted,
    cloned,
    compared,
    incomplete,
    verified,
    merged,
    optioned,
    parted,
    named,
    tabled,
    transformed,
    universal,
    universal_layouts,
    loading,
    carded,
    followed,
    hostile,
    hostile_files,
    remote,
)
SECONDS = 300
"""A mutation may take the bound from a loop: then this is the bound."""
MEMORY_BYTES = 16 << 30
"""Or from memory. Address space: torch alone maps several gigabytes."""


def mutations() -> list[Mutation]:
    """All tables, in order."""
    return [mutation for table in TABLES for mutation in table.MUTATIONS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORDS", help="only protections whose names contain one of these")
    parser.add_argument("--list", action="store_true", help="list the protections and run nothing")
    options = parser.parse_args()
    chosen = [m for m in mutations() if not options.words or any(word in m.protection for word in options.words)]
    if options.list:
        print(*(mutation.protection for mutation in chosen), sep="\n")
        return 0
    began, survivors = time.monotonic(), []
    _import_what_is_not_mutated()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "fuzz_corpus", "*.egg-info"))
        named = sorted({test for mutation in chosen for test in mutation.tests})
        failed, said = failing(copy, named, stop=False)
        if failed is not False:
            print(said, "these tests must pass as long as nothing is taken out", sep="\n")
            return 2
        for mutation in chosen:
            failed, said = without(mutation, copy)
            print(f"{'noticed ' if failed else 'SURVIVED'}  {mutation.protection}", flush=True)
            if failed is None:
                print(said)
            if not failed:
                survivors.append(mutation)
    print(
        f"{len(chosen)} protections taken out, {len(chosen) - len(survivors)} noticed, {len(survivors)} survived; "
        f"{time.monotonic() - began:.0f} s"
    )
    return bool(survivors)


def without(mutation: Mutation, copy: Path) -> tuple[bool | None, str]:
    """Whether the tests fail without the protection, and what they print."""
    before: dict[Path, str] = {}
    try:
        for edit in mutation.edits:
            path = copy / "zeroconsolidate" / edit.file
            text = path.read_text()
            before.setdefault(path, text)
            path.write_text(text.replace(edit.old, edit.new, 1))
        return failing(copy, list(mutation.tests), stop=True)
    finally:
        for path, text in before.items():
            path.write_text(text)


def failing(copy: Path, tests: list[str], *, stop: bool) -> tuple[bool | None, str]:
    """Whether one of the tests fails (None if they could not be run), and what pytest prints.

    In a forked child: what takes pytest seconds to import is there already, and is not what is mutated.
    """
    with tempfile.TemporaryFile() as printed:
        child = os.fork()
        if not child:
            _run_tests(copy, tests, printed.fileno(), stop=stop)
        status = _ended(child, SECONDS if stop else 3600)
        printed.seek(0)
        said = printed.read().decode(errors="replace")
    if status is None:
        return True, "the tests do not end"
    return {0: False, 1: True}.get(os.waitstatus_to_exitcode(status)), said


def _run_tests(copy: Path, tests: list[str], output: int, *, stop: bool) -> NoReturn:
    code = 99
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        # Without bytecode: two texts of one length and one second would be taken for each other.
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(copy), str(copy / "tests" / "support")]
        path = os.pathsep.join(sys.path[:2])
        os.environ |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        code = pytest.main(["-p", "no:cacheprovider", "--tb=line", *(["-x"] if stop else []), *tests])
    finally:
        sys.stdout.flush()
        os._exit(code)


def _ended(child: int, seconds: float) -> int | None:
    """The status of a child and all it started; None if it had to be killed after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _import_what_is_not_mutated() -> None:
    for name in ("torch", "safetensors.torch", "hypothesis", "transformers", "peft"):
        with suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
