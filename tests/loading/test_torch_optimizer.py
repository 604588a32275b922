"""State dicts for torch's optimizers, from checkpoints and from what `--optimizer` wrote."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import zero_model
from fixtures import FIXTURES
from fixtures_lib.zoo import TinyLM
from safetensors.torch import load_file
from torch import nn

from zeroconsolidate import consolidate, to_torch_optimizer
from zeroconsolidate.errors import BadOption, DamagedFile, Disagreement, UnsupportedLayout, WrongNames

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = FIXTURES / "z3_groups" / "checkpoint"
ENDINGS = (".weight", ".bias", ".scale")


def groups_of(model: nn.Module, endings: tuple[str, ...] = ENDINGS) -> list[dict[str, Any]]:
    """Param groups as the fixtures were trained with."""
    groups: list[dict[str, Any]] = [{"params": []} for _ in endings]
    for name, parameter in model.named_parameters():
        groups[next(index for index, ending in enumerate(endings) if name.endswith(ending))]["params"].append(parameter)
    return groups


def true_states(case: str) -> dict[str, dict[str, torch.Tensor]]:
    """Parameter -> state -> value at stage 3 of two ranks, from the files themselves and `param_shapes`."""
    folder = next((FIXTURES / case / "checkpoint").glob("global_step*"))
    models = torch.load(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt", weights_only=False)
    files = [
        torch.load(folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", weights_only=False)
        for rank in range(2)
    ]
    found: dict[str, dict[str, torch.Tensor]] = {}
    for index, shapes in enumerate(models["param_shapes"]):
        offset = 0
        for name, shape in shapes.items():
            share = -(-shape.numel() // 2)
            for key in ("exp_avg", "exp_avg_sq"):
                flats = [file["optimizer_state_dict"]["optimizer_state_dict"]["state"][index][key] for file in files]
                whole = torch.cat([flat[offset : offset + share] for flat in flats])[: shape.numel()].view(shape)
                found.setdefault(name, {})[key] = whole
            offset += share
    return found


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, torch.Tensor]]:
    pytest.importorskip("deepspeed")  # its classes are in the files
    return true_states("z3_groups")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written") / "out"
    consolidate(GROUPS, out, optimizer=True, dtype="bf16", max_shard_size="1500B")
    return out


@pytest.fixture(params=["checkpoint", "output"])
def src(request: pytest.FixtureRequest, written: Path) -> Path:
    return GROUPS if request.param == "checkpoint" else written


def assert_has(optimizer: torch.optim.Optimizer, model: nn.Module, truth: dict[str, dict[str, torch.Tensor]]) -> None:
    parameters = dict(model.named_parameters())
    assert parameters.keys() == truth.keys()
    for name, parameter in parameters.items():
        held = optimizer.state[parameter]
        assert held["step"].dtype is torch.float32 and held["step"] == 2, name
        for key, value in truth[name].items():
            assert torch.equal(held[key], value), (name, key)


@pytest.mark.parametrize("is_given", [True, False])
def test_an_optimizer_with_the_groups_of_the_run(src: Path, truth: Any, is_given: bool):
    model = TinyLM()
    optimizer = torch.optim.AdamW(groups_of(model), lr=1.0, weight_decay=7.0, foreach=False)
    optimizer.load_state_dict(to_torch_optimizer(model, src, optimizer if is_given else None))
    assert_has(optimizer, model, truth)
    assert [group["lr"] for group in optimizer.param_groups] == [0.003] * 3
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.01, 0.02]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    # How it computes is the program's business.
    assert optimizer.param_groups[0]["foreach"] is (False if is_given else None)
    sum(parameter.sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert optimizer.state[model.embed.weight]["step"] == 3


def test_parameters_in_another_order_than_the_models(src: Path, truth: Any):
    model = TinyLM()
    groups = [{"params": list(reversed(group["params"]))} for group in reversed(groups_of(model))]
    optimizer = torch.optim.AdamW(groups)
    optimizer.load_state_dict(to_torch_optimizer(model, src, optimizer))
    assert_has(optimizer, model, truth)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.01, 0.0]


def test_a_group_of_parameters_with_different_settings_is_refused(src: Path):
    model = TinyLM()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(Disagreement, match=r"param group 0 .* differ in weight_decay"):
        to_torch_optimizer(model, src, optimizer)


def test_names_that_wrappers_add(truth: Any):
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = TinyLM()
    optimizer = torch.optim.AdamW(groups_of(model))
    optimizer.load_state_dict(to_torch_optimizer(Wrapped(Wrapped(model)), GROUPS, optimizer))
    assert_has(optimizer, model, truth)


def test_what_does_not_fit_by_name(src: Path):
    class Larger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(13, 7)
            self.extra = nn.Linear(2, 2, bias=False)

    model = Larger()
    with pytest.raises(WrongNames, match=r"no state of extra\.weight and the model has no layers\.0.*; strict=False"):
        to_torch_optimizer(model, src)
    found = to_torch_optimizer(model, src, strict=False)
    assert list(found["state"]) == [0]
    assert [group["params"] for group in found["param_groups"]] == [[0], [], []]
    model.embed = nn.Embedding(14, 7)
    with pytest.raises(WrongNames, match=r"other shapes than the checkpoint: embed.weight has shape \[13, 7\]"):
        to_torch_optimizer(model, src, strict=False)


def test_frozen_parameters_need_no_state():
    model = TinyLM()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("layers.0.up", "layers.1.down", "layers.1.scale")))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = to_torch_optimizer(model, FIXTURES / "z2_frozen" / "checkpoint")
    torch.optim.AdamW(trained).load_state_dict(found)
    model.requires_grad_(True)
    with pytest.raises(WrongNames, match=r"no state of layers\.0\.up\.weight"):
        to_torch_optimizer(model, FIXTURES / "z2_frozen" / "checkpoint")


def test_another_optimizer_than_the_runs():
    model = TinyLM()
    optimizer = torch.optim.Adagrad(groups_of(model))
    with pytest.raises(BadOption, match="another optimizer than Adagrad; expected sum, got exp_avg, exp_avg_sq"):
        to_torch_optimizer(model, GROUPS, optimizer)


def test_an_optimizer_of_another_model():
    optimizer = torch.optim.AdamW(TinyLM().parameters())
    with pytest.raises(BadOption, match="13 parameters that the model has not; expected an optimizer of this model"):
        to_torch_optimizer(TinyLM(), GROUPS, optimizer)


def test_a_checkpoint_without_settings_needs_the_optimizer():
    source = FIXTURES / "z2_elastic" / "checkpoint"
    model = TinyLM()
    with pytest.raises(BadOption, match="does not say which param groups there were; give the optimizer"):
        to_torch_optimizer(model, source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    optimizer.load_state_dict(to_torch_optimizer(model, source, optimizer))
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.state[model.embed.weight]["exp_avg"].shape == (13, 7)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_of_a_run_that_is_known(stage: int, tmp_path: Path):
    run = zero_model.example(stage, 3)
    zero_model.save(run, tmp_path / "in")
    model = nn.Module()
    for group in run.groups:
        for name, value in group.items():
            *path, last = name.split(".")
            place = model
            for part in path:
                if part not in dict(place.named_children()):
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.register_parameter(last, nn.Parameter(torch.zeros_like(value)))
    found = to_torch_optimizer(model, tmp_path / "in")
    names = [name for name, _ in model.named_parameters()]
    by_group = [[name for name in names if name in group] for group in run.groups]
    listed = [name for group in by_group for name in group]
    assert [group["params"] for group in found["param_groups"]] == [
        list(range(len(by_group[0]))),
        list(range(len(by_group[0]), len(listed))),
    ]
    values = {name: value for group in run.groups for name, value in group.items()}
    for index, name in enumerate(listed):
        assert torch.equal(found["state"][index]["exp_avg"], values[name] * 0.5)
        assert found["state"][index]["step"] == run.step


def trained_in(case: str) -> nn.Module:
    """A module with the parameters of a layout's fixture, all trained."""
    from zeroconsolidate import open_checkpoint

    model = nn.Module()
    for name, view in open_checkpoint(FIXTURES / "layouts" / case / "checkpoint").items():
        if view.role != "trainable":
            continue
        *path, last = name.split(".")
        place = model
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(torch.zeros(view.shape)))
    return model


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("muon_z2", [{"momentum_buffer", "step"}, {"exp_avg", "exp_avg_sq", "step"}]),
        ("muon_z3", [{"momentum_buffer", "step"}, {"exp_avg", "exp_avg_sq", "step"}]),
        ("momentum_z2", [{"momentum_buffer"}]),
        ("adagrad_z2", [{"sum", "step"}]),
        ("amsgrad_z3", [{"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}]),
        ("sgd_z1", [set()]),
    ],
)
def test_whatever_the_optimizer_keeps(case: str, kinds: list[set[str]]):
    model = trained_in(case)
    found = to_torch_optimizer(model, FIXTURES / "layouts" / case / "checkpoint", strict=case != "sgd_z1")
    groups = [group for group in found["param_groups"] if group["params"]]
    held = [{key for index in group["params"] for key in found["state"].get(index, {})} for group in groups]
    if "muon" in case:
        assert [group["use_muon"] for group in groups] == [True, False]
    assert {frozenset(keys) - {"step"} for keys in held} == {frozenset(keys) - {"step"} for keys in kinds}


def test_a_layout_of_its_own_is_refused_by_name():
    with pytest.raises(UnsupportedLayout, match="__bnb_optimizer_quant_state__"):
        to_torch_optimizer(TinyLM(), FIXTURES / "layouts" / "adamw_8bit_z3" / "checkpoint")


def test_names_of_the_hub(tmp_path: Path):
    """A run trained a wrapper around the model; what is trained on is the model itself."""
    transformers = pytest.importorskip("transformers")
    source = FIXTURES / "models" / "m3_dense_only_z2" / "checkpoint"
    consolidate(source, tmp_path / "out", optimizer=True)
    model = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    from_checkpoint = to_torch_optimizer(model, source, strict=False)
    from_output = to_torch_optimizer(model, tmp_path / "out", strict=False)
    assert len(from_checkpoint["state"]) == len(list(model.parameters()))
    assert from_checkpoint["state"].keys() == from_output["state"].keys()
    for index, held in from_checkpoint["state"].items():
        assert all(torch.equal(from_output["state"][index][key], value) for key, value in held.items())


@pytest.mark.parametrize("is_output", [True, False])
def test_adapters_of_peft(is_output: bool, tmp_path: Path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    case = FIXTURES / "models" / "lora_z3"
    consolidate(case / "checkpoint", tmp_path / "out", optimizer=True)
    base = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / "models" / "_bases" / "llama")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "out", is_trainable=True)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name, _ in trained)
    optimizer = torch.optim.AdamW([parameter for _, parameter in reversed(trained)])
    src = tmp_path / "out" if is_output else case / "checkpoint"
    optimizer.load_state_dict(to_torch_optimizer(model, src, optimizer))
    written = load_file(tmp_path / "out" / "optimizer" / "optimizer.safetensors")
    for name, parameter in trained:
        expected = written[f"{name.replace('.default.', '.')}.exp_avg"]
        assert torch.equal(optimizer.state[parameter]["exp_avg"], expected), name


def test_states_of_vectors_that_are_not_those_of_matrices():
    model = trained_in("adafactor_z2")
    source = FIXTURES / "layouts" / "adafactor_z2" / "checkpoint"
    optimizer = torch.optim.Adafactor(model.parameters())
    with pytest.raises(BadOption, match="another optimizer than Adafactor; expected row_var, col_var, got variance"):
        to_torch_optimizer(model, source, optimizer)


def test_an_output_without_states(tmp_path: Path):
    consolidate(GROUPS, tmp_path / "out")
    with pytest.raises(BadOption, match="written without what its optimizer keeps; zeroconsolidate convert CHECKPOINT"):
        to_torch_optimizer(TinyLM(), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.pop("steps"), "in a format that is not known"),
        (lambda content: content.update(optimizer_file=2), "in a format that is not known"),
        (lambda content: content.update(steps={"embed.weight": "2"}), "a step is not a number"),
        (lambda content: content["param_groups"][0].pop("params"), "a param group does not list its parameters"),
        (lambda content: content.update(param_groups=[], steps={}), "no parameter '.*', which has a state 'exp_avg"),
    ],
)
def test_settings_that_were_changed(change: Any, why: str, written: Path, tmp_path: Path):
    shutil.copytree(written, tmp_path / "out")
    path = tmp_path / "out" / "optimizer" / "optimizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFile, match=why):
        to_torch_optimizer(TinyLM(), tmp_path / "out")
