"""Models of diffusers: the names of its files, and its class in the last line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from fixtures import FIXTURES
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.errors import WrongNames
from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0", "sample_size": 8})
NAME = "diffusion_pytorch_model"
TRUTH = load_file(FIXTURES / "z2_bf16" / "expected.safetensors")


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def asked(_config: bytes) -> None:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(asking, "ask", asked)
    checkpoint = shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "ckpt")
    (checkpoint / "config.json").write_text(CONFIG)
    return checkpoint


def test_one_file(checkpoint: Path, tmp_path: Path) -> None:
    report = consolidate(checkpoint, tmp_path / "out")
    written = load_file(tmp_path / "out" / f"{NAME}.safetensors")
    assert {name: value.tolist() for name, value in written.items()} == {n: v.tolist() for n, v in TRUTH.items()}
    assert report.load_line == f'UNet2DModel.from_pretrained("{tmp_path / "out"}")'
    assert report.missing == ()
    assert any("diffusers, which is not asked; name the original model with --base" in text for text in report.warnings)
    assert verify(tmp_path / "out").ok
    assert verify(tmp_path / "out", against=checkpoint).problems == ()


def test_shards(checkpoint: Path, tmp_path: Path) -> None:
    consolidate(checkpoint, tmp_path / "out")
    consolidate(checkpoint, tmp_path / "out", max_shard_size="2KB", overwrite=True)
    index = json.loads((tmp_path / "out" / f"{NAME}.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert files == set(index["weight_map"].values())
    assert len(files) > 1
    assert all(name.startswith(f"{NAME}-0000") for name in files)
    assert verify(tmp_path / "out").ok
    consolidate(checkpoint, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / f"{NAME}.safetensors.index.json").exists()
    assert verify(tmp_path / "out").ok


@pytest.mark.parametrize("place", ["beside", "base"])
def test_names_are_held_against_what_is_there(place: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = checkpoint if place == "beside" else tmp_path / "base"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(CONFIG)
    save_file({f"x.{name}": torch.zeros_like(value) for name, value in TRUTH.items()}, folder / f"{NAME}.safetensors")
    base = {} if place == "beside" else {"base": folder}
    report = consolidate(checkpoint, tmp_path / "out", **base)
    assert all(name.startswith("x.") for name in load_file(tmp_path / "out" / f"{NAME}.safetensors"))
    assert "prefix 'x.' added" in report.names
    save_file({f"{n}.other": torch.zeros_like(v) for n, v in TRUTH.items()}, folder / f"{NAME}.safetensors")
    with pytest.raises(WrongNames):
        consolidate(checkpoint, tmp_path / "out", overwrite=True, **base)


def test_the_config_of_the_base(tmp_path: Path, checkpoint: Path) -> None:
    """accelerate's folders have none: it lies beside the model that training began with."""
    (checkpoint / "config.json").unlink()
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(CONFIG)
    save_file(TRUTH, base / f"{NAME}.safetensors")
    consolidate(checkpoint, tmp_path / "out", base=base)
    assert (tmp_path / "out" / f"{NAME}.safetensors").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_class_name_that_is_none_is_not_printed(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "config.json").write_text(CONFIG.replace("UNet2DModel", "__import__('os').system"))
    assert consolidate(checkpoint, tmp_path / "out").load_line.startswith("ModelMixin.from_pretrained")
