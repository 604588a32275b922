"""The pages that people read, in the order of reading: the README, then those that `docs/index.md` lists."""

from __future__ import annotations

from command import REPOSITORY as ROOT
from website.index import sections

README = ROOT / "README.md"
INDEX = ROOT / "docs/index.md"
LISTED = [(ROOT / "docs" / path).resolve() for _, entries in sections(INDEX.read_text()) for _, path, _ in entries]
"""As the index lists them, those outside of docs/ with the others."""

PAGES = [README, INDEX, *(page for page in LISTED if page.is_relative_to(ROOT / "docs"))]
WRITTEN = sorted((ROOT / "docs").rglob("*.md"))
"""What is in docs/, whether it is listed or not."""
