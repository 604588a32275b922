"""Builds the documentation site, strictly, and checks what was built.

PYTHONPATH=tools python -m website FOLDER      in the environment of tools/envs/site.txt
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from website.built import broken
from website.stage import beside, stage


def main() -> int:
    """Build; the exit code is 0 if all is well."""
    parser = argparse.ArgumentParser(prog="website", description="Builds the documentation site.")
    parser.add_argument("folder", type=Path, help="where: FOLDER/html, beside what Sphinx reads")
    folder = parser.parse_args().folder.resolve()
    source, html = folder / "source", folder / "html"
    stage(source)
    conf = Path(__file__).parent
    options = ["-n", "-W", "--keep-going", "-q", "-E", "-a", "-b", "html", "-c", str(conf)]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options, str(source), str(html)], check=False)
    if done.returncode:
        return done.returncode
    beside(html)
    problems = broken(html)
    print("\n".join(problems) or f"{html}/index.html: {len(list(html.rglob('*.html')))} pages, no broken link")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
