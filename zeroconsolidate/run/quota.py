"""The processor time that a container may use -> processors: what `sched_getaffinity` does not know of.

Kubernetes, Docker and systemd limit a group of processes to so many microseconds in each period (Linux
`Documentation/admin-guide/cgroup-v2.rst`, `cpu.max`; for the first version `Documentation/scheduler/sched-bwc.rst`).
More threads than that do not run faster: all of them stand still until the next period begins.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = "/sys/fs/cgroup"
OWN = "/proc/self/cgroup"


def allowed(groups: str = GROUPS, own: str = OWN) -> int | None:
    """How many processors the least limit on the way to our group is worth, rounded up; None if there is no limit."""
    found = [quota for folder in _folders(groups, own) for quota in _quotas(folder)]
    return max(math.ceil(min(found)), 1) if found else None


def _folders(groups: str, own: str) -> Iterator[str]:
    """Our group and those above it, of both versions. In a container its own group may be seen as the root."""
    try:
        with open(own, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            root = groups
        elif "cpu" in controllers.split(","):
            root = next((each for each in (f"{groups}/{controllers}", f"{groups}/cpu") if os.path.isdir(each)), groups)
        else:
            continue
        names = [name for name in path.split("/") if name]
        for depth in range(len(names), -1, -1):
            yield os.path.join(root, *names[:depth])


def _quotas(folder: str) -> Iterator[float]:
    """The limit of a group, in processors."""
    second = _numbers(os.path.join(folder, "cpu.max"))
    first = [*_numbers(os.path.join(folder, "cpu.cfs_quota_us")), *_numbers(os.path.join(folder, "cpu.cfs_period_us"))]
    for numbers in (second, first):
        if len(numbers) == 2 and min(numbers) > 0:  # `max`, or -1, is no limit
            yield numbers[0] / numbers[1]


def _numbers(path: str) -> list[int]:
    """The numbers in a file: none if it is not there, or says something else."""
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return [int(word) for word in file.read(100).split()]
    return []
