"""Universal checkpoints of every layout: tensor, pipeline and expert parallel, other optimizers, older releases.

The values are held against those of the live engines, and the whole fragments against what DeepSpeed's own converter
writes, where it is right.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate, universal, verify
from zeroconsolidate.errors import Disagreement, UnsupportedLayout
from zeroconsolidate.opening.open import open_catalog
from zeroconsolidate.opening.opened import of_catalog
from zeroconsolidate.outputs.universal.output import plan_universal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LAYOUTS = FIXTURES / "layouts"
ELSEWHERE = re.compile(r"universal_.*|writer_mock|ds0_3_.*")
"""Those that other tests refuse, and files that do not say which DeepSpeed wrote them."""
NOT_WRITTEN = re.compile(r".*z0_fp32(?!_names).*|pp2_z0_fp16")
CASES = sorted(
    path.parent.name
    for path in LAYOUTS.glob("*/expected_moments.safetensors")
    if not ELSEWHERE.fullmatch(path.parent.name) and not NOT_WRITTEN.fullmatch(path.parent.name)
)
EXPERT = re.compile(r"(?P<layer>.*deepspeed_experts\.)(?P<expert>\d+)(?P<rest>\..*)")

Fragments = dict[str, dict[str, Any]]


def written(case: str, out: Path) -> Fragments:
    """By folder and file: what torch loads of the universal checkpoint of a fixture."""
    pytest.importorskip("deepspeed")  # its SubparamShape is in some
    facts = json.loads((LAYOUTS / case / "provenance.json").read_text())
    universal(LAYOUTS / case / "checkpoint", out, replicas="first" if facts["replicas_differ"] else "equal")
    return fragments(out)


def fragments(out: Path) -> Fragments:
    zero = out / (out / "latest_universal").read_text() / "zero"
    return {
        folder.name: {path.stem: torch.load(path, weights_only=False) for path in folder.iterdir()}
        for folder in zero.iterdir()
        if folder.is_dir()
    }


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """NaN equals itself."""
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def aliases(case: str) -> dict[str, str]:
    """Second names of tied parameters, as the fixture's maker saw them."""
    ties: dict[str, str] = json.loads((LAYOUTS / case / "provenance.json").read_text())["ties"]
    return ties


def truths(case: str) -> dict[str, dict[str, torch.Tensor]]:
    """Parameter -> `fp32` and moments, as the live engine had them."""
    weights, moments = (load_file(LAYOUTS / case / f"expected{end}.safetensors") for end in ("", "_moments"))
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, moment in moments.items():
        state, _, name = key.partition(":")
        name = aliases(case).get(name, name)
        found.setdefault(name, {"fp32": weights[name]})[state] = moment
    return found


def by_global_name(found: Fragments, case: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors under the names of the model: tied layers under their index, and each expert by itself."""
    names = truths(case)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for folder, held in found.items():
        match = EXPERT.fullmatch(folder)
        alike = [name for name in found if match and (m := EXPERT.fullmatch(name)) and same_layer(m, match)]
        experts = [name for name in names if match and (m := EXPERT.fullmatch(name)) and same_layer(m, match)]
        for state, content in held.items():
            if state == "step":
                continue
            if match is None or not experts:
                tensors.setdefault(aliases(case).get(folder, folder), {})[state] = content["param"]
                continue
            for rank, own in enumerate(content["param"].chunk(len(experts) // len(alike))):
                expert = rank * len(alike) + int(match["expert"])
                tensors.setdefault(f"{match['layer']}{expert}{match['rest']}", {})[state] = own
    return tensors


def same_layer(one: re.Match[str], other: re.Match[str]) -> bool:
    return (one["layer"], one["rest"]) == (other["layer"], other["rest"])


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_live_engine(case: str, tmp_path: Path):
    found = by_global_name(written(case, tmp_path / "out"), case)
    expected = truths(case)
    if expected:  # an optimizer without any state is in the other test
        assert found.keys() == expected.keys()
    for name, truth in expected.items():
        assert found[name].keys() == truth.keys(), name
        for state, tensor in truth.items():
            # What was saved in bf16 (Muon at stage 3) is in bf16; the engine's getter casts.
            own = found[name][state].to(tensor.dtype)
            assert bits(own) == bits(tensor if tensor.dim() else tensor[None]), f"{state} of {name}"
    against = verify(tmp_path / "out", against=LAYOUTS / case / "checkpoint")
    assert against.problems == ()


@pytest.mark.parametrize("case", CASES)
def test_it_converts_to_the_same_model(case: str, tmp_path: Path):
    """Frozen parameters, buffers and ties are in the files of models, layers and experts."""
    source = LAYOUTS / case / "checkpoint"
    written(case, tmp_path / "out")
    for name, src in (("straight", source), ("around", tmp_path / "out")):
        consolidate(src, tmp_path / name, names="stored", replicas="first", weights_only=True)
    straight, around = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "around"))
    assert straight.keys() == around.keys()
    assert all(bits(around[name]) == bits(tensor) for name, tensor in straight.items())


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "z0_fp32",
            "nothing says of which parameters the optimizer's state 'exp_avg', 'exp_avg_sq' is; it would be lost",
        ),
        ("tp2_z0_fp32", "nothing says of which parameters"),
        ("pp2_z0_fp16", r"0\.weight: the layer is tied over pipeline stages, and no file says what ranks call it"),
        ("adamw_8bit_z3", "'__bnb_optimizer_quant_state__' is not laid out like the parameters"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(case: str, message: str, tmp_path: Path):
    with pytest.raises(UnsupportedLayout, match=message):
        universal(LAYOUTS / case / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_settings_of_stage_0_are_those_of_its_param_groups(tmp_path: Path):
    written("z0_fp16_fused", tmp_path / "out")
    path = tmp_path / "out" / "global_step3_universal" / "zero" / "optimizer_state.pt"
    state = torch.load(path, weights_only=False)
    assert [group["weight_decay"] for group in state["param_groups"]] == [0.01, 0.0]
    assert (state["zero_stage"], state["clip_grad"]) == (0, 1.0)
    assert "loss_scaler" not in state  # of which stage 0 saves too little


def test_a_moment_that_is_not_beside_its_master_on_nvme(tmp_path: Path):
    source = tmp_path / "in"
    shutil.copytree(LAYOUTS / "nvme_z3" / "checkpoint", source)
    (path,) = source.glob("*/offloaded_tensors/rank01/exp_avg_sq-*")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnsupportedLayout, match=r"'exp_avg_sq' is shorter than the masters.*its file is not there"):
        universal(source, tmp_path / "out")
    path.unlink()
    with pytest.raises(UnsupportedLayout, match=r"'exp_avg_sq' is shorter than the masters"):
        universal(source, tmp_path / "out")


def theirs(case: str, out: Path) -> Fragments:
    """What DeepSpeed's converter writes."""
    converter = pytest.importorskip("deepspeed.checkpoint.ds_to_universal")
    source = LAYOUTS / case / "checkpoint"
    tag = (source / "latest").read_text().strip()
    out.mkdir()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        converter.main(
            argparse.Namespace(
                input_folder=str(source / tag), output_folder=str(out / f"{tag}_universal"), num_extract_workers=1,
                num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=True,
            )
        )  # fmt: skip
    return fragments(out)


AS_THEIRS = [
    case
    for case in CASES
    if re.fullmatch(r"(tp2_(bf16opt|z.*)|pp2_.*|ds0_14_4_z1_pp2|megatron_.*|autoep_.*|bf16opt_.*)", case)
    and case not in ("tp2_z2_rr_dp2", "tp2_z0_bf16", "megatron_tp2_pp2_z0")
    and not case.startswith("pp2_z0")
]


@pytest.mark.parametrize("case", AS_THEIRS)
def test_all_that_is_in_a_fragment_is_what_deepspeeds_converter_writes(case: str, tmp_path: Path):
    ours, expected = written(case, tmp_path / "ours"), theirs(case, tmp_path / "theirs")
    for name, held in ours.items():
        for state, own in held.items():
            if state not in expected[name] and state == "step":
                continue  # at stage 3 it writes none
            its = expected[name][state]
            if not isinstance(its, dict):  # at stage 3: the tensor alone, flat
                own, its = (own, its) if state == "step" else (own["param"].flatten(), its)
                assert bits(torch.as_tensor(own)) == bits(torch.as_tensor(its))
                continue
            assert bits(own.pop("param")) == bits(its.pop("param")), f"{state} of {name}"
            assert own == its, f"{state} of {name}"
    others = expected.keys() - ours.keys()
    assert all(expected[name].keys() == {"fp32"} for name in others), "buffers, frozen parameters, ties"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("ds0_19_5_z2_tp2", r"Unused patterns=\['\^head"),
        ("ds0_19_5_z3_tp2", r"Unused patterns=\['\^head"),
        ("moe_ep2_z2", "is invalid for input of size "),
        ("megatron_tp2_pp2_z0", "param_shapes must contain dictionaries"),
        ("z0_bf16", "can't find \\*_optim_states.pt files"),
        ("tp2_z2_rr_dp2", "hold different data for the same block"),
    ],
)
def test_where_deepspeeds_converter_fails(case: str, message: str, tmp_path: Path):
    """Ours are those of the live engine: `test_values_are_those_of_the_live_engine`."""
    assert case in CASES
    with pytest.raises((AssertionError, RuntimeError, ValueError, FileNotFoundError), match=message):
        theirs(case, tmp_path / "theirs")


def test_where_deepspeeds_converter_is_wrong(tmp_path: Path):
    """Before version 0.3 AutoTP's lists lack what is replicated: it takes the copies for parts."""
    expected = truths("ds0_18_9_z1_tp2")["embed.weight"]["fp32"]
    ours, its = (make("ds0_18_9_z1_tp2", tmp_path / make.__name__) for make in (written, theirs))
    assert bits(ours["embed.weight"]["fp32"]["param"]) == bits(expected)
    assert bits(its["embed.weight"]["fp32"]["param"]) == bits(torch.cat([expected, expected]))


def test_experts_of_one_name_are_stacked_for_the_loader_to_cut(tmp_path: Path):
    found = written("moe_ep2_dp4_z1", tmp_path / "out")
    names = [name for name in found if ".deepspeed_experts." in name and name.startswith("layers.0")]
    assert {EXPERT.fullmatch(name)["expert"] for name in names} == {"0", "1"}  # type: ignore[index]
    for name in names:
        fragment = found[name]["fp32"]
        assert fragment["is_expert_param"] is True
        assert fragment["ep_num_experts"] == fragment["param"].shape[0] == 14


def test_experts_that_are_not_spread_are_as_any_parameter_beside_others_that_are(tmp_path: Path):
    found = written("moe_two_degrees_z1", tmp_path / "out")
    marked = {name.partition(".deepspeed_moe")[0] for name, held in found.items() if "is_expert_param" in held["fp32"]}
    assert marked == {"layers.0.mixtures.1", "layers.1.mixtures.1"}


def test_experts_of_several_degrees_are_refused():
    """The loader knows the largest only."""
    opened = of_catalog(open_catalog(str(LAYOUTS / "moe_ep2_dp4_z1" / "checkpoint"), None))
    origin = opened.catalog.origin
    wider = replace(opened.catalog, origin=replace(origin, degrees=replace(origin.degrees, ep=4)))
    with pytest.raises(UnsupportedLayout, match=r"experts are spread over 2 ranks, and others over 4.*experts\.0\.0"):
        plan_universal(replace(opened, catalog=wider))


def edited(case: str, folder: Path, change: Callable[[dict[str, Any]], None], *, only: str) -> Path:
    """A copy of a fixture with `change` made in the optimizer files whose names match `only`."""
    pytest.importorskip("deepspeed")
    shutil.copytree(LAYOUTS / case / "checkpoint", folder)
    for path in folder.glob(f"*/{only}"):
        content = torch.load(path, weights_only=False)
        change(content["optimizer_state_dict"]["base_optimizer_state"])
        torch.save(content, path)
    return folder


def test_states_of_ranks_that_should_be_equal_are_compared(tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["state"][0]["exp_avg"] += 1

    source = edited("pp2_z1_bf16", tmp_path / "in", change, only="*mp_rank_01_optim_states.pt")
    with pytest.raises(Disagreement, match=r"exp_avg of 0\.weight"):
        universal(source, tmp_path / "out")


def test_a_step_in_which_stages_differ(tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["state"][0]["step"] += 1

    source = edited("pp2_z1_bf16", tmp_path / "in", change, only="*mp_rank_01_optim_states.pt")
    with pytest.raises(Disagreement, match=r"model-parallel ranks differ in the step; expected 3\.0, got 4\.0"):
        universal(source, tmp_path / "out")


@pytest.mark.parametrize("case", ["tp2_z1", "pp2_z1_bf16"])
def test_settings_in_which_model_parallel_ranks_differ(case: str, tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["param_groups"][0]["weight_decay"] = 0.5

    source = edited(case, tmp_path / "in", change, only="*mp_rank_01_optim_states.pt")
    with pytest.raises(UnsupportedLayout, match="groups of model-parallel ranks differ in 'weight_decay'"):
        universal(source, tmp_path / "out")


def test_every_rank_finds_its_model_file_at_every_stage(tmp_path: Path):
    written("tp2_z3_dp2", tmp_path / "out")
    tag = tmp_path / "out" / "global_step3_universal"
    source = LAYOUTS / "tp2_z3_dp2" / "checkpoint" / "global_step3"
    for rank in range(2):
        own = source / f"zero_pp_rank_0_mp_rank_{rank:02d}_model_states.pt"
        for name in (own.name, f"mp_rank_{rank:02d}_model_states.pt"):
            assert (tag / name).read_bytes() == own.read_bytes()


def test_a_value_that_changed_is_found(tmp_path: Path):
    """What is joined is compared as well."""
    written("tp2_z1", tmp_path / "out")
    path = tmp_path / "out" / "global_step3_universal" / "zero" / "layers.0.qkv.weight" / "exp_avg_sq.pt"
    content = torch.load(path, weights_only=False)
    content["param"][3, 1] += 1
    torch.save(content, path)
    (problem,) = verify(tmp_path / "out", against=LAYOUTS / "tp2_z1" / "checkpoint").problems
    assert "layers.0.qkv.weight/exp_avg_sq" in problem
