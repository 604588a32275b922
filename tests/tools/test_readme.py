"""`tools/README.md` has a row for every file of `tools/`, and for none that is not there."""

from __future__ import annotations

import re

from command import REPOSITORY

TOOLS = REPOSITORY / "tools"
ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
FILE = re.compile(r"`([\w./]+\.\w+)`")


def test_every_file_has_its_row():
    rows = ROW.findall((TOOLS / "README.md").read_text())
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
    listed = [match[1] for cell in cells if (match := FILE.fullmatch(cell))]
    files = [path.relative_to(TOOLS).as_posix() for path in TOOLS.rglob("*.*") if path.is_file()]
    unlisted = ("__pycache__", "__init__.py", "README.md")
    assert sorted(listed) == sorted(name for name in files if not any(part in name for part in unlisted))
