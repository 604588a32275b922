"""The repository's files -> a wheel and an sdist, built so that they are the same bytes wherever that happens."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = ("*.whl", "*.tar.gz")


def tracked() -> list[str]:
    """The files that git knows, and new ones that it would: what a fresh clone has, and what the next one will."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if name and (ROOT / name).is_file()]


def copied(folder: Path, names: list[str], *, modified: float, mode: int) -> Path:
    """A copy of these files, with other times and permissions than here: neither may get into what is built."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        target.chmod(mode)
        os.utime(target, (modified, modified))
    return folder


def built(source: Path, into: Path, epoch: str) -> dict[str, str]:
    """Build both; returns the digest of each by its name. The wheel is built from the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(source)]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": epoch, "TZ": "UTC"}
    )
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in DISTRIBUTIONS
        for path in into.glob(pattern)
    }


def built_twice(folder: Path) -> tuple[Path, Path, int]:
    """The wheel, the sdist, and the number of their files' bytes. Raises SystemExit if the second build differs."""
    names = [name for name in tracked() if not name.startswith(("tests/", "tools/"))]
    epoch = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    first = built(copied(folder / "one", names, modified=1e9, mode=0o644), folder / "dist", epoch)
    again = built(copied(folder / "two" / "deeper", names, modified=1.6e9, mode=0o600), folder / "again", epoch)
    if first != again:
        sys.exit(f"two builds of the same files differ: {first} {again}")
    (wheel,) = (folder / "dist").glob(DISTRIBUTIONS[0])
    (sdist,) = (folder / "dist").glob(DISTRIBUTIONS[1])
    return wheel, sdist, wheel.stat().st_size + sdist.stat().st_size


def in_wheel(wheel: Path) -> set[str]:
    """Names of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def in_sdist(sdist: Path) -> set[str]:
    """Names of the files in an sdist, without its own folder. Raises SystemExit for what is no file."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    if not all(member.isfile() for member in members):
        sys.exit("the sdist has other entries than files")
    return {member.name.partition("/")[2] for member in members}


def metadata(wheel: Path) -> Message:
    """The METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))
