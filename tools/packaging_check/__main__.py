"""Builds the wheel and the sdist, checks what is in them, and uses the wheel in an empty environment.

    python -m packaging_check FOLDER                 all of it; FOLDER/dist has the wheel and the sdist afterwards
    python -m packaging_check FOLDER --pythons       instead of the empty environment: tests with every Python found
    python -m packaging_check FOLDER --extras        instead: what each extra would bring; minutes of waiting

`sh tools/test_install.sh` runs it in the environment that it needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .builds import built_twice
from .contents import complaints
from .extras import resolve
from .pythons import try_all
from .use import use


def main() -> int:
    """Exit code 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pythons", action="store_true")
    parser.add_argument("--extras", action="store_true")
    options = parser.parse_args()
    wheel, sdist, size_bytes = built_twice(options.folder.resolve())
    print(f"{wheel.name}, {sdist.name}: built twice, the same bytes; {size_bytes / 1e6:.1f} MB together")
    wrong = complaints(wheel, sdist)
    if wrong:
        print(*wrong, sep="\n")
        return 1
    print("contents and metadata: as declared")
    subprocess.run([sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist], check=True)
    if options.extras:
        return resolve(options.folder, wheel)
    return try_all(options.folder, wheel) if options.pythons else use(options.folder, wheel)


if __name__ == "__main__":
    sys.exit(main())
