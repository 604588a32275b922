"""Coverage-guided fuzzing of everything that reads untrusted bytes.

    sh tools/fuzz.sh [SECONDS_PER_TARGET] [TARGET...]

makes an environment with atheris and runs this. New inputs go to `.fuzz/TARGET/`; a crash is written to
`.fuzz/TARGET/crash-*` and ends the run.

    python tools/fuzz/run.py TARGET minimise

keeps the smallest sets of accepted and of refused inputs with the coverage of all there are. They lie in
`tests/fuzz_corpus/TARGET/`, and the tests replay them, and every input that something was found with (`found-*`).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]

with atheris.instrument_imports(include=["zeroconsolidate"]):
    from targets import run

MAX_INPUT_BYTES = 4096


def main() -> None:
    """`run.py TARGET SECONDS`, `run.py TARGET minimise`, or `run.py TARGET` and arguments of libFuzzer's own."""
    target, wish, *more = sys.argv[1:]
    found, kept = ROOT / ".fuzz" / target, ROOT / "tests" / "fuzz_corpus" / target
    for folder in (found, kept):
        folder.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
    if wish == "minimise":
        minimise(target, found, kept, limits)
    elif wish.startswith("-"):
        fuzz(target, [wish, *more])
    else:
        fuzz(target, [f"-max_total_time={wish}", "-print_final_stats=1", f"-artifact_prefix={found}/", *limits,
                      str(found), str(kept)])  # fmt: skip


def fuzz(target: str, arguments: list[str]) -> None:
    """Hand over to libFuzzer, which never returns."""

    def one_input(data: bytes) -> None:
        run(target, data)

    # It starts itself again by this line when it merges.
    atheris.Setup([f"{sys.executable} {__file__} {target}", *arguments], one_input)
    atheris.Fuzz()


def minimise(target: str, found: Path, kept: Path, limits: list[str]) -> None:
    """Of the inputs that are accepted keep the smallest set with the coverage of all, and so of those refused."""
    chosen: set[bytes] = set()
    everything = {path.read_bytes() for folder in (kept, found) for path in folder.iterdir()}
    with tempfile.TemporaryDirectory() as name:
        for verdict in (True, False):
            into, out_of = Path(name, f"chosen-{verdict}"), Path(name, f"all-{verdict}")
            into.mkdir()
            out_of.mkdir()
            for data in everything:
                if run(target, data) is verdict:
                    (out_of / named(data)).write_bytes(data)
            command = [sys.executable, __file__, target, "-merge=1", *limits, str(into), str(out_of)]
            subprocess.run(command, check=True)
            chosen |= {path.read_bytes() for path in into.iterdir()}
    for path in kept.iterdir():
        if path.name.startswith("found-"):
            chosen.discard(path.read_bytes())
        else:
            path.unlink()
    for data in chosen:
        (kept / named(data)).write_bytes(data)
    print(f"{target}: {len(list(kept.iterdir()))} inputs kept of {len(everything)}")


def named(data: bytes) -> str:
    """The name of an input: what it holds."""
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
