"""What the optimizer keeps, beside a model: `convert --optimizer`."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import zero_model
from command import refusal, zeroconsolidate
from fixtures import FIXTURES, load_fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from zeroconsolidate import consolidate, estimate, verify
from zeroconsolidate.errors import BadOption, DamagedFile, UnsupportedLayout

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = FIXTURES / "z3_groups" / "checkpoint"


def states(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "optimizer" / "optimizer.safetensors")


def said(out: Path) -> dict[str, Any]:
    return json.loads((out / "optimizer" / "optimizer.json").read_text())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("stage", [1, 2, 3])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world_size=st.integers(1, 5), round_robin=st.booleans(), sub_group=st.integers(5, 200))
def test_states_are_what_was_saved(stage: int, world_size: int, round_robin: bool, sub_group: int, tmp_path: Path):
    changes: dict[str, Any] = {"sub_group_numel": sub_group} if stage == 3 else {"round_robin": round_robin}
    run = zero_model.example(stage, world_size, **changes)
    for folder in ("in", "out"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    zero_model.save(run, tmp_path / "in")
    consolidate(tmp_path / "in", tmp_path / "out", optimizer=True, dtype="bf16")
    masters = {name: tensor for group in run.groups for name, tensor in group.items()}
    found = states(tmp_path / "out")
    assert found.keys() == {f"{name}.{state}" for name in masters for state in ("exp_avg", "exp_avg_sq")}
    for name, master in masters.items():
        assert same(found[f"{name}.exp_avg"], master * 0.5)
        assert same(found[f"{name}.exp_avg_sq"], master * master)
    groups = said(tmp_path / "out")["param_groups"]
    assert [set(group["params"]) for group in groups] == [set(group) for group in run.groups]
    assert said(tmp_path / "out")["steps"] == dict.fromkeys(masters, float(run.step))


LAYOUTS = sorted(path.parent.name for path in (FIXTURES / "layouts").glob("*/expected_moments.safetensors"))


@pytest.mark.parametrize("case", LAYOUTS)
def test_states_of_every_layout_are_those_of_the_live_optimizer(case: str, tmp_path: Path):
    folder = FIXTURES / "layouts" / case
    how: dict[str, Any] = {"optimizer": True, "names": "stored", "replicas": "first"}
    try:
        consolidate(folder / "checkpoint", tmp_path / "out", **how)
    except (UnsupportedLayout, DamagedFile) as error:
        is_refused = case.startswith(("universal_", "writer_mock", "ds0_3_16_z1")) or re.search(
            r"(^|_)z0_fp32(?!_names)", case
        )
        assert is_refused, error
        return
    path = tmp_path / "out" / "optimizer" / "optimizer.safetensors"
    found = load_file(path) if path.exists() else {}
    expected = {}
    for key, value in load_file(folder / "expected_moments.safetensors").items():
        state, _, name = key.partition(":")
        # A layer that a pipeline ties has its name in its first place, which is the first layer.
        expected[f"{re.sub(r'^tied_modules[.][a-z]+', '0', name)}.{state}"] = value
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        # NaN is a value, too.
        ours, theirs = (tensor.to(value.dtype).reshape(-1).view(torch.uint8) for tensor in (found[name], value))
        assert torch.equal(ours, theirs), name


def test_settings_as_saved_and_names_in_the_order_of_the_module(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", optimizer=True)
    first, second, _ = said(tmp_path / "out")["param_groups"]
    assert first["params"][:3] == ["embed.weight", "layers.0.norm.weight", "layers.0.up.weight"]
    assert (first["lr"], first["betas"], first["weight_decay"]) == (0.003, [0.9, 0.999], 0.0)
    assert second["weight_decay"] == 0.01


def test_the_model_is_the_same_without_it(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "without")
    report = consolidate(SOURCE, tmp_path / "out", optimizer=True)
    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert [note for note in report.notes if note.startswith("optimizer/:")] == [
        "optimizer/: what the optimizer keeps of 13 parameters (exp_avg, exp_avg_sq), as stored, with settings and "
        "steps"
    ]
    assert {"optimizer/optimizer.safetensors", "optimizer/optimizer.json"} <= report.files.keys()
    assert sum(report.files[file] for file in report.files if file.endswith(".safetensors")) == report.bytes_written
    assert estimate(SOURCE, optimizer=True).output_bytes == report.bytes_written


def test_names_and_layout_are_those_of_the_output(tmp_path: Path):
    """Experts that are one tensor in memory are one each in files, and so are what the optimizer keeps of them."""
    case = FIXTURES / "models" / "qwen3_moe_z2"
    consolidate(case / "checkpoint", tmp_path / "hub", optimizer=True)
    consolidate(case / "checkpoint", tmp_path / "stored", optimizer=True, names="stored")
    hub, stored = states(tmp_path / "hub"), states(tmp_path / "stored")
    weights = load_file(tmp_path / "hub" / "model.safetensors")
    assert {key.rpartition(".")[0] for key in hub} == weights.keys()
    assert all(hub[f"{name}.exp_avg"].shape == weight.shape for name, weight in weights.items())
    fused = next(name for name in stored if name.endswith("experts.gate_up_proj.exp_avg"))
    layer = fused.removesuffix("gate_up_proj.exp_avg")
    experts, rows, _ = stored[fused].shape
    for expert in range(experts):
        gate, up = (hub[f"{layer}{expert}.{part}_proj.weight.exp_avg"] for part in ("gate", "up"))
        assert same(torch.cat([gate, up]), stored[fused][expert])
        assert len(gate) == rows // 2
    listed = said(tmp_path / "hub")["param_groups"]
    assert {name for group in listed for name in group["params"]} == weights.keys()


def test_a_tied_weight_has_its_states_once(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", optimizer=True, ties="copy")
    assert "head.weight" in load_file(tmp_path / "out" / "model.safetensors")
    assert "embed.weight.exp_avg" in states(tmp_path / "out")
    assert not [key for key in states(tmp_path / "out") if key.startswith("head.")]
    assert verify(tmp_path / "out", against=SOURCE).ok
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    for ties in ("copy", "drop"):
        consolidate(source, tmp_path / ties, optimizer=True, ties=ties)
        keys = [key for key in states(tmp_path / ties) if key.endswith("exp_avg") and ("head" in key or "tok" in key)]
        assert keys == ["model.embed_tokens.weight.exp_avg"]
        assert verify(tmp_path / ties, against=source).ok


def test_only_what_is_written_and_was_trained(tmp_path: Path):
    frozen = FIXTURES / "z2_frozen" / "checkpoint"
    consolidate(frozen, tmp_path / "out", optimizer=True, exclude=["layers.1.*"])
    names = {key.rpartition(".")[0] for key in states(tmp_path / "out")}
    assert names == {
        name
        for name in load_fixture("z2_frozen").provenance["trainable"]
        if not name.startswith("layers.1.")
    }  # fmt: skip


def test_heads_in_files_of_their_own(tmp_path: Path):
    consolidate(FIXTURES / "models" / "m3_z2" / "checkpoint", tmp_path / "out", optimizer=True)
    found = states(tmp_path / "out")
    heads = torch.load(tmp_path / "out" / "colbert_linear.pt", weights_only=True)
    assert found["colbert_linear.weight.exp_avg"].shape == heads["weight"].shape


def test_adapters(tmp_path: Path):
    source = FIXTURES / "models" / "lora_z3" / "checkpoint"
    consolidate(source, tmp_path / "out", optimizer=True)
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    found = states(tmp_path / "out")
    assert {key.rpartition(".")[0] for key in found} == adapter.keys()
    assert all(found[f"{name}.exp_avg"].shape == tensor.shape for name, tensor in adapter.items())
    assert verify(tmp_path / "out", against=source).ok
    with pytest.raises(BadOption, match=r'cannot be used with lora="merge".*; lora="adapter"$'):
        consolidate(source, tmp_path / "merged", optimizer=True, lora="merge", base=FIXTURES / "models/_bases/llama")


def test_shards_with_an_index_of_their_own(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "whole", optimizer=True)
    report = consolidate(SOURCE, tmp_path / "out", optimizer=True, max_shard_size="1500B", digest="sha256")
    folder = tmp_path / "out" / "optimizer"
    index = json.loads((folder / "optimizer.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {path.name for path in folder.glob("*-of-*.safetensors")}
    assert len(set(index.values())) > 2
    together: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        together |= load_file(path)
    whole = states(tmp_path / "whole")
    assert together.keys() == whole.keys() == index.keys()
    assert all(same(together[name], tensor) for name, tensor in whole.items())
    assert "optimizer/optimizer-00001-of-00004.safetensors" in report.files
    assert verify(tmp_path / "out").ok
    assert verify(tmp_path / "out", against=SOURCE).ok


def damage(path: Path, key: str) -> None:
    """Change one element of a tensor."""
    with safe_open(path, "pt") as file:
        header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
        assert key in file.keys()  # noqa: SIM118
    content = bytearray(path.read_bytes())
    start = json.loads(content[8 : 8 + header_bytes])[key]["data_offsets"][0]
    content[8 + header_bytes + start] ^= 0xFF
    path.write_bytes(content)


def test_verify_sees_a_changed_state(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", optimizer=True, digest="sha256")
    damage(tmp_path / "out" / "optimizer" / "optimizer.safetensors", "layers.0.up.weight.exp_avg")
    (alone,) = verify(tmp_path / "out").problems
    assert alone.startswith("optimizer/optimizer.safetensors: the sha256 differs")
    (against,) = verify(tmp_path / "out", against=SOURCE).problems
    assert against.startswith("optimizer/layers.0.up.weight.exp_avg: differs first at element [0, 0]")


def test_verify_sees_that_states_are_lost(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", optimizer=True)
    (tmp_path / "out" / "optimizer" / "optimizer.safetensors").unlink()
    assert verify(tmp_path / "out").problems == ("optimizer/optimizer.safetensors: no such file or directory",)


def test_states_of_another_model_do_not_stay(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", optimizer=True, max_shard_size="1500B")
    (tmp_path / "out" / "optimizer" / "notes.txt").write_text("mine")
    consolidate(SOURCE, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out" / "optimizer").iterdir()] == ["notes.txt"]


def test_loaders_of_models_do_not_see_it(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    source = FIXTURES / "trainer_zero3_tied" / "checkpoint"
    consolidate(source, tmp_path / "without")
    consolidate(source, tmp_path / "out", optimizer=True)
    models = []
    for folder in ("without", "out"):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        models.append(model.state_dict())
    assert all(same(models[1][name], tensor) for name, tensor in models[0].items())
    # vLLM and SGLang take every safetensors file of the directory itself.
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("adamw_8bit_z2", "the optimizer's state '__bnb_optimizer_quant_state__' is not laid out"),
        ("z0_fp32", "nothing says of which parameters the optimizer's state 'exp_avg', 'exp_avg_sq' is"),
        ("ds0_3_16_z1", r"such a checkpoint keeps is not read \(FP16_DeepSpeedZeroOptimizer_Stage1\)"),
        ("universal_z1", r"such a checkpoint keeps is not read \(universal checkpoint\)"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(case: str, why: str, tmp_path: Path):
    source = FIXTURES / "layouts" / case / "checkpoint"
    with pytest.raises(UnsupportedLayout, match=why):
        consolidate(source, tmp_path / "out", optimizer=True, weights_only=True)
    assert not (tmp_path / "out").exists()


def test_lost_states_are_not_rescued(tmp_path: Path):
    shutil.copytree(FIXTURES / "z2_w3" / "checkpoint", tmp_path / "in")
    next((tmp_path / "in").rglob("*zero_pp_rank_1_*optim_states.pt")).unlink()
    done = zeroconsolidate("convert", tmp_path / "in", tmp_path / "out", "--rescue", "--optimizer")
    assert "lost states of an optimizer cannot be rescued; convert without --optimizer" in refusal(done)


def test_an_optimizer_that_keeps_nothing_of_an_element(tmp_path: Path):
    report = consolidate(FIXTURES / "layouts" / "sgd_z1" / "checkpoint", tmp_path / "out", optimizer=True)
    assert [path.name for path in (tmp_path / "out" / "optimizer").iterdir()] == ["optimizer.json"]
    assert said(tmp_path / "out")["param_groups"][0]["params"]
    assert any("no state of any element" in note for note in report.notes)
