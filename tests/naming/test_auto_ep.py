"""A Mixtral whose experts AutoEP replaced becomes a Mixtral again: real runs, values of the live engine."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.naming.auto_ep import as_before_auto_ep
from zeroconsolidate.plan.build import Selection
from zeroconsolidate.plan.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    import torch

transformers = pytest.importorskip("transformers", minversion="5")

CASES = sorted(path.name for path in (FIXTURES / "layouts").glob("autoep_z*"))
CONFIG = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 23, "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False,
}  # fmt: skip
"""Of the model that tools/layouts/models.py builds."""


@pytest.fixture(params=CASES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """(a checkpoint with its config.json, the live values)."""
    folder = FIXTURES / "layouts" / request.param
    shutil.copytree(folder / "checkpoint", tmp_path / "in")
    layers = {name.split(".")[2] for name in load_file(folder / "expected.safetensors") if ".layers." in name}
    (tmp_path / "in/config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": len(layers)}))
    return tmp_path / "in", load_file(folder / "expected.safetensors")


def as_transformers(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The live values, put together as `ep_repack.py` took them apart."""
    import torch

    found = {}
    for name, value in values.items():
        if name.endswith(".experts.w1"):
            up = values[name.removesuffix("1") + "3"]
            found[name.removesuffix("w1") + "gate_up_proj"] = torch.cat([value, up], dim=1)
        elif name.endswith(".experts.w2"):
            found[name.removesuffix("w2") + "down_proj"] = value
        elif name.endswith(".router.gate.weight"):
            found[name.removesuffix("router.gate.weight") + "gate.weight"] = value
        elif not name.endswith((".experts.w3", ".gate.gate.weight")):
            found[name] = value
    return found


def test_transformers_loads_it(run: Any, tmp_path: Path) -> None:
    checkpoint, values = run
    report = consolidate(checkpoint, tmp_path / "out")
    assert report.warnings == ()
    assert report.left_out == ()
    assert verify(tmp_path / "out").ok
    assert verify(tmp_path / "out", against=checkpoint).ok
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = as_transformers(values)
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(state[name].equal(value.float()) for name, value in expected.items())


def test_names_in_memory(run: Any, tmp_path: Path) -> None:
    checkpoint, values = run
    consolidate(checkpoint, tmp_path / "out", names="in-memory")
    written, expected = load_file(tmp_path / "out/model.safetensors"), as_transformers(values)
    assert written.keys() == expected.keys()
    assert all(written[name].equal(value.float()) for name, value in expected.items())


def test_all_is_written_once_if_ties_are_copied(run: Any, tmp_path: Path) -> None:
    consolidate(run[0], tmp_path / "out", ties="copy")
    assert verify(tmp_path / "out").ok


def test_stored_names_stay(tmp_path: Path) -> None:
    consolidate(FIXTURES / "layouts/autoep_z2/checkpoint", tmp_path / "out", names="stored")
    assert "model.layers.0.mlp.experts.w1" in load_file(tmp_path / "out/model.safetensors")


@pytest.mark.parametrize("shapes", [((4, 2, 3), (4, 3, 2), (4, 2, 2)), ((2, 3), (3, 2), (2, 3))])
def test_what_is_not_autoeps_is_left_alone(shapes: tuple[tuple[int, ...], ...]) -> None:
    recipe: Any = None
    named = {
        f"mlp.experts.w{number}": Source(name=f"mlp.experts.w{number}", shape=shape, recipe=recipe, role="trainable")
        for number, shape in enumerate(shapes, start=1)
    }
    selection = Selection(named=named, left_out=())
    assert as_before_auto_ep(selection).named == named
    del named["mlp.experts.w3"]
    assert as_before_auto_ep(selection).named == named
