"""`zeroconsolidate.lightning` in the place of Lightning's: the same file, and where not, a reason."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import REPOSITORY, python
from drop_in import plain
from fixtures import FIXTURES
from fixtures_lib.zoo import TinyLM
from lightning_runs import KEPT, saved
from safetensors.torch import load_file

from zeroconsolidate import lightning as ours

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

DIFFERENT = {
    "the state of DeepSpeed itself": (
        "frozen weights once more, in the ranks' pieces (`frozen_param_fragments`)",
        "left out",
        "they are in the state dict",
    ),
    "`tag` that is not the latest": (
        "weights of the tag, epoch and hyperparameters of the latest",
        "all of the tag",
        "the tag is not passed on there",
    ),
    "frozen parameters": ("bfloat16 in a dict of float32", "float32", "as in `zero_to_fp32`"),
    "client state with objects of classes": (
        "a file that `load_from_checkpoint` refuses",
        "left out, with a warning",
        "torch's default is `weights_only=True`, and no code is run to read them",
    ),
}
"""Scenario -> what Lightning does, what is done here, why."""


@dataclass
class Point:
    """An object of a class that no loader knows."""

    x: int


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    pytest.importorskip("lightning")
    pytest.importorskip("deepspeed")
    from lightning.pytorch.utilities import deepspeed

    return deepspeed


def both(theirs: ModuleType, source: Path, folder: Path, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each returns, which is what is in its file."""
    found = []
    for number, module in enumerate((theirs, ours)):
        path = folder / f"{number}.ckpt"
        back = module.convert_zero_checkpoint_to_fp32_state_dict(source, path, **arguments)
        inside = torch.load(path, weights_only=False)
        assert plain(inside) == plain(back)
        found.append(back)
    return found[0], found[1]


@pytest.mark.parametrize("case", ["z1_bf16", "z2_w3", "z3_w4", "z3_groups"])
def test_the_same_file(case: str, theirs: ModuleType, tmp_path: Path) -> None:
    expected, found = both(theirs, saved(case, tmp_path / "run"), tmp_path)
    # Theirs keeps what DeepSpeed wrote for itself, too; of that nothing but copies of the weights is left out here.
    assert expected.keys() - found.keys() <= {"frozen_param_fragments"}
    assert list(found) == [key for key in expected if key in found]
    for key in found:
        if key not in ("param_shapes", "ds_config"):
            assert plain(found[key]) == plain(expected[key]), key
    assert found["state_dict"]["head.weight"] is found["state_dict"]["embed.weight"]


def test_load_from_checkpoint(theirs: ModuleType, tmp_path: Path) -> None:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self, layers: int, **more: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            tiny = TinyLM(layers=layers)
            for name, child in tiny.named_children():
                self.add_module(name, child)

    ours.convert_zero_checkpoint_to_fp32_state_dict(saved("z3_bf16", tmp_path / "run"), tmp_path / "a.ckpt")
    model = Module.load_from_checkpoint(tmp_path / "a.ckpt")
    assert dict(model.hparams) == KEPT["hyper_parameters"]
    for name, tensor in load_file(FIXTURES / "z3_bf16/expected.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_tag(theirs: ModuleType, tmp_path: Path) -> None:
    saved("z3_bf16", tmp_path / "run")
    saved("z3_bf16", tmp_path / "older", kept=KEPT | {"epoch": 1})
    (tmp_path / "older/checkpoint").rename(tmp_path / "run/older")
    expected, found = both(theirs, tmp_path / "run", tmp_path, tag="older")
    assert (expected["epoch"], found["epoch"]) == (3, 1)
    assert ours.ds_checkpoint_dir(tmp_path / "run", "older") == theirs.ds_checkpoint_dir(tmp_path / "run", "older")
    assert ours.ds_checkpoint_dir(str(tmp_path / "run")) == theirs.ds_checkpoint_dir(str(tmp_path / "run"))


def test_names_of_older_releases(theirs: ModuleType, tmp_path: Path) -> None:
    expected, found = both(theirs, saved("z3_bf16", tmp_path / "run", prefix="_forward_module."), tmp_path)
    assert plain(found["state_dict"]) == plain(expected["state_dict"])
    assert not any(name.startswith("_forward_module.") for name in found["state_dict"])


def test_frozen_parameters(theirs: ModuleType, tmp_path: Path) -> None:
    expected, found = both(theirs, saved("z3_frozen", tmp_path / "run"), tmp_path)
    dtypes = [{each.dtype for each in content["state_dict"].values()} for content in (expected, found)]
    assert torch.bfloat16 in dtypes[0]
    assert torch.bfloat16 not in dtypes[1]
    assert "frozen_param_fragments" in expected


def test_objects_are_left_out(theirs: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = KEPT | {"hyper_parameters": {"layers": 2, "point": Point(3), "several": [1, Point(4)]}, "more": Point(5)}
    source = saved("z3_bf16", tmp_path / "run", kept=kept)
    theirs.convert_zero_checkpoint_to_fp32_state_dict(source, tmp_path / "theirs.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "theirs.ckpt")
    with caplog.at_level(logging.WARNING):
        found = ours.convert_zero_checkpoint_to_fp32_state_dict(source, tmp_path / "ours.ckpt")
    assert found["hyper_parameters"] == {"layers": 2}
    assert "more" not in found
    assert "hyper_parameters.point, hyper_parameters.several.1, more" in caplog.text
    assert torch.load(tmp_path / "ours.ckpt")["epoch"] == 3


def test_signatures(theirs: ModuleType) -> None:
    for name in ("convert_zero_checkpoint_to_fp32_state_dict", "ds_checkpoint_dir"):
        own, other = (inspect.signature(getattr(module, name)).parameters for module in (ours, theirs))
        assert [(each.name, each.default) for each in own.values()] == [
            (each.name, each.default) for each in other.values()
        ]


def test_neither_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from zeroconsolidate.lightning import convert_zero_checkpoint_to_fp32_state_dict as convert;"
        "convert(sys.argv[1], sys.argv[2]);"
        "print(sorted({'deepspeed', 'lightning', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = python(code, saved("z3_bf16", tmp_path / "run"), tmp_path / "a.ckpt")
    assert done.stdout == "[]\n", done.stderr


def test_the_page_lists_what_differs() -> None:
    page = (REPOSITORY / "docs/zero-to-fp32.md").read_text()
    for scenario, cells in DIFFERENT.items():
        assert f"| {scenario} | {' | '.join(cells)} |" in page
