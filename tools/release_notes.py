"""Prints one version's section of CHANGELOG.md, for a release.

python tools/release_notes.py 0.1.0
python tools/release_notes.py               what is not released yet
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
UNRELEASED = "Unreleased"
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\].*$", re.MULTILINE)


def section(text: str, version: str) -> str:
    """What the changelog says of a version, without its heading. Raises LookupError if it says nothing."""
    headings = list(_HEADING.finditer(text))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading["version"] == version:
            found = text[heading.end() : following.start() if following else len(text)].strip()
            if found:
                return found
            raise LookupError(f"the section of {version} is empty")
    raise LookupError(f"there is no section of {version}, only of {', '.join(each['version'] for each in headings)}")


def main() -> int:
    """Print it, or say what there is instead."""
    version = sys.argv[1] if len(sys.argv) > 1 else UNRELEASED
    try:
        print(section(CHANGELOG.read_text(), version))
    except LookupError as error:
        print(f"release_notes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
