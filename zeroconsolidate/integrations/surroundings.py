"""What a report of a bug needs to say about the machine: versions, file system, limits. Nothing is imported for it."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .._version import __version__

PACKAGES = (
    "numpy", "safetensors", "tqdm", "shtab", "torch", "deepspeed", "transformers", "peft", "accelerate", "lightning",
    "huggingface_hub", "sentence-transformers", "FlagEmbedding", "xxhash", "fsspec", "s3fs",
    "gcsfs", "adlfs", "ray", "distributed", "mpi4py",
)  # fmt: skip
VARIABLES = (
    "HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "PYTHONPATH", "LANG", "LC_ALL",
    "ZEROCONSOLIDATE_DEBUG", "NO_COLOR", "FORCE_COLOR",
)  # fmt: skip
"""Names are printed, and no values: these may be private."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where this package runs.

    Attributes
    ----------
    zeroconsolidate : str
        Its version.
    python : str
        Version and kind of the interpreter.
    platform : str
        Kernel, processor and C library.
    processors : int
        How many this process may use.
    memory_bytes : int or None
        Of the machine; None if it does not say.
    file_system : str
        Kind of the working directory's file system.
    free_bytes : int
        Room on it for this user.
    limits : dict
        Limit of a process, by name; None if there is none.
    packages : dict
        Version of each package that can play a part; None if it is not installed.
    variables : tuple of str
        Environment variables that are set, of those that can play a part.
    """

    zeroconsolidate: str
    python: str
    platform: str
    processors: int
    memory_bytes: int | None
    file_system: str
    free_bytes: int
    limits: dict[str, int | None]
    packages: dict[str, str | None]
    variables: tuple[str, ...]


_LIMITS = {
    "open files": "RLIMIT_NOFILE",
    "address space": "RLIMIT_AS",
    "data": "RLIMIT_DATA",
    "file size": "RLIMIT_FSIZE",
}


def surroundings() -> Surroundings:
    """Find it all out."""
    disk = os.statvfs(".")
    limits = {name: resource.getrlimit(getattr(resource, limit))[0] for name, limit in _LIMITS.items()}
    return Surroundings(
        zeroconsolidate=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        file_system=file_system(os.getcwd()),
        free_bytes=disk.f_bavail * disk.f_frsize,
        limits={name: None if limit == resource.RLIM_INFINITY else limit for name, limit in limits.items()},
        packages={package: _version(package) for package in PACKAGES},
        variables=tuple(name for name in VARIABLES if os.environ.get(name)),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def file_system(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """Kind of the file system that a path is on, as the kernel's list of mounts says; `unknown` without one."""
    found, longest = "unknown", -1
    with suppress(OSError), open(mounts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            point = fields.split(" ")[4].replace("\\040", " ")
            if f"{path}/".startswith(f"{point.rstrip('/')}/") and len(point) >= longest:
                found, longest = rest.split(" ")[0], len(point)
    return found if sys.platform == "linux" else "unknown"
