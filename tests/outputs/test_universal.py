"""Universal checkpoints of fixtures: what torch and DeepSpeed's loader would find in them."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import zero_model
from fixtures import FIXTURES, fixture_cases, load_fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from zeroconsolidate import consolidate, universal
from zeroconsolidate.errors import BadOption, DamagedFile, MissingFiles, OutputExists, UnsupportedLayout, WrongNames
from zeroconsolidate.outputs.universal import output as making

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES = [name for name in fixture_cases(kind="z") if "legacy" not in name]


def fragments(out: Path) -> dict[str, dict[str, Any]]:
    """Parameter -> file -> what torch loads without running anything."""
    tag = (out / "latest_universal").read_text()
    zero = out / tag / "zero"
    return {
        folder.name: {path.stem: torch.load(path, weights_only=True) for path in folder.iterdir()}
        for folder in zero.iterdir()
        if folder.is_dir()
    }


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_masters_are_those_of_the_live_engine(case: str, tmp_path: Path):
    fixture = load_fixture(case)
    report = universal(fixture.checkpoint, tmp_path / "out")
    found = fragments(tmp_path / "out")
    trainable = fixture.provenance["trainable"]
    assert sorted(found) == sorted(trainable)
    for name, held in found.items():
        assert set(held) == {"fp32", "exp_avg", "exp_avg_sq", "step"}, name
        truth = fixture.expected[name]
        assert held["fp32"]["cat_dim"] == 0
        assert same(held["fp32"]["param"], truth if truth.dim() else truth[None])
        assert all(held[state]["param"].shape == held["fp32"]["param"].shape for state in ("exp_avg", "exp_avg_sq"))
        assert same(held["step"], torch.tensor(float(fixture.provenance["step"])))
    assert report.tensors == 3 * len(trainable)
    assert report.parameters == sum(fixture.expected[name].numel() for name in trainable)


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_checkpoint_that_converts_to_the_same_model(case: str, tmp_path: Path):
    """Frozen parameters, buffers and ties are in the model files."""
    source = load_fixture(case).checkpoint
    universal(source, tmp_path / "out")
    consolidate(source, tmp_path / "straight", names="stored")
    consolidate(tmp_path / "out", tmp_path / "around", names="stored")
    straight, around = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "around"))
    assert straight.keys() == around.keys()
    assert all(same(around[name], tensor) for name, tensor in straight.items())


@pytest.mark.parametrize("stage", [1, 2, 3])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    world_size=st.integers(1, 5), round_robin=st.booleans(), alignment=st.booleans(), sub_group=st.integers(5, 200),
    strips=st.booleans(),
)  # fmt: skip
def test_states_are_what_was_saved(
    stage: int, world_size: int, round_robin: bool, alignment: bool, sub_group: int, strips: bool, tmp_path: Path
):
    changes: dict[str, Any] = {"sub_group_numel": sub_group} if stage == 3 else {}
    if stage < 3:
        changes = {"round_robin": round_robin, "parameter_alignment": alignment, "strips_tail": strips}
    run = zero_model.example(stage, world_size, **changes)
    for folder in ("in", "out"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    zero_model.save(run, tmp_path / "in")
    universal(tmp_path / "in", tmp_path / "out")
    found = fragments(tmp_path / "out")
    masters = {name: tensor for group in run.groups for name, tensor in group.items()}
    assert found.keys() == masters.keys()
    for name, master in masters.items():
        truth = master if master.dim() else master[None]
        assert same(found[name]["fp32"]["param"], truth)
        assert same(found[name]["exp_avg"]["param"], truth * 0.5)
        assert same(found[name]["exp_avg_sq"]["param"], truth * truth)
        assert same(found[name]["step"], torch.tensor(float(run.step)))


def state_of(out: Path) -> dict[str, Any]:
    tag = (out / "latest_universal").read_text()
    found: dict[str, Any] = torch.load(out / tag / "zero" / "optimizer_state.pt", weights_only=False)
    return found


def test_what_the_engine_reads_of_the_optimizer(tmp_path: Path):
    universal(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "out")
    found = state_of(tmp_path / "out")
    assert (found["zero_stage"], found["ds_version"], found["clip_grad"]) == (2, "0.19.8", 1.0)
    assert (found["overflow"], found["dynamic_loss_scale"]) == (False, False)
    (group,) = found["param_groups"]
    assert (group["lr"], group["betas"], group["foreach"], group["params"]) == (0.003, (0.9, 0.999), None, [])
    assert found["optimizer_state_dict"]["param_groups"] == [group]
    assert same(found["optimizer_state_dict"]["state"][0]["step"], torch.tensor(2.0))


@pytest.mark.parametrize("case", ["z2_fp16", "z3_fp16"])
def test_the_loss_scaler_is_deepspeeds_own(case: str, tmp_path: Path):
    pytest.importorskip("deepspeed")
    universal(FIXTURES / case / "checkpoint", tmp_path / "out")
    scaler = state_of(tmp_path / "out")["loss_scaler"]
    assert type(scaler).__name__ == "DynamicLossScaler"
    assert (scaler.cur_scale, scaler.cur_iter, scaler.dtype) == (128, 2, torch.float16)


@pytest.mark.parametrize("case", ["z2_groups", "z3_groups"])
def test_settings_in_which_groups_differ_stay_as_the_program_sets_them_at_stage_3(case: str, tmp_path: Path):
    report = universal(FIXTURES / case / "checkpoint", tmp_path / "out")
    found = state_of(tmp_path / "out")
    assert [group["weight_decay"] for group in found["param_groups"]] == [0.0, 0.01, 0.02]
    (first,) = found["optimizer_state_dict"]["param_groups"]
    assert first["lr"] == 0.003
    assert "weight_decay" not in first
    assert any("param groups differ in weight_decay" in warning for warning in report.warnings)


def test_no_settings_are_invented(tmp_path: Path):
    report = universal(FIXTURES / "z2_elastic" / "checkpoint", tmp_path / "out")
    assert state_of(tmp_path / "out")["param_groups"] == [{"params": []}]
    assert any("saves no settings of param groups" in note for note in report.notes)


def test_both_names_of_the_model_file_have_its_bytes(tmp_path: Path):
    """Below stage 3 an engine looks for another name than at stage 3."""
    for case, own in (("z2_bf16", "mp_rank_00"), ("z3_bf16", "zero_pp_rank_0_mp_rank_00")):
        source = FIXTURES / case / "checkpoint"
        universal(source, tmp_path / case)
        (saved,) = source.glob(f"*/{own}_model_states.pt")
        tag = tmp_path / case / "global_step2_universal"
        for name in ("mp_rank_00", "zero_pp_rank_0_mp_rank_00"):
            assert (tag / f"{name}_model_states.pt").read_bytes() == saved.read_bytes()
    assert (tmp_path / "z3_bf16" / "global_step2_universal" / "zero_pp_rank_1_mp_rank_00_model_states.pt").exists()


def test_nothing_is_written_into_the_source(tmp_path: Path):
    source = tmp_path / "in"
    shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", source)
    before = sorted(path.relative_to(source) for path in source.rglob("*"))
    universal(source, tmp_path / "out")
    assert sorted(path.relative_to(source) for path in source.rglob("*")) == before
    with pytest.raises(BadOption, match="lies in the checkpoint"):
        universal(source, source / "universal")


def test_it_is_the_same_each_time_and_in_the_manifest(tmp_path: Path):
    for name in ("one", "other"):
        universal(FIXTURES / "z3_bf16" / "checkpoint", tmp_path / name, digest="sha256")
    one, other = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files(tmp_path / name)}
        for name in ("one", "other")
    )
    assert one == other
    listed = json.loads((tmp_path / "one" / "zeroconsolidate.json").read_text())["files"]
    assert set(one) - {"zeroconsolidate.json"} == set(listed)
    for name, entry in listed.items():
        assert hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest() == entry["sha256"], name


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("adamw_8bit_z2", r"state '__bnb_optimizer_quant_state__' is not laid out like the parameters"),
        ("universal_z2_inject", r"universal checkpoint already"),
    ],
)
def test_a_layout_that_is_not_written_is_refused_by_name(case: str, message: str, tmp_path: Path):
    with pytest.raises(UnsupportedLayout, match=message):
        universal(FIXTURES / "layouts" / case / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def long_name(size_bytes: int) -> str:
    return "é" * (size_bytes // 2 - 4) + ".weight" + "x" * (size_bytes % 2 + 1)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_name_that_no_folder_can_have(stage: int, tmp_path: Path):
    """Bytes count, not characters."""
    for size_bytes in (255, 256):
        name = long_name(size_bytes)
        assert len(name.encode()) == size_bytes
        run = zero_model.Run(stage=stage, world_size=2, groups=[{"a": torch.ones(3), name: torch.ones(5)}])
        zero_model.save(run, tmp_path / f"in{size_bytes}")
    universal(tmp_path / "in255", tmp_path / "out")
    assert long_name(255) in fragments(tmp_path / "out")
    with pytest.raises(UnsupportedLayout, match=f"{long_name(256)} is too long.*at most 255 bytes, got 256"):
        universal(tmp_path / "in256", tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("taken", ["fp32", "step"])
def test_a_state_under_a_name_that_is_taken(taken: str, tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["state"][0][taken] = base["state"][0].pop("exp_avg")

    source = edited("z2_bf16", tmp_path / "in", change)
    with pytest.raises(UnsupportedLayout, match=f"keeps a state '{taken}', and a universal checkpoint has another"):
        universal(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rank_that_is_missing(tmp_path: Path):
    shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "in")
    next((tmp_path / "in").glob("*/*pp_rank_1_*optim_states.pt")).unlink()
    with pytest.raises(MissingFiles):
        universal(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_cut_short(tmp_path: Path):
    shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "in")
    path = next((tmp_path / "in").glob("*/*pp_rank_1_*optim_states.pt"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFile):
        universal(tmp_path / "in", tmp_path / "out")


def test_an_output_that_is_not_empty(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "latest_universal").write_text("other")
    with pytest.raises(OutputExists):
        universal(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "out")


def test_states_that_stage_3_does_not_read(tmp_path: Path):
    report = universal(FIXTURES / "layouts" / "adagrad_z2" / "checkpoint", tmp_path / "out")
    assert any("cannot resume from it at stage 3" in warning for warning in report.warnings)
    assert {"fp32", "sum", "step"} == set(next(iter(fragments(tmp_path / "out").values())))


def test_several_flat_groups_would_share_a_step_at_stage_3(tmp_path: Path):
    for case, many in (("z3_subgroups", True), ("z2_groups", True), ("z3_bf16", False)):
        report = universal(FIXTURES / case / "checkpoint", tmp_path / case)
        assert any("loads one step for all" in warning for warning in report.warnings) is many


def test_a_round_robin_must_not_be_resumed_with(tmp_path: Path):
    for case, warned in (("z2_round_robin", True), ("z2_aligned_round_robin_w3", False), ("z2_bf16", False)):
        report = universal(FIXTURES / case / "checkpoint", tmp_path / case)
        assert any("resume without 'round_robin_gradients'" in warning for warning in report.warnings) is warned


def edited(case: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a fixture with `change` made in the state of every rank's optimizer file."""
    pytest.importorskip("deepspeed")
    shutil.copytree(FIXTURES / case / "checkpoint", folder)
    for path in folder.glob("*/*_optim_states.pt"):
        content = torch.load(path, weights_only=False)
        change(content["optimizer_state_dict"]["base_optimizer_state"])
        torch.save(content, path)
    return folder


def test_a_state_that_is_of_no_flat_group(tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["state"] = {7: base["state"][0]}

    source = edited("z2_bf16", tmp_path / "in", change)
    with pytest.raises(UnsupportedLayout, match=r"state 'exp_avg', 'exp_avg_sq' is(; it would be lost| not laid out)"):
        universal(source, tmp_path / "out")


def test_a_state_that_could_not_be_placed(tmp_path: Path):
    """A view with gaps has as many values as the partition, and is not copied as one."""

    def change(base: dict[str, Any]) -> None:
        base["state"][0]["exp_avg"] = torch.zeros(2 * base["state"][0]["exp_avg"].numel())[::2]

    source = edited("z2_bf16", tmp_path / "in", change)
    with pytest.raises(UnsupportedLayout, match="nothing says of which parameters the optimizer's state 'exp_avg' is"):
        universal(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_lacks_a_parameter_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = making.folders
    monkeypatch.setattr(making, "folders", lambda *given: [f for f in folders(*given) if f.name != "embed.weight"])
    with pytest.raises(WrongNames, match=r"lacks trained parameters; missing zero/embed\.weight/fp32\.pt"):
        universal(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_setting_that_is_not_plain(tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["param_groups"][0]["lr"] = torch.tensor(0.003)

    source = edited("z2_bf16", tmp_path / "in", change)
    with pytest.raises(UnsupportedLayout, match="setting 'lr' of a param group: the value is not plain"):
        universal(source, tmp_path / "out")


@pytest.mark.parametrize("step", [3, torch.tensor(3), torch.tensor(3.0).double()], ids=["number", "int64", "float64"])
def test_steps_of_other_kinds_keep_theirs(step: Any, tmp_path: Path):
    def change(base: dict[str, Any]) -> None:
        base["state"][0]["step"] = step

    universal(edited("z2_bf16", tmp_path / "in", change), tmp_path / "out")
    found = fragments(tmp_path / "out")["embed.weight"]["step"]
    assert found == step
    assert type(found) is type(step)
    assert getattr(found, "dtype", None) == getattr(step, "dtype", None)


def test_a_checkpoint_without_any_state(tmp_path: Path):
    report = universal(FIXTURES / "layouts" / "sgd_z1" / "checkpoint", tmp_path / "out")
    assert any("has no optimizer state of any element" in warning for warning in report.warnings)
