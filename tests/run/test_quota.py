"""Limits of processor time, as Linux shows them in both versions of its control groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zeroconsolidate.run.quota import allowed

if TYPE_CHECKING:
    from pathlib import Path


def found(tmp_path: Path, own: str, files: dict[str, str]) -> int | None:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return allowed(str(tmp_path / "groups"), str(tmp_path / "own"))


@pytest.mark.parametrize(
    ("content", "processors"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 50000\n", 32),
        ("max 100000\n", None),
        ("max\n", None),
        ("\n", None),
        ("a b\n", None),
        ("100000 0\n", None),
    ],
)
def test_the_second_version(content: str, processors: int | None, tmp_path: Path) -> None:
    assert found(tmp_path, "0::/\n", {"cpu.max": content}) == processors


def test_the_least_limit_on_the_way_counts(tmp_path: Path) -> None:
    files = {
        "kubepods.slice/cpu.max": "800000 100000\n",
        "kubepods.slice/pod1/cpu.max": "300000 100000\n",
        "kubepods.slice/pod1/own/cpu.max": "max 100000\n",
        "kubepods.slice/pod2/cpu.max": "100000 100000\n",
    }
    assert found(tmp_path, "0::/kubepods.slice/pod1/own\n", files) == 3


def test_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    """The path is that of the host, which the container does not see."""
    assert found(tmp_path, "0::/system.slice/docker-1.scope\n", {"cpu.max": "200000 100000\n"}) == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("inside", ["/docker/1", ""])
def test_the_first_version(folder: str, inside: str, tmp_path: Path) -> None:
    files = {
        f"{folder}{inside}/cpu.cfs_quota_us": "250000\n",
        f"{folder}{inside}/cpu.cfs_period_us": "100000\n",
        "memory/docker/1/cpu.max": "100000 100000\n",
    }
    assert found(tmp_path, "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/\n", files) == 3


def test_the_first_version_without_a_limit(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert found(tmp_path, "4:cpu:/\n", files) is None


def test_a_system_without_groups(tmp_path: Path) -> None:
    assert allowed(str(tmp_path), str(tmp_path / "nothing")) is None
    assert found(tmp_path, "", {"cpu.max": "100000 100000\n"}) is None
