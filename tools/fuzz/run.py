"""Coverage-guided fuzzing of everything that reads untrusted bytes.

    sh tools/fuzz.sh [SECONDS_PER_TARGET] [TARGET...]

makes an environment with atheris and runs this. New inputs go to `.fuzz/TARGET/`; a crash is written to
`.fuzz/TARGET/crash-*` and ends the run. `minimise` keeps the smallest set of inputs with the same coverage in
`tests/fuzz_corpus/TARGET/`, which the tests replay.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]

with atheris.instrument_imports(include=["zeroconsolidate"]):
    from targets import run

MAX_INPUT_BYTES = 4096


def main() -> None:
    """`run.py TARGET SECONDS`, or `run.py TARGET minimise`."""
    target, wish = sys.argv[1:3]
    found, kept = ROOT / ".fuzz" / target, ROOT / "tests" / "fuzz_corpus" / target
    for folder in (found, kept):
        folder.mkdir(parents=True, exist_ok=True)

    def one_input(data: bytes) -> None:
        run(target, data)

    limits = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
    if wish == "minimise":
        arguments = ["-merge=1", *limits, str(kept), str(found)]
    else:
        arguments = [f"-max_total_time={wish}", "-print_final_stats=1", f"-artifact_prefix={found}/", *limits,
                     str(found), str(kept)]  # fmt: skip
    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
