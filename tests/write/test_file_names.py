"""Names that a file system cannot hold are refused before anything is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
import zero_model

import zeroconsolidate
from zeroconsolidate.errors import OutputFailed
from zeroconsolidate.write import file_names
from zeroconsolidate.write.file_names import refuse_names
from zeroconsolidate.write.refusals import refuse_unwritable

if TYPE_CHECKING:
    from pathlib import Path


def refuse(folder: Path, *names: str) -> None:
    refuse_names(str(folder), str(folder), names, output="out")


@pytest.mark.parametrize("form", ["{}", "{}/x", "x/{}/x", "x/{}"])
def test_as_many_bytes_as_the_file_system_takes(tmp_path: Path, form: str) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    refuse(tmp_path, form.format("n" * most))
    with pytest.raises(OutputFailed, match=f"a name is too long .*at most {most} bytes, got {most + 1}: 'éé"):
        refuse(tmp_path, form.format("é" * (most // 2) + "n" * (most % 2 + 1)))


def test_a_path_of_many_folders(tmp_path: Path) -> None:
    most = os.pathconf(tmp_path, "PC_PATH_MAX") - 1  # the byte at its end is counted
    name = "f/" * ((most - len(str(tmp_path)) - 2) // 2)
    name += "x" * (most - len(str(tmp_path)) - 1 - len(name))
    refuse(tmp_path, name)
    with pytest.raises(OutputFailed, match=f"a path is too long for the system; expected at most {most} bytes"):
        refuse(tmp_path, name + "x")


def test_names_that_differ_only_in_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = zero_model.Run(stage=2, world_size=2, groups=[{"layer.a": torch.ones(3), "layer.A": torch.ones(5)}])
    zero_model.save(run, tmp_path / "in")
    zeroconsolidate.universal(tmp_path / "in", tmp_path / "both")
    monkeypatch.setattr(file_names, "_folds_case", lambda _: True)
    with pytest.raises(OutputFailed, match=r"two names differ only in case.*got 'layer\.a' and 'layer\.A'"):
        zeroconsolidate.universal(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    zeroconsolidate.consolidate(tmp_path / "in", tmp_path / "model")  # in one file


def test_a_file_that_is_found_under_both_is_a_sign_of_it(tmp_path: Path) -> None:
    """Here it has both names."""
    (tmp_path / "a").touch()
    (tmp_path / "A").hardlink_to(tmp_path / "a")
    with pytest.raises(OutputFailed, match="got 'x' and 'X'"):
        refuse(tmp_path, "x/file", "X/file")
    with pytest.raises(OutputFailed, match="got 'x' and 'X'"):  # a dry run
        refuse_unwritable(str(tmp_path / "out"), {"x/file": 1, "X/file": 1})


def test_two_files_that_are_there_are_no_sign_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "A").touch()
    refuse(tmp_path, "x", "X")
