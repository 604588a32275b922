"""`--base owner/name`: huggingface_hub's offline cache, and clear refusals."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from model_cases import ROOT

import zeroconsolidate
from zeroconsolidate.errors import BadOption
from zeroconsolidate.integrations import hub

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = ROOT / "m3_dense_only_z2/checkpoint"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base model in a cache as huggingface_hub lays it out, which is all that is looked at."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    repository, commit = tmp_path / "hub/models--owner--tiny-m3", "0" * 40
    shutil.copytree(ROOT / "_bases/xlmr", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    download = huggingface_hub.snapshot_download

    def offline(name: str, **options: object) -> str:
        return download(name, cache_dir=tmp_path / "hub", local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    return repository / "snapshots" / commit


def test_a_model_in_the_offline_cache(snapshot: Path, tmp_path: Path) -> None:
    assert os.path.samefile(hub.resolved("owner/tiny-m3"), snapshot)
    report = zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "out", base="owner/tiny-m3")
    assert (tmp_path / "out/colbert_linear.pt").read_bytes() == (snapshot / "colbert_linear.pt").read_bytes()
    assert any("copied from the base model" in note for note in report.notes)


def test_a_model_that_is_not_there(snapshot: Path) -> None:
    with pytest.raises(BadOption, match="no such directory: owner/other; huggingface_hub does not find it either: "):
        hub.resolved("owner/other")


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(BadOption, match=r"pip install 'zeroconsolidate\[hub\]'"):
        hub.resolved("owner/name")


@pytest.mark.parametrize("base", ["no-such-directory", "/no/such/directory", "a/b/c", "../up", ""])
def test_what_is_neither(base: str) -> None:
    with pytest.raises(BadOption, match=f"no such directory: {base or repr(base)}; it is not a hub id either"):
        hub.resolved(base)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadOption, match=r"the base model must be a directory; got the file .*model\.safetensors"):
        hub.resolved(str(tmp_path / "model.safetensors"))


def test_the_nearest_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ckpt/base_llama").mkdir(parents=True)
    (tmp_path / "ckpt/base_llamb").touch()
    mistyped = str(tmp_path / "ckpt/base_llamaa")
    with pytest.raises(
        BadOption, match=re.escape(f"no such directory: {mistyped}; it is not a hub id either; did you")
    ):
        hub.resolved(mistyped)
    # One that could be on the hub as well.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(BadOption, match=r"no such directory: ckpt/base_lama; .*; did you mean ckpt/base_llama\?;"):
        hub.resolved("ckpt/base_lama")
