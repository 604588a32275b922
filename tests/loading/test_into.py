"""`load_into`: a module has the engine's values, bit for bit, however it is wrapped and whatever it is called."""

from __future__ import annotations

import copy
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES, load_fixture
from fixtures_lib.zoo import TinyLM
from torch import nn

import zeroconsolidate
from zeroconsolidate import load_into
from zeroconsolidate.errors import BadOption, UnsupportedLayout, WrongNames

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = FIXTURES / "z3_bf16/checkpoint"
EXPECTED = load_fixture("z3_bf16").expected


def fresh(**arguments: Any) -> TinyLM:
    """A model with other values than any checkpoint has."""
    model = TinyLM(**arguments)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(1)
    return model


def on_meta() -> TinyLM:
    with torch.device("meta"):
        model = TinyLM()
    model.buffers_of_all_kinds.register_buffer("scratch", torch.zeros(2), persistent=False)
    return model


def assert_loaded(model: nn.Module, expected: dict[str, torch.Tensor], dtype: torch.dtype | None = None) -> None:
    """Parameters cast to `dtype` by torch, buffers as they were saved."""
    state = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    assert expected.keys() <= state.keys()
    for name, tensor in expected.items():
        want = tensor.to(dtype) if dtype is not None and name in parameters else tensor
        assert state[name].dtype == want.dtype, name
        assert (
            torch.equal(state[name].contiguous().view(torch.uint8), want.contiguous().view(torch.uint8))
            if (want.dim())
            else torch.equal(state[name], want)
        ), name


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("z1_fp16", {}),
        ("z2_w3", {}),
        ("z3_w4", {}),
        ("z3_frozen", {}),
        ("z3_scalar", {"scalar": True}),
        ("z2_channels_last", {"channels_last": True}),
        ("z3_empty", {"empty": True}),
    ],
)
def test_layouts(case: str, arguments: dict[str, Any]) -> None:
    model = fresh(**arguments)
    kept = dict(model.named_parameters())
    report = load_into(model, FIXTURES / case / "checkpoint")
    assert report.complete
    assert report.loaded == len(load_fixture(case).expected)
    for name, tensor in load_fixture(case).expected.items():
        state = model.state_dict()[name]
        assert torch.equal(state, tensor.to(state.dtype)), name
    assert all(parameter is kept[name] for name, parameter in model.named_parameters()), "an optimizer has these"
    assert model.head.weight is model.embed.weight


class TestMeta:
    def test_tensors_are_made(self) -> None:
        model = on_meta()
        report = load_into(model, CHECKPOINT)
        assert_loaded(model, EXPECTED)
        assert report.loaded == len(EXPECTED)
        assert model.head.weight is model.embed.weight
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_what_would_be_left_is_an_error(self) -> None:
        with torch.device("meta"):
            model = TinyLM()
        with pytest.raises(WrongNames, match=r"scratch would be left on the meta device") as caught:
            load_into(model, CHECKPOINT)
        assert caught.value.missing == ("buffers_of_all_kinds.scratch",)
        assert model.embed.weight.is_meta, "nothing was loaded"
        model = on_meta()
        model.more = nn.Linear(2, 2, device="meta")
        with pytest.raises(WrongNames, match=r"more\.weight, more\.bias would be left on the meta device"):
            load_into(model, CHECKPOINT, strict=False)

    def test_dtype_device_and_grad(self) -> None:
        model = on_meta().requires_grad_(False)
        load_into(model, CHECKPOINT, dtype=torch.bfloat16, device="cpu")
        assert_loaded(model, EXPECTED, torch.bfloat16)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_the_modules_dtype_is_kept(self) -> None:
        model = on_meta().bfloat16()
        model.buffers_of_all_kinds = TinyLM().buffers_of_all_kinds
        load_into(model, CHECKPOINT)
        assert_loaded(model, EXPECTED, torch.bfloat16)

    def test_assign_false_has_nothing_to_copy_into(self) -> None:
        with pytest.raises(BadOption, match="assign=False cannot be used with a module on the meta device"):
            load_into(on_meta(), CHECKPOINT, assign=False)


class TestValues:
    @pytest.mark.parametrize("dtype", ["bf16", "auto", torch.float16, "float64"])
    def test_dtype(self, dtype: Any) -> None:
        model = fresh()
        kept = dict(model.named_parameters())
        load_into(model, CHECKPOINT, dtype=dtype)
        named = {"bf16": torch.bfloat16, "auto": torch.bfloat16, "float64": torch.float64}.get(str(dtype), dtype)
        assert_loaded(model, EXPECTED, named)
        assert all(parameter is kept[name] for name, parameter in model.named_parameters())

    def test_assign(self) -> None:
        model = fresh()
        before = model.embed.weight
        load_into(model, CHECKPOINT, assign=True)
        assert model.embed.weight is not before
        assert torch.equal(before, torch.ones_like(before))
        assert model.head.weight is model.embed.weight
        assert_loaded(model, EXPECTED)

    def test_gradients_are_not_recorded(self) -> None:
        model = fresh()
        load_into(model, CHECKPOINT)
        assert all(parameter.grad_fn is None and parameter.is_leaf for parameter in model.parameters())

    def test_a_transposed_parameter(self) -> None:
        model = fresh()
        model.layers[0].up.weight = nn.Parameter(torch.ones(7, 15).t())
        load_into(model, CHECKPOINT)
        assert torch.equal(model.layers[0].up.weight, EXPECTED["layers.0.up.weight"])

    def test_no_such_dtype(self) -> None:
        with pytest.raises(BadOption, match="there is no such dtype"):
            load_into(fresh(), CHECKPOINT, dtype="bf17")


class TestNames:
    def test_missing_and_unexpected(self) -> None:
        model = fresh()
        model.more = nn.Linear(2, 2)
        del model.layers[1].norm
        with pytest.raises(WrongNames, match=r"2 missing in the checkpoint: more\.weight, more\.bias") as caught:
            load_into(model, CHECKPOINT)
        assert caught.value.missing == ("more.weight", "more.bias")
        assert caught.value.unexpected == ("layers.1.norm.weight", "layers.1.norm.bias")
        assert torch.equal(model.embed.weight, torch.ones_like(model.embed.weight)), "nothing was loaded"
        report = load_into(model, CHECKPOINT, strict=False)
        assert (report.missing, report.unexpected) == (caught.value.missing, caught.value.unexpected)
        assert torch.equal(model.embed.weight, EXPECTED["embed.weight"])
        assert not report.complete

    def test_shapes_are_never_forgiven(self) -> None:
        model = fresh()
        model.layers[0].up = nn.Linear(7, 14)
        with pytest.raises(WrongNames, match=r"layers\.0\.up\.weight has shape \[15, 7\], in the module \[14, 7\]"):
            load_into(model, CHECKPOINT, strict=False)

    def test_prefixes_of_either_side(self) -> None:
        wrapper = nn.Module()
        wrapper.add_module("net", fresh())
        report = load_into(wrapper, CHECKPOINT)
        assert_loaded(wrapper.net, EXPECTED)
        assert any("'net.'" in note for note in report.notes)
        with pytest.raises(WrongNames):
            load_into(wrapper, CHECKPOINT, names="stored")

    def test_a_part_of_the_model(self) -> None:
        model = nn.ModuleDict({"embed": nn.Embedding(13, 7)})
        report = load_into(model, CHECKPOINT, strict=False)
        assert (report.loaded, report.missing) == (1, ())
        assert torch.equal(model["embed"].weight, EXPECTED["embed.weight"])

    def test_ties_of_one_side(self) -> None:
        model = fresh()
        model.head.weight = nn.Parameter(torch.zeros(13, 7))
        load_into(model, CHECKPOINT)
        assert torch.equal(model.head.weight, EXPECTED["embed.weight"])
        assert model.head.weight is not model.embed.weight

        model = fresh()
        model.layers[1].up.weight = model.layers[0].up.weight
        with pytest.raises(WrongNames, match=r"ties layers\.0\.up\.weight, layers\.1\.up\.weight, which are different"):
            load_into(model, CHECKPOINT)


class TestSources:
    def test_a_model_directory(self, tmp_path: Path) -> None:
        zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "out", names="stored", max_shard_size="1KB")
        model = fresh()
        load_into(model, tmp_path / "out")
        assert_loaded(model, EXPECTED)
        with pytest.raises(BadOption, match="which a model directory does not say"):
            load_into(model, tmp_path / "out", dtype="auto")

    def test_an_open_checkpoint(self) -> None:
        model = fresh()
        with zeroconsolidate.open_checkpoint(CHECKPOINT) as checkpoint:
            load_into(model, checkpoint)
        assert_loaded(model, EXPECTED)

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_into(fresh(), tmp_path)

    def test_what_is_whole_of_an_incomplete_one(self, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(FIXTURES / "z2_w4/checkpoint", tmp_path / "run")
        next((tmp_path / "run").glob("*/*pp_rank_2_*optim*")).unlink()
        with zeroconsolidate.open_checkpoint(tmp_path / "run", rescue=True) as checkpoint:
            model = fresh()
            report = load_into(model, checkpoint, strict=False)
            lost = {loss.name for loss in checkpoint.losses if loss.lost_numel}
        assert set(report.missing) == lost
        for name, tensor in load_fixture("z2_w4").expected.items():
            got = model.state_dict()[name]
            assert torch.equal(got, torch.ones_like(tensor) if name in lost else tensor)


class TestStateDict:
    def test_it_loads(self) -> None:
        model = fresh()
        weights = zeroconsolidate.state_dict(CHECKPOINT)
        assert model.load_state_dict(weights, strict=True)
        assert_loaded(model, EXPECTED)
        assert weights["head.weight"] is weights["embed.weight"]
        assert list(weights) == list(zeroconsolidate.open_checkpoint(CHECKPOINT))

    def test_dtype(self) -> None:
        weights = zeroconsolidate.state_dict(CHECKPOINT, dtype=torch.bfloat16)
        model = fresh().bfloat16()
        model.buffers_of_all_kinds = TinyLM().buffers_of_all_kinds
        model.load_state_dict(weights)
        assert_loaded(model, EXPECTED, torch.bfloat16)

    def test_lazy(self) -> None:
        views = zeroconsolidate.state_dict(CHECKPOINT, lazy=True)
        assert torch.equal(views["embed.weight"][3:5], EXPECTED["embed.weight"][3:5])
        with pytest.raises(BadOption, match="dtype cannot be used with lazy=True"):
            zeroconsolidate.state_dict(CHECKPOINT, lazy=True, dtype="bf16")

    def test_names(self) -> None:
        weights = zeroconsolidate.state_dict(FIXTURES / "models/mixtral_z3/checkpoint", names="hub")
        assert any(".experts.1.w2" in name for name in weights)


class TestWrapped:
    def test_torch_compile(self) -> None:
        model = fresh()
        load_into(torch.compile(model), CHECKPOINT)
        assert_loaded(model, EXPECTED)

    def test_data_parallel(self) -> None:
        model = fresh()
        load_into(nn.DataParallel(model), CHECKPOINT)
        assert_loaded(model, EXPECTED)

    def test_checkpoint_wrapper(self) -> None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        model = fresh()
        model.layers[0] = checkpoint_wrapper(model.layers[0])
        load_into(model, CHECKPOINT)
        assert torch.equal(model.layers[0].up.weight, EXPECTED["layers.0.up.weight"])

    def test_partitioned_by_zero(self) -> None:
        model = fresh()
        model.embed.weight.ds_id = 0
        with pytest.raises(UnsupportedLayout, match="partitioned by ZeRO stage 3"):
            load_into(model, CHECKPOINT)

    def test_distributed(self) -> None:
        """DistributedDataParallel, and FSDP2 over two ranks, from values and from meta."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(_rank, (2, port), nprocs=2)


def _rank(rank: int, world_size: int, port: int) -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    model = fresh()
    load_into(nn.parallel.DistributedDataParallel(model), CHECKPOINT)
    assert_loaded(model, EXPECTED)
    mesh = dist.init_device_mesh("cpu", (world_size,))
    for meta, dtype in ((False, None), (True, None), (False, "bf16")):
        model = on_meta() if meta else fresh()
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        report = load_into(model, CHECKPOINT, dtype=dtype)
        assert report.complete
        for name, parameter in model.named_parameters():
            want = EXPECTED[name] if dtype is None else EXPECTED[name].bfloat16()
            assert torch.equal(parameter.full_tensor(), want), name
            assert parameter.to_local().numel() <= -(-want.shape[0] // 2) * want[0].numel()
        if dtype is None:
            model(torch.arange(6).reshape(2, 3)).backward()
            assert model.embed.weight.grad is not None
    dist.destroy_process_group()
    os._exit(0)  # torch's threads now and then abort a process that ends with them


class TestTransformers:
    """Models of transformers, plain and with PEFT, from checkpoints of its Trainer."""

    @pytest.fixture(autouse=True)
    def _there(self) -> None:
        pytest.importorskip("transformers", minversion="5")

    @staticmethod
    def made(case: str) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(FIXTURES / "models" / case / "checkpoint")
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    @pytest.mark.parametrize("case", ["llm_tied_z3", "llm_untied_z2", "mixtral_z3", "qwen3_moe_z2"])
    def test_as_trained_and_as_on_the_hub(self, case: str, tmp_path: Path) -> None:
        source = FIXTURES / "models" / case / "checkpoint"
        zeroconsolidate.consolidate(source, tmp_path / "out")
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
        model = self.made(case)
        report = load_into(model, source)
        assert report.complete
        state = model.state_dict()
        assert state.keys() == loaded.keys()
        for name, tensor in loaded.items():
            assert torch.equal(state[name], tensor), name

    def test_with_peft(self) -> None:
        from peft import LoraConfig, get_peft_model

        source = FIXTURES / "models/llm_untied_z2/checkpoint"
        plain = self.made("llm_untied_z2")
        load_into(plain, source)
        expected = copy.deepcopy(plain.state_dict())
        model = get_peft_model(self.made("llm_untied_z2"), LoraConfig(target_modules=["q_proj"]))
        with pytest.raises(WrongNames, match="lora_A"):
            load_into(model, source)
        report = load_into(model, source, strict=False)
        assert report.missing
        assert all("lora_" in name for name in report.missing)
        assert report.unexpected == ()
        base = model.get_base_model().state_dict()
        for name, tensor in expected.items():
            there = name if name in base else name.replace(".q_proj.", ".q_proj.base_layer.")
            assert torch.equal(base[there], tensor), name

    def test_a_peft_run_into_a_peft_model(self, tmp_path: Path) -> None:
        from peft import PeftConfig, get_peft_model
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        case = FIXTURES / "models/lora_z3"
        source = case / "checkpoint"
        base = AutoModelForCausalLM.from_pretrained(FIXTURES / "models/_bases/llama", dtype=torch.float32)
        model = get_peft_model(base, PeftConfig.from_pretrained(source))
        report = load_into(model, source, strict=False)  # Trainer saves no frozen weights
        assert report.unexpected == ()
        frozen = {name for name, _ in model.named_parameters() if "lora_" not in name}
        assert set(report.missing) == frozen
        expected = load_file(case / "expected.safetensors")
        assert report.loaded == len(expected.keys() - frozen) > 1
        for name in expected.keys() - frozen:
            assert torch.equal(model.state_dict()[name], expected[name]), name
        # what is written for PEFT fits the model too
        zeroconsolidate.consolidate(source, tmp_path / "adapter")
        again = get_peft_model(
            AutoModelForCausalLM.from_pretrained(FIXTURES / "models/_bases/llama", dtype=torch.float32),
            PeftConfig.from_pretrained(source),
        )
        report = load_into(again, tmp_path / "adapter", strict=False)
        assert report.unexpected == ()
        assert report.loaded > 1
        for name, tensor in model.state_dict().items():
            if "lora_" in name:
                assert torch.equal(again.state_dict()[name], tensor)


def exchange(model: nn.Module, name: str, new: torch.Tensor) -> None:
    """Put another parameter or buffer into the model."""
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, new)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_integers_hold_no_fractions(dtype: torch.dtype) -> None:
    """A module that bitsandbytes has quantized has int8 parameters in the shapes of the weights."""
    model = fresh()
    shape = model.get_parameter("layers.1.up.weight").shape
    exchange(model, "layers.1.up.weight", nn.Parameter(torch.ones(shape, dtype=dtype), requires_grad=False))
    with pytest.raises(UnsupportedLayout, match=r"layers\.1\.up\.weight cannot hold the values") as caught:
        load_into(model, CHECKPOINT)
    assert "before it is quantized" in str(caught.value)
    assert bool((model.get_parameter("embed.weight") == 1).all()), "nothing was loaded"


def test_a_buffer_of_small_integers_must_hold_them() -> None:
    """16777217, which the saved buffer has, is in no int16."""
    for dtype, holds in ((torch.int32, True), (torch.int16, False)):
        model = fresh()
        buffers = model.buffers_of_all_kinds
        buffers.positions = buffers.positions.to(dtype)
        if holds:
            load_into(model, CHECKPOINT)
            assert torch.equal(buffers.positions.long(), EXPECTED["buffers_of_all_kinds.positions"])
        else:
            with pytest.raises(UnsupportedLayout, match="cannot hold the values"):
                load_into(model, CHECKPOINT)


def test_two_parameters_in_one_memory_must_have_one_value() -> None:
    model = fresh()
    exchange(model, "layers.1.up.weight", nn.Parameter(model.get_parameter("layers.0.up.weight").data))
    with pytest.raises(WrongNames, match=r"the module ties layers\.0\.up\.weight, layers\.1\.up\.weight"):
        load_into(model, CHECKPOINT)
    load_into(model, CHECKPOINT, assign=True)
    assert_loaded(model, EXPECTED)


@pytest.mark.parametrize("device", ["meta", "nowhere", "cuda:99"])
def test_a_device_that_holds_nothing_is_refused_before_anything_is_loaded(device: str) -> None:
    model = fresh()
    with pytest.raises(BadOption, match="device"):
        load_into(model, CHECKPOINT, device=device)
    assert bool((model.get_parameter("embed.weight") == 1).all())
