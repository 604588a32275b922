"""Real conversions while system calls fail, files change and the output vanishes.

    python tests/faults/rounds.py            every fault at every call: some thousand rounds
    python tests/faults/rounds.py --every 7  every seventh
    python tests/faults/rounds.py --verb universal
    python tests/faults/rounds.py --verb clone --dir DIR    on a file system that shares blocks

A shim in C (`shim.c`, compiled here, needs a C compiler) stands between Python and the C library and lets one call
fail. A round is a conversion in a forked child with one fault; after it

* the child must have succeeded, or raised one of our errors;
* every file with a final name must be complete and equal, byte for byte, to that of a straight run;
* the same conversion, run again without faults, must succeed and make the same bytes.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent / "support")]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITES, READS, CLONES = 1, 2, 4
ONCE, STICKY, SHORT, BACKWARDS = 0, 1, 2, 3
SHIM = "FAULT_SHIM"
_MEMORY = "/dev/shm"
STAGING = ".zeroconsolidate"

VARIANTS: dict[str, dict[str, tuple[int, dict[str, Any]]]] = {
    "convert": {
        "stage 2, fp32, one file": (2, {"names": "stored", "dtype": "fp32"}),
        "stage 3, bf16, shards": (3, {"names": "stored", "dtype": "bf16", "max_shard_size": "200KB"}),
        "stage 2, fp32, shards, digests": (2, {"names": "stored", "max_shard_size": "300KB", "digest": "sha256"}),
    },
    "universal": {
        "stage 2": (2, {}),
        "stage 3, digests": (3, {"digest": "sha256"}),
    },
    "clone": {
        "stage 3": (3, {"names": "stored"}),
        "stage 2, digests": (2, {"names": "stored", "digest": "sha256"}),
        "stage 2, bf16, of the module": (2, {"names": "stored", "dtype": "bf16"}),
    },
}
"""By verb, the stages of the checkpoints and the options."""
REFUSALS = {
    f"{how} ({errno.errorcode[number]})": (CLONES, mode, number)
    for number in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL)
    for how, mode in (("a clone is refused", ONCE), ("all clones are refused from then on", STICKY))
}
"""What is copied then, and is no error."""
CLONE_FAULTS = REFUSALS | {
    "a clone fails (ENOSPC)": (CLONES, ONCE, errno.ENOSPC),
    "a clone fails (EIO)": (CLONES, ONCE, errno.EIO),
    "a clone is interrupted (EINTR)": (CLONES, ONCE, errno.EINTR),
}
FAULTS = {
    "the disk is full at a call": (WRITES, ONCE, errno.ENOSPC),
    "the disk stays full": (WRITES, STICKY, errno.ENOSPC),
    "a write fails (EIO)": (WRITES, ONCE, errno.EIO),
    "a write is interrupted (EINTR)": (WRITES, ONCE, errno.EINTR),
    "the output becomes read-only": (WRITES, STICKY, errno.EROFS),
    "a read fails (EIO)": (READS, ONCE, errno.EIO),
    "a read is interrupted (EINTR)": (READS, ONCE, errno.EINTR),
}


@dataclass
class Tally:
    """What came of all rounds."""

    rounds: Counter[str] = field(default_factory=Counter)
    """By fault."""
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


@dataclass
class Case:
    """One checkpoint, the options it is converted with, and what a straight run makes of it."""

    verb: str
    name: str
    work: Path
    checkpoint: Path
    options: dict[str, Any]
    expected: dict[str, bytes]
    copied: dict[str, bytes] = field(default_factory=dict)
    """What it makes where the file system seems to share nothing, if that is not the same."""

    def is_right(self) -> bool:
        """Whether every file with a final name is right: all of them are of one of both layouts."""
        found = contents(self.output)
        return any(found.items() <= made.items() for made in (self.expected, self.copied))

    def is_whole(self) -> bool:
        """Whether all of them are there."""
        return contents(self.output) in (self.expected, self.copied)

    @property
    def output(self) -> Path:
        return self.work / "out" / "model"


def contents(directory: Path) -> dict[str, bytes]:
    staging = directory / STAGING
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and staging not in path.parents
    }


def child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns, in a forked process: {"outcome": "done" | name of one of our errors | a traceback}."""
    from zeroconsolidate.errors import PlanBroken, ZeroConsolidateError

    read_end, write_end = os.pipe()
    process = os.fork()
    if not process:
        signal.alarm(60)
        try:
            told = {"outcome": "done"} | work()
        except ZeroConsolidateError as error:
            told = {"outcome": type(error).__name__, "message": str(error)}
            if isinstance(error, PlanBroken):
                told = {"outcome": "PlanBroken", "traceback": str(error)}
        except BaseException:  # noqa: BLE001 (it is a finding, told to the parent)
            told = {"outcome": "not ours", "traceback": traceback.format_exc()[-1500:]}
        shim().fault_arm(b"", 0, -1, ONCE, 0)
        os.write(write_end, json.dumps(told).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(process, 0)[1]
    return json.loads(said) if said else {"outcome": "not ours", "traceback": f"ended with status {status}"}


def shim() -> ctypes.CDLL:
    library = ctypes.CDLL(os.environ[SHIM])
    library.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    library.fault_count.restype = ctypes.c_long
    return library


def convert(case: Case, **more: Any) -> None:
    import zeroconsolidate

    make = zeroconsolidate.universal if case.verb == "universal" else zeroconsolidate.consolidate
    make(case.checkpoint, case.output, **(case.options | more))


def with_fault(case: Case, kinds: int, nth: int, mode: int, error: int) -> dict[str, Any]:
    library = shim()
    folder = str(case.work) if kinds & READS else str(case.work / "out")
    library.fault_arm(folder.encode(), kinds, nth, mode, error)
    convert(case)
    return {"calls": library.fault_count()}


def after(case: Case, tally: Tally, fault: str, told: dict[str, Any], *, restart: bool = False) -> None:
    """Judge a round that is over, and run the conversion again."""
    tally.rounds[fault] += 1
    tally.outcomes[told["outcome"]] += 1
    where = f"{fault} ({case.name})"
    if "traceback" in told:
        tally.findings.append(f"{where}: {told['traceback']}")
    if not case.is_right():
        wrong = [name for name, data in contents(case.output).items() if data != case.expected.get(name)]
        tally.findings.append(f"{where}: final names without the right content: {', '.join(wrong)}; {told}")
    if told["outcome"] == "done":
        if not case.is_whole():
            missing = set(case.expected) - set(contents(case.output))
            tally.findings.append(f"{where}: said to be done, but lacks {', '.join(sorted(missing))}")
    elif fault in REFUSALS:
        tally.findings.append(f"{where}: expected no error, got {told}")
    else:
        again = child(lambda: convert(case, **({"restart": True} if restart else {})) or {})
        if again["outcome"] != "done" or not case.is_whole():
            tally.findings.append(f"{where}: the second run failed: {again}; the first: {told}")
    shutil.rmtree(case.output.parent)
    case.output.parent.mkdir()


def call_faults(case: Case, tally: Tally, every: int) -> None:
    """Every fault at every call in turn."""
    faults = FAULTS | CLONE_FAULTS if case.verb == "clone" else FAULTS
    calls = {}
    for kinds in dict.fromkeys(kinds for kinds, _, _ in faults.values()):
        told = child(lambda kinds=kinds: with_fault(case, kinds, -1, ONCE, 0))
        calls[kinds] = told["calls"]
        after(case, tally, "none", told)
    for number, (fault, (kinds, mode, error)) in enumerate(faults.items()):
        step = max(every // 16, 1) if kinds == CLONES else every  # clones are few
        for nth in range(number % step, calls[kinds], step):
            told = child(lambda n=nth, k=kinds, m=mode, e=error: with_fault(case, k, n, m, e))
            after(case, tally, fault, told)
    for fault, kinds, mode in (
        ("every write is short", WRITES, SHORT),
        ("every read is short", READS, SHORT),
        ("every read and write is short", WRITES | READS, SHORT),
        ("the clocks run backwards", WRITES, BACKWARDS),
    ):
        told = child(lambda k=kinds, m=mode: with_fault(case, k, -1, m, 0))
        if told["outcome"] != "done":
            tally.findings.append(f"{fault} ({case.name}): expected no error, got {told}")
        after(case, tally, fault, told)


def changes(case: Case) -> Iterator[tuple[str, Callable[[], None], bool]]:
    """(what happens meanwhile, how, whether sources must be restored)."""
    for pattern in ("*optim_states.pt", "*model_states.pt"):
        path = sorted(case.checkpoint.rglob(pattern))[0]
        size = path.stat().st_size
        yield "a source shrinks", lambda p=path, n=size: os.truncate(p, n // 2), True
        yield "a source becomes empty", lambda p=path: os.truncate(p, 0), True
        yield "a source grows", lambda p=path, n=size: os.truncate(p, n + 4096), True
        yield "a source is taken away", path.unlink, True
        yield "a source is replaced", lambda p=path, n=size: (p.unlink(), p.write_bytes(b"\1" * n)), True
        yield "a source is overwritten", lambda p=path, n=size: p.write_bytes(b"\1" * n), True
    yield "the output is removed", lambda: shutil.rmtree(case.output), False
    yield "the output's parent is removed", lambda: shutil.rmtree(case.output.parent), False
    yield "the staged files are removed", lambda: shutil.rmtree(case.output / STAGING / "files"), False
    yield "the journal is removed", (case.output / STAGING / "journal").unlink, False


def meanwhile(case: Case, tally: Tally, every: int) -> None:
    """Files change while the conversion runs, at each time that progress is told."""
    kept = case.work / "kept"
    shutil.copytree(case.checkpoint, kept)
    turns: list[int] = []
    child_turns = child(lambda: convert(case, progress=lambda *_: turns.append(1)) or {"turns": len(turns)})["turns"]
    shutil.rmtree(case.output.parent)
    case.output.parent.mkdir()
    for number, (what, change, restore) in enumerate(changes(case)):
        for turn in range(number % every, child_turns, every):
            count = iter(range(1 << 30))

            def progress(*_: int, turn: int = turn, change: Callable[[], None] = change, count: Iterator[int] = count):
                if next(count) == turn:
                    change()

            told = child(lambda p=progress: convert(case, progress=p) or {})
            case.output.parent.mkdir(exist_ok=True)
            if restore:
                shutil.rmtree(case.checkpoint)
                shutil.copytree(kept, case.checkpoint)
            after(case, tally, what, told, restart=restore)
    shutil.rmtree(kept)


def run(verb: str, every: int, directory: str | None) -> Tally:
    """All rounds, in the process that has the shim loaded. `directory`: where to work."""
    import synthetic

    from zeroconsolidate.plan import congruent
    from zeroconsolidate.write import part

    congruent.LEAST_FILE_BYTES, congruent.LEAST_SHARE = 1, 0
    part.SYNC_BYTES = 64 << 10  # many syncs in little data
    tally = Tally()
    for number, (name, (stage, options)) in enumerate(VARIANTS[verb].items()):
        # In memory where possible: a round syncs dozens of times.
        memory = _MEMORY if os.path.isdir(_MEMORY) else None
        with tempfile.TemporaryDirectory(prefix="faults-", dir=directory or memory) as folder:
            work = Path(os.path.realpath(folder))
            checkpoint = work / "checkpoint-5"
            values = synthetic.values_of(synthetic.shapes_of(0.8, layers=2))
            synthetic.write(checkpoint, values, stage=stage, ranks=2, moments=verb == "universal")
            (checkpoint / "config.json").write_text('{"dtype": "bfloat16"}')
            (checkpoint / "tokenizer.json").write_text("{}" * 9000)
            (work / "out").mkdir()
            case = Case(verb, name, work, checkpoint, options, {})
            convert(case)  # here, so that every child inherits what is imported on the way
            case.expected = contents(case.output)
            shutil.rmtree(case.output)
            if verb == "clone":
                refused = child(lambda case=case: with_fault(case, CLONES, 0, STICKY, errno.EOPNOTSUPP))
                case.copied = contents(case.output)
                shutil.rmtree(case.output)
                if refused["outcome"] != "done" or case.copied == case.expected:
                    raise SystemExit(f"nothing is cloned in {directory}: {refused}")
            call_faults(case, tally, every)
            meanwhile(case, tally, max(1, every + number - 1))
    return tally


def compiled(folder: str) -> str:
    """The shim, made with the system's C compiler."""
    library = f"{folder}/shim.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, str(HERE / "shim.c"), "-ldl"], check=True)
    return library


def rounds(verb: str, *, every: int, directory: str | None = None) -> dict[str, Any]:
    """Run all rounds in a process of their own; returns the tally as plain values."""
    with tempfile.TemporaryDirectory(prefix="fault-shim-") as folder:
        library = compiled(folder)
        environment = os.environ | {"LD_PRELOAD": library, SHIM: library, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--verb", verb, "--every", str(every)]
        command += ["--dir", directory] if directory else []
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=VARIANTS, default="convert")
    parser.add_argument("--every", type=int, default=1, help="try each fault at every so manieth call")
    parser.add_argument("--dir", help="where to work; by default in memory")
    options = parser.parse_args()
    if SHIM in os.environ:
        tally = run(options.verb, options.every, options.dir)
        json.dump({"rounds": tally.rounds, "outcomes": tally.outcomes, "findings": tally.findings}, sys.stdout)
        return 0
    tally = rounds(options.verb, every=options.every, directory=options.dir)
    for title in ("rounds", "outcomes"):
        print(f"{title}: {sum(tally[title].values())}")
        for name, number in sorted(tally[title].items(), key=lambda item: -item[1]):
            print(f"  {number:5}  {name}")
    print(f"findings: {len(tally['findings'])}", *tally["findings"], sep="\n  ")
    return bool(tally["findings"])


if __name__ == "__main__":
    sys.exit(main())
