"""Runs tests under conditions that this machine does not have by itself, and prints a table.

    sh tools/test_conditions.sh                     the suites that can differ, under each condition
    sh tools/test_conditions.sh --sample            a few tests of them under some: a minute
    sh tools/test_conditions.sh --whole tmpdir      all tests, under one
    sh tools/test_conditions.sh --whole root+no-home    under two at once; those that change the same are refused
    sh tools/test_conditions.sh user -- -x -k hub   the rest goes to pytest

The exit code is 1 if a test failed. What this machine cannot be made to have is said, and is no failure.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent

COMPUTED = ["tests/models", "tests/adapters", "tests/run/test_cast.py", "tests/whole/test_docs.py",
            "tests/whole/test_trainer_files.py"]  # fmt: skip
"""Kernels and threads can change what is computed."""
SYSTEM = ["tests/archive", "tests/cli", "tests/integrations", "tests/models/test_transformers.py", "tests/outputs",
          "tests/run", "tests/whole", "tests/write"]  # fmt: skip
"""Everything else can change what the system does."""

SAMPLES = {
    "computed": ["tests/models/test_loads_transformers5.py", "-k", "m3_z3 or llm_untied_z3 or lora_patterns_z3"],
    "system": [
        "tests/run/test_io.py::test_extents_are_copied_whatever_the_kernel_can",
        "tests/cli/test_bad_input.py::test_a_file_that_may_not_be_read",
        "tests/whole/test_interrupt.py::test_an_ignored_signal_stays_ignored",
        "tests/whole/test_interrupt.py::test_only_that_signal_is_ignored",
    ],
}


class NotHereError(Exception):
    """This machine cannot be made to have the condition."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how tests are run."""

    environment: dict[str, str]
    folder: Path = ROOT
    command: tuple[str, ...] = ()
    """Before the interpreter's."""
    prepare: tuple[Callable[[], object], ...] = ()
    """Called in the child."""


PlaceOf: TypeAlias = "Callable[[dict[str, str]], Iterator[Place]]"
"""From an environment to the place where a condition holds."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is different, and which suites can differ by it."""

    what: str
    changes: dict[str, str | None] = field(default_factory=dict)
    """Of the environment; None takes a variable away."""
    place: PlaceOf | None = None
    """What changes of the environment cannot do."""
    also_changes: tuple[str, ...] = ()
    """What `place` changes, so that no other condition may: variables, or "user"."""
    kinds: tuple[str, ...] = ("system",)
    sampled: bool = False


def ignoring_sigint(environment: dict[str, str]) -> Iterator[Place]:
    """As a shell without job control starts a command in the background."""
    yield Place(environment=environment, prepare=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),))


def on_another_file_system(environment: dict[str, str]) -> Iterator[Place]:
    """Temporary files elsewhere, so that `copy_file_range` between a fixture and an output answers EXDEV."""
    for folder in filter(None, ("/dev/shm", os.environ.get("XDG_RUNTIME_DIR"))):
        if os.access(folder, os.W_OK) and os.stat(folder).st_dev != os.stat(ROOT).st_dev:
            with tempfile.TemporaryDirectory(dir=folder) as elsewhere:
                yield Place(environment=environment | {"TMPDIR": elsewhere})
            return
    raise NotHereError("no other file system to write to")


def as_root(environment: dict[str, str]) -> Iterator[Place]:
    """In a user namespace, if we are not."""
    command = ("unshare", "--map-root-user")
    if os.geteuid() == 0:
        yield Place(environment=environment)
    elif works(*command):
        yield Place(environment=environment, command=command)
    else:
        raise NotHereError("user namespaces are switched off")


def as_an_ordinary_user(environment: dict[str, str]) -> Iterator[Place]:
    """As `nobody`, if we are root: in a copy of the tree that belongs to that user."""
    if os.geteuid() != 0:
        yield Place(environment=environment)
        return
    if not works("unshare", "--mount"):
        raise NotHereError("mount namespaces are switched off")
    user = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "tree")
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for file in subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.split(b"\0"):
            source = Path(ROOT, os.fsdecode(file))
            if file and source.exists():
                (copy / os.fsdecode(file)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, copy / os.fsdecode(file))
        (copy / ".tmp").mkdir()
        for path in [Path(name), copy, *copy.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid)
        become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        yield Place(
            environment=environment | {"HOME": str(copy), "TMPDIR": str(copy / ".tmp"), "PYTHONPATH": str(copy)},
            folder=copy,
            command=("unshare", "--mount", "sh", "-euc", f'{opened()}\nexec "$@"', "sh", *become),
        )


def opened() -> str:
    """Shell commands that let others reach the interpreter and its packages, in a mount namespace.

    They may lie below a folder that is closed to others, such as /root. An open one that has nothing but them is
    mounted over it.
    """
    needed = [Path(sys.base_prefix), Path(sys.prefix)]
    closed = {
        next(parent for parent in reversed(folder.parents) if not parent.stat().st_mode & 1)
        for folder in needed
        if not all(parent.stat().st_mode & 1 for parent in folder.parents)
    }
    lines = [f"kept{n}=$(mktemp -d); mount --bind '{folder}' $kept{n}" for n, folder in enumerate(needed)]
    lines += [f"mount -t tmpfs -o mode=755 none '{folder}'" for folder in closed]
    lines += [f"mkdir -p '{folder}'; mount --bind $kept{n} '{folder}'" for n, folder in enumerate(needed)]
    return "\n".join(lines) if closed else ""


def works(*command: str) -> bool:
    """Whether this can be put before a command."""
    try:
        return subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


CONDITIONS = {
    "cpu-default": Condition(
        what="the kernels of any x86-64 processor",
        changes={"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
        kinds=("computed",),
        sampled=True,
    ),
    "cpu-avx2": Condition(
        what="kernels without AVX-512", changes={"ATEN_CPU_CAPABILITY": "avx2"}, kinds=("computed",), sampled=True
    ),
    "threads-1": Condition(what="one thread", changes={"OMP_NUM_THREADS": "1"}, kinds=("computed",)),
    "threads-2": Condition(what="two threads", changes={"OMP_NUM_THREADS": "2"}, kinds=("computed",), sampled=True),
    "sigint-ignored": Condition(what="SIGINT is ignored at the start", place=ignoring_sigint, sampled=True),
    "locale-c": Condition(what="the locale C", changes={"LC_ALL": "C"}, sampled=True),
    "tmpdir": Condition(
        what="temporary files are on another file system",
        place=on_another_file_system,
        also_changes=("TMPDIR",),
        sampled=True,
    ),
    # By an offset: the database of time zones may not be there.
    "timezone": Condition(what="5:45 hours east of UTC", changes={"TZ": "XXX-05:45"}),
    "root": Condition(what="as root", place=as_root, also_changes=("user",)),
    "user": Condition(
        what="as an ordinary user",
        place=as_an_ordinary_user,
        also_changes=("user", "HOME", "TMPDIR"),
        sampled=True,
    ),
    "no-home": Condition(what="no HOME", changes={"HOME": None}),
}


class SameThingError(Exception):
    """Two conditions cannot hold at once."""


def together(names: Sequence[str]) -> Condition:
    """The condition that all of these hold at once."""
    conditions = [CONDITIONS[name] for name in names]
    variables = [variable for condition in conditions for variable in (*condition.changes, *condition.also_changes)]
    if twice := {variable for variable in variables if variables.count(variable) > 1}:
        raise SameThingError(f"{'+'.join(names)}: more than one of them changes {', '.join(sorted(twice))}")
    return Condition(
        what=", ".join(condition.what for condition in conditions),
        changes={name: value for condition in conditions for name, value in condition.changes.items()},
        place=lambda environment: all_of([c.place for c in conditions if c.place], environment),
        kinds=tuple(sorted({kind for condition in conditions for kind in condition.kinds})),
        sampled=any(condition.sampled for condition in conditions),
    )


def all_of(places: Sequence[PlaceOf], environment: dict[str, str]) -> Iterator[Place]:
    """The place where all of `places` hold: each is made in the environment of the one before."""
    with ExitStack() as stack:
        found = Place(environment=environment)
        for place in places:
            this = stack.enter_context(contextmanager(place)(found.environment))
            found = Place(
                environment=this.environment,
                folder=found.folder if this.folder == ROOT else this.folder,
                command=(*found.command, *this.command),
                prepare=(*found.prepare, *this.prepare),
            )
        yield found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of the tests under a condition."""

    passed: int
    failed: list[str]
    skipped: int
    seconds: float
    output: str


def run(condition: Condition, arguments: Sequence[str]) -> Outcome:
    """Run pytest with these arguments under `condition`."""
    environment = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
    for name, value in condition.changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    places = [condition.place] if condition.place else []
    with contextmanager(all_of)(places, environment) as place, tempfile.TemporaryDirectory() as results:
        # Whoever runs the tests writes it.
        os.chmod(results, 0o777)
        report = Path(results, "results.xml")
        command = [*place.command, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "-m", "not heavy and not long and not pages", *arguments],
            cwd=place.folder,
            env=place.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            preexec_fn=lambda: [prepare() for prepare in place.prepare],
        )
        seconds = time.monotonic() - began
        if not report.exists():
            return Outcome(passed=0, failed=["pytest did not start"], skipped=0, seconds=seconds, output=done.stdout)
        cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [name_of(case) for case in cases if {"failure", "error"} & {child.tag for child in case}]
    if done.returncode not in (0, 1):
        failed.append(f"pytest's exit code is {done.returncode}")
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    return Outcome(passed=passed, failed=failed, skipped=skipped, seconds=seconds, output=done.stdout)


def name_of(case: ET.Element) -> str:
    """As pytest takes it on the command line, nearly."""
    return f"{case.get('classname', '').replace('.', '/')}::{case.get('name')}"


def main() -> int:
    """Run what the command line asks for."""
    epilog = "conditions:\n" + "\n".join(f"  {name:<15} {c.what}" for name, c in CONDITIONS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "conditions", nargs="*", metavar="CONDITION", help="one of those below, or A+B: both at once; without one, all"
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--sample", action="store_true", help="a few tests, under some conditions")
    much.add_argument("--whole", action="store_true", help="all tests")
    ours, rest = sys.argv[1:], []
    if "--" in ours:
        ours, rest = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    options = parser.parse_args(ours)
    if unknown := [name for names in options.conditions for name in names.split("+") if name not in CONDITIONS]:
        parser.error(f"there is no condition {unknown[0]}")
    suites = {"computed": COMPUTED, "system": SYSTEM}
    if options.sample:
        suites = SAMPLES
    elif options.whole:
        suites = {"computed": [], "system": []}
    workers = [] if options.sample else ["-n", "2"]
    names = options.conditions or [name for name, c in CONDITIONS.items() if c.sampled or not options.sample]
    try:
        chosen = {name: together(name.split("+")) for name in names}
    except SameThingError as why:
        parser.error(str(why))

    print(f"{'condition':<15} {'passed':>6} {'failed':>6} {'skipped':>7} {'time':>7}", flush=True)
    trouble = []
    for name, condition in chosen.items():
        chosen_suites = [path for kind in condition.kinds for path in suites[kind]]
        try:
            found = run(condition, [*workers, *chosen_suites, *rest])
        except NotHereError as why:
            print(f"{name:<15} not on this machine: {why}", flush=True)
            continue
        counts = f"{found.passed:>6} {len(found.failed):>6} {found.skipped:>7}"
        print(f"{name:<15} {counts} {found.seconds:>5.0f} s", flush=True)
        if found.failed:
            trouble.append((name, found))
    for name, found in trouble:
        print(f"\n{name}: {chosen[name].what}\n{found.output[-6000:]}")
        print("\n".join(f"failed under {name}: {test}" for test in found.failed))
    return bool(trouble)


if __name__ == "__main__":
    sys.exit(main())
