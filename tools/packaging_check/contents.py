"""What must be in a wheel and an sdist, and what must not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .builds import ROOT, in_sdist, in_wheel, metadata, tracked

if TYPE_CHECKING:
    from pathlib import Path

ALWAYS = {"numpy", "safetensors", "shtab", "tqdm"}
"""What an installation without extras brings."""
EXTRAS: dict[str, set[str]] = {
    "torch": {"torch"},
    "deepspeed": {"deepspeed", "torch"},
    "hub": {"huggingface-hub"},
    "xxh3": {"xxhash"},
    "answers": {"sentence-transformers", "torch", "transformers"},
    "quantize": {"torch", "transformers"},
    "s3": {"s3fs"},
    "gcs": {"gcsfs"},
    "azure": {"adlfs"},
    "hf": {"huggingface-hub"},
    "remote": {"adlfs", "gcsfs", "huggingface-hub", "s3fs"},
    "ray": {"ray"},
    "dask": {"distributed"},
    "mpi": {"mpi4py"},
}
"""By extra for users, what it brings among other things. torch is brought where it is named here, and only there."""
FOR_CONTRIBUTORS = {"test", "lint", "fuzz"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def complaints(wheel: Path, sdist: Path) -> list[str]:
    """What is wrong with them; empty if nothing is."""
    package = {name for name in tracked() if name.startswith("zeroconsolidate/")}
    return [*_wheel(wheel, package), *_sdist(sdist, package), *_metadata(wheel)]


def _wheel(wheel: Path, package: set[str]) -> list[str]:
    found = in_wheel(wheel)
    code = {name for name in found if ".dist-info/" not in name}
    others = {name.partition(".dist-info/")[2] for name in found - code}
    expected = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    return [
        *(f"the wheel lacks {name}" for name in sorted(package - code)),
        *(f"the wheel has {name}" for name in sorted(code - package)),
        *(f"the wheel's metadata: {name}" for name in sorted(others ^ expected)),
    ]


def _sdist(sdist: Path, package: set[str]) -> list[str]:
    found = in_sdist(sdist)
    needed = package | {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "CITATION.cff",
        "pyproject.toml",
        "PKG-INFO",
    }
    strangers = {name for name in found if name.startswith(("tests/", "tools/", ".ci/", ".github/", ".venv/"))}
    return [
        *(f"the sdist lacks {name}" for name in sorted(needed - found)),
        *(f"the sdist has {name}" for name in sorted(strangers)),
    ]


def _metadata(wheel: Path) -> list[str]:
    """Names, versions, classifiers, requirements: as the code and this file say."""
    said = metadata(wheel)
    version = re.search(r'"([^"]+)"', (ROOT / "zeroconsolidate/_version.py").read_text())
    requirements = said.get_all("Requires-Dist") or []
    always = {re.split(r"[^\w.-]", each)[0] for each in requirements if "extra ==" not in each}
    pythons = {f"Programming Language :: Python :: {python}" for python in PYTHONS}
    checks = {
        "version": version is not None and said["Version"] == version[1],
        "licence": (said["License-Expression"], said.get_all("License-File")) == ("Apache-2.0", ["LICENSE"]),
        "Pythons": said["Requires-Python"] == ">=3.10" and pythons <= set(said.get_all("Classifier") or []),
        "requirements": always == ALWAYS,
        "extras": set(said.get_all("Provides-Extra") or []) == set(EXTRAS) | FOR_CONTRIBUTORS,
        "description": said["Description-Content-Type"] == "text/markdown" and bool(said["Summary"]),
        "keywords": bool(said["Keywords"]),
    }
    return [f"the metadata's {name}: {requirements if name == 'requirements' else 'not as declared'}"
            for name, is_right in checks.items() if not is_right]  # fmt: skip
