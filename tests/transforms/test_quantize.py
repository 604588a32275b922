"""Quantized outputs: each bit against torch's own arithmetic, which layers, and what no loader would understand.

`tests/models/test_quantized.py` compares them with llm-compressor, in an environment that has it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from fixtures import FIXTURES
from folders import contents
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate, estimate, verify
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import BadOption, MissingPackage, UnsupportedLayout, WrongNames
from zeroconsolidate.integrations import packages
from zeroconsolidate.naming import asking, sources
from zeroconsolidate.outputs.gate import quantized as gate_quantized
from zeroconsolidate.outputs.gate.quantized import Dense, Quantization, dense, problems, quantization_of
from zeroconsolidate.plan.patched import Zeros
from zeroconsolidate.plan.sources import Source
from zeroconsolidate.run import execute as executor
from zeroconsolidate.run.e4m3 import LARGEST, to_e4m3
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.reader import reader
from zeroconsolidate.transforms import quantized as recipes
from zeroconsolidate.transforms.quantize import Quantize
from zeroconsolidate.transforms.quantized import Listed, Quantized, Scales, Scheme
from zeroconsolidate.transforms.transform import Model
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

pytest.importorskip("transformers", minversion="5")

MODELS = FIXTURES / "models"
BASES = MODELS / "_bases"
FP8 = torch.float8_e4m3fn


# --- E4M3


def test_every_exponent_and_edge_of_the_mantissa_rounds_as_torch_does():
    """All of a float32's upper 21 bits, each with the ends and the middle of what lies below them."""
    count = 0
    for low in (0, 1, 0x3FF, 0x400, 0x401, 0x7FE, 0x7FF):
        bits = (np.arange(1 << 21, dtype=np.uint32) << np.uint32(11)) | np.uint32(low)
        with np.errstate(invalid="ignore"):
            values = bits.view(np.float32)[np.abs(bits.view(np.float32)) <= LARGEST]
        out = np.empty(values.shape, np.uint8)
        to_e4m3(values.copy(), out)
        assert np.array_equal(out, torch.from_numpy(values).to(FP8).view(torch.uint8).numpy())
        count += len(values)
    assert count > 7_000_000


# --- the arithmetic, on matrices in memory


class Rows:
    """Elements that are there."""

    block_numel = None

    def __init__(self, recipe: Held, inputs: Inputs) -> None:
        self._values = recipe.values

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        block[: stop - start] = self._values[start:stop]


class Held(Zeros):
    """A recipe of elements in memory."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        object.__setattr__(self, "numel", values.size)
        object.__setattr__(self, "dtype", DType.F32)
        object.__setattr__(self, "values", values.reshape(-1))

    __slots__ = ("values",)


reader.register(Held, Rows)


def made(values: NDArray[np.float32], scheme: Scheme, cuts: Sequence[int] = ()) -> tuple[NDArray[Any], NDArray[Any]]:
    """(numbers, scales) of a matrix, asked for in pieces that end at `cuts`."""
    rows, columns = values.shape
    found: list[NDArray[Any]] = []
    for kind, dtype in ((Quantized, np.int32 if scheme is Scheme.INT8 else np.uint8), (Scales, np.float32)):
        recipe = kind(base=Held(values), rows=rows, columns=columns, scheme=scheme)
        out = np.empty(recipe.numel, dtype)
        with Inputs() as inputs:
            ends = sorted({0, recipe.numel, *(cut % max(recipe.numel, 1) for cut in cuts)})
            for start, stop in itertools.pairwise(ends):
                reader(recipe, inputs).fill(start, stop, out[start:stop])
        assert list(recipe.block_ends)[-1] == recipe.numel
        found.append(out)
    return found[0], found[1]


def oracle(values: NDArray[np.float32], scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas of compressed-tensors and of transformers' `Fp8Quantize`, with torch."""
    x = torch.from_numpy(values)
    if scheme is Scheme.FP8_BLOCK:
        padded = torch.nn.functional.pad(x, (0, -x.shape[1] % 128, 0, -x.shape[0] % 128))
        blocks = padded.reshape(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
        largest = blocks.abs().amax(dim=(1, 3))
        factors = torch.where(largest > 0, 448.0 / torch.where(largest > 0, largest, 1.0), 1.0)
        numbers = (blocks * factors[:, None, :, None]).clamp(-448, 448).to(FP8).reshape(padded.shape)
        return numbers[: x.shape[0], : x.shape[1]], 1.0 / factors
    largest = torch.max(x.amin(dim=1).clamp(max=0).abs(), x.amax(dim=1).clamp(min=0))
    scales = largest / (448.0 if scheme is Scheme.FP8 else 127.5)
    scales = torch.where(scales == 0, torch.finfo(torch.float32).eps, scales)[:, None]
    if scheme is Scheme.FP8:
        return (x / scales).clamp(-448, 448).to(FP8), scales
    numbers = torch.round((x / scales).clamp(-128, 127)).to(torch.int8)
    bytes_ = (numbers.to(torch.int16) + 128).to(torch.uint8)
    return torch.nn.functional.pad(bytes_, (0, -x.shape[1] % 4)).contiguous().view(torch.int32), scales


def assert_as_torch_does(values: NDArray[np.float32], scheme: Scheme, cuts: Sequence[int] = ()) -> None:
    numbers, scales = made(values, scheme, cuts)
    wanted, factors = oracle(values, scheme)
    assert numbers.tobytes() == wanted.contiguous().view(torch.uint8).numpy().tobytes()
    assert scales.tobytes() == factors.contiguous().numpy().tobytes()


FLOATS = (
    st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-1, 1, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-38])
)
MATRICES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS)


@given(values=MATRICES, scheme=st.sampled_from(Scheme), cuts=st.lists(st.integers(0, 80), max_size=3))
def test_numbers_and_scales_are_torchs_however_they_are_asked_for(
    values: NDArray[np.float32], scheme: Scheme, cuts: list[int]
):
    if scheme is Scheme.FP8_BLOCK and 0 < np.abs(values).max() < 2.0**-119:
        with pytest.raises(BadOption, match="a block of numbers that are all below 1e-36"):
            made(values, scheme)
        return
    assert_as_torch_does(values, scheme, cuts)


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("shape", [(300, 257), (128, 128), (1, 70_001), (5000, 3)])
def test_matrices_of_several_blocks(scheme: Scheme, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipes, "ROW_BLOCK_BYTES", 1 << 14)
    values = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    values[0] = 0
    assert_as_torch_does(values, scheme, [7, 1001, shape[0] * shape[1] // 2])


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(scheme: Scheme, value: float):
    values = np.ones((4, 4), np.float32)
    values[2, 1] = value
    with pytest.raises(BadOption, match="NaN and infinity cannot be quantized"):
        made(values, scheme)


# --- which layers, and how they are called


def model(shapes: dict[str, tuple[int, ...]]) -> Model:
    tensors = {
        name: Source(name=name, shape=shape, recipe=Zeros(int(np.prod(shape)), DType.F32), role="trainable")
        for name, shape in shapes.items()
    }
    return Model(tensors=tensors, config={}, dtype=DType.BF16)


NAMES = {
    "model.embed_tokens.weight": (128, 128),
    "model.layers.0.self_attn.q_proj.weight": (128, 256),
    "model.layers.0.self_attn.q_proj.bias": (128,),
    "model.layers.0.mlp.gate.weight": (4, 128),
    "model.layers.0.mlp.shared_expert_gate.weight": (1, 128),
    "model.layers.0.mlp.gate_proj.weight": (256, 128),
    "model.layers.0.block.router.classifier.weight": (8, 128),
    "model.layers.0.norm.weight": (128,),
    "visual.blocks.0.attn.qkv.weight": (128, 128),
    "model.vision_tower.layers.0.fc1.weight": (128, 128),
    "audio_tower.layers.0.fc1.weight": (128, 128),
    "lm_head.weight": (128, 128),
}
LINEARS = {name: f"memory.{name}" for name in NAMES if "embed" not in name and "norm" not in name}
CHOSEN = {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj"}


@pytest.mark.parametrize("scheme", ["fp8", "int8", "fp8-block"])
def test_linear_layers_of_blocks_of_text_and_nothing_else(scheme: str):
    planned = Quantize(scheme, LINEARS).plan(model(NAMES))
    scale = "weight_scale_inv" if scheme == "fp8-block" else "weight_scale"
    assert {name.rpartition(".")[0] for name in planned.tensors if name.endswith(scale)} == CHOSEN
    config: Any = planned.fields["quantization_config"]
    left = set(config["modules_to_not_convert" if scheme == "fp8-block" else "ignore"])
    matrices = {name.removesuffix(".weight") for name, shape in NAMES.items() if len(shape) > 1}
    in_memory = {f"memory.{name}" for name in matrices - CHOSEN if f"{name}.weight" in LINEARS}
    assert left == (matrices - CHOSEN) | in_memory
    assert f"2 linear layers quantized as {scheme}" in planned.notes[0]
    for name in NAMES:
        if name.removesuffix(".weight") not in CHOSEN:
            assert planned.tensors[name].recipe.dtype is DType.F32


def test_a_pattern_leaves_out_what_it_matches():
    planned = Quantize("fp8", LINEARS, ["*.q_proj"]).plan(model(NAMES))
    assert [name for name in planned.tensors if name.endswith("scale")] == ["model.layers.0.mlp.gate_proj.weight_scale"]
    with pytest.raises(BadOption, match=r"quantize-skip '\*.x' matches no tensor"):
        Quantize("fp8", LINEARS, ["*.x"]).plan(model(NAMES))
    with pytest.raises(BadOption, match="nothing is left to quantize as fp8"):
        Quantize("fp8", LINEARS, ["model.layers.*"]).plan(model(NAMES))


def test_a_linear_layer_that_is_not_in_the_files_is_left_out_of_the_config_too():
    planned = Quantize("fp8", LINEARS | {"head.out.weight": "head.out.weight"}).plan(model(NAMES))
    config: Any = planned.fields["quantization_config"]
    assert "head.out" in config["ignore"]


def test_blocks_need_sides_that_are_multiples_of_128():
    shapes = NAMES | {"model.layers.0.mlp.up_proj.weight": (200, 128)}
    linears = LINEARS | {"model.layers.0.mlp.up_proj.weight": "m"}
    planned = Quantize("fp8-block", linears).plan(model(shapes))
    assert planned.tensors["model.layers.0.mlp.up_proj.weight"].recipe.dtype is DType.F32
    assert "1 linear layer not quantized, whose sides are no multiples of 128" in planned.notes[1]
    with pytest.raises(BadOption, match="2 layers whose sides are no multiples of 128"):
        Quantize("fp8-block", LINEARS).plan(model({n: (*s[:-1], 100) for n, s in NAMES.items()}))


def test_stacks_of_experts_are_refused_unless_they_are_skipped():
    shapes = NAMES | {"model.layers.0.mlp.experts.gate_up_proj": (4, 128, 256)}
    with pytest.raises(UnsupportedLayout, match="the experts are stacked in one tensor") as caught:
        Quantize("fp8", LINEARS).plan(model(shapes))
    assert caught.value.address == ("model.layers.0.mlp.experts.gate_up_proj",)
    planned = Quantize("fp8", LINEARS, ["*.experts.*"]).plan(model(shapes))
    assert planned.tensors["model.layers.0.mlp.experts.gate_up_proj"].recipe.dtype is DType.F32


def test_a_shape_is_listed():
    recipe = Listed((3, 5))
    out = np.empty(1, np.int64)
    with Inputs() as inputs:
        reader(recipe, inputs).fill(1, 2, out)
    assert (out.tolist(), recipe.numel, recipe.input_bytes, recipe.memory_bytes) == ([5], 2, 0, 0)


# --- whole conversions


def dequantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            rows, columns = tensors[f"{module}.weight_shape"].tolist()
            numbers = tensor.view(torch.uint8).reshape(rows, -1)[:, :columns].float() - 128
            found[f"{module}.weight"] = numbers * tensors[f"{module}.weight_scale"]
        elif kind == "weight" and f"{module}.weight_scale" in tensors:
            found[name] = tensor.float() * tensors[f"{module}.weight_scale"]
        elif kind not in ("weight_scale", "weight_shape"):
            found[name] = tensor
    return found


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


CASES = ["llm_untied_z3", "mixtral_z2", "qwen3_moe_z3", "m3_z2"]


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_masters_within_half_a_step(case: str, scheme: str, tmp_path: Path):
    source = MODELS / case / "checkpoint"
    consolidate(source, tmp_path / "plain")
    report = consolidate(source, tmp_path / "out", quantize=scheme, dtype="bf16")
    plain, found = written(tmp_path / "plain"), dequantized(written(tmp_path / "out"))
    assert found.keys() == plain.keys()
    quantized = 0
    for name, tensor in plain.items():
        if found[name].dtype == torch.bfloat16:
            assert torch.equal(found[name], tensor.bfloat16())
            continue
        step = tensor.abs().amax(dim=1, keepdim=True) / (127.5 * 2 if scheme == "int8" else 16)
        assert ((found[name] - tensor).abs() <= step * 1.01).all(), name
        quantized += 1
    assert f"{quantized} linear layers quantized as {scheme}" in report.notes[0]
    assert f"scales of {quantized} quantized weights" in report.checks
    assert report.warnings == ()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert verify(tmp_path / "out").ok
    assert verify(tmp_path / "out", against=source).ok


def test_verify_finds_a_number_and_a_scale_that_differ(tmp_path: Path):
    source = MODELS / "llm_untied_z3" / "checkpoint"
    consolidate(source, tmp_path / "out", quantize="fp8")
    file = tmp_path / "out" / "model.safetensors"
    tensors = written(tmp_path / "out")
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight_scale"):
        changed = {n: t.clone() for n, t in tensors.items()}
        changed[name].view(torch.uint8)[1, 0] ^= 1
        save_file(changed, file, {"format": "pt"})
        found = verify(tmp_path / "out", against=source)
        assert [problem.partition(":")[0] for problem in found.problems] == [name]


def test_merged_adapters_are_quantized_from_float32(tmp_path: Path):
    options: dict[str, Any] = {"lora": "merge", "base": BASES / "llama"}
    source = MODELS / "lora_z3" / "checkpoint"
    consolidate(source, tmp_path / "plain", **options)
    report = consolidate(source, tmp_path / "out", quantize="fp8", dtype="bf16", **options)
    found, plain = written(tmp_path / "out"), written(tmp_path / "plain")
    for name, tensor in found.items():
        if name.endswith("weight_scale"):
            wanted, scales = oracle(plain[name.removesuffix("_scale")].numpy(), Scheme.FP8)
            assert torch.equal(tensor, scales)
            assert torch.equal(found[name.removesuffix("_scale")].view(torch.uint8), wanted.view(torch.uint8))
    assert "merged values: not recomputed of transformed values" in report.not_checked
    assert verify(tmp_path / "out", against=source, base=BASES / "llama").ok


def test_a_mean_is_quantized_from_float32(tmp_path: Path):
    several = [MODELS / f"llm_tied_{stage}" / "checkpoint" for stage in ("z2", "z3")]
    consolidate(several, tmp_path / "plain", average="uniform")
    consolidate(several, tmp_path / "out", average="uniform", quantize="int8", dtype="bf16")
    found, plain = written(tmp_path / "out"), written(tmp_path / "plain")
    name = "model.layers.1.self_attn.k_proj"
    wanted, scales = oracle(plain[f"{name}.weight"].numpy(), Scheme.INT8)
    assert torch.equal(found[f"{name}.weight_scale"], scales)
    assert torch.equal(found[f"{name}.weight_packed"], wanted)
    assert verify(tmp_path / "out", against=several).ok


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BLOCK_BYTES", 256)
    monkeypatch.setattr(executor, "PIECE_BYTES", 512)
    monkeypatch.setattr(recipes, "ROW_BLOCK_BYTES", 300)
    monkeypatch.setattr(part, "SYNC_BYTES", 512)


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_neither_threads_nor_an_interruption_change_a_bit(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, options = MODELS / "mixtral_z3" / "checkpoint", {"quantize": scheme, "max_shard_size": "10KB"}
    consolidate(source, tmp_path / "whole", **options)
    small(monkeypatch)
    for workers in (1, 2):

        def stop(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        out = tmp_path / str(workers)
        with pytest.raises(KeyboardInterrupt):
            consolidate(source, out, workers=workers, progress=stop, **options)
        with pytest.raises(BadOption, match="other options"):
            consolidate(source, out, max_shard_size="10KB")
        assert consolidate(source, out, workers=workers, **options).resumed_bytes > 0
        assert contents(out) == contents(tmp_path / "whole")


def test_memory_is_that_of_row_blocks():
    recipe = Quantized(base=Zeros(1 << 30, DType.F32), rows=1 << 15, columns=1 << 15, scheme=Scheme.FP8_BLOCK)
    assert recipe.memory_bytes < 100 << 20
    assert replace(recipe, scheme=Scheme.FP8).memory_bytes < 7 << 20
    cost = estimate(MODELS / "llm_untied_z3" / "checkpoint", quantize="fp8", workers=1)
    assert cost.peak_memory_bytes < 12 << 20


def test_what_it_cannot_be_used_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = MODELS / "llm_untied_z3" / "checkpoint"
    for options, complaint in [
        ({"quantize": "fp4"}, "quantize must be 'fp8', 'fp8-block' or 'int8'"),
        ({"quantize_skip": "*"}, "quantize_skip.* is used only with"),
        ({"quantize": "fp8", "optimizer": True}, "optimizer.* cannot be used with"),
        ({"quantize": "fp8", "names": "stored"}, "only under the names that it expects"),
        ({"quantize": "fp8", "rename": "model.=x."}, "only under the names that it expects"),
    ]:
        with pytest.raises(BadOption, match=complaint):
            consolidate(source, tmp_path / "out", **options)
    with pytest.raises(BadOption, match=r"quantize.* is for models, not for adapters"):
        consolidate(MODELS / "lora_z3" / "checkpoint", tmp_path / "out", quantize="fp8")
    with monkeypatch.context() as patch:
        patch.setattr(sources, "architecture", lambda *_, **__: (None, "transformers could not build the model"))
        with pytest.raises(BadOption, match="which layers are linear is not known: transformers could not build"):
            consolidate(source, tmp_path / "out", quantize="fp8")
    for lacking, said in (
        ({"transformers", "torch"}, "transformers and torch, which are"),
        ({"transformers"}, "transformers, which is"),
        ({"torch"}, "torch, which is"),
    ):
        for where in (packages, asking):
            monkeypatch.setattr(where, "find_spec", lambda name, lacking=lacking: None if name in lacking else name)
        with pytest.raises(MissingPackage, match=f"quantizing needs {said} not installed: it says which") as caught:
            consolidate(source, tmp_path / "out", quantize="fp8")
        assert caught.value.remedies == ("pip install 'zeroconsolidate[quantize]'",)
    assert not (tmp_path / "out").exists()


# --- the gate


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized")
    for scheme in ("fp8", "int8"):
        consolidate(MODELS / "llm_untied_z3" / "checkpoint", folder / scheme, quantize=scheme)
        (folder / scheme / "zeroconsolidate.json").unlink()
    return {scheme: folder / scheme for scheme in ("fp8", "int8")}


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("scheme", "lost", "complaint"),
    [
        ("fp8", f"{Q}.weight_scale", f"{Q}.weight holds integers|{Q} is to be quantized"),
        ("fp8", f"{Q}.weight", f"{Q}.weight is in no file"),
        ("int8", f"{Q}.weight_scale", f"{Q}.weight_scale is in no file"),
        ("int8", f"{Q}.weight_shape", f"{Q}.weight_shape is in no file"),
        ("int8", f"{Q}.weight_packed", f"{Q}.weight is in no file"),
    ],
)
def test_what_is_missing(scheme: str, lost: str, complaint: str, quantized: dict[str, Path], tmp_path: Path):
    shutil.copytree(quantized[scheme], tmp_path / "out")
    tensors = written(tmp_path / "out")
    del tensors[lost]
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    found = verify(tmp_path / "out")
    assert any(re.search(complaint, problem) for problem in found.problems), found.problems


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_scales_of_another_shape_and_weights_of_another(scheme: str, quantized: dict[str, Path], tmp_path: Path):
    shutil.copytree(quantized[scheme], tmp_path / "out")
    tensors = written(tmp_path / "out")
    tensors[f"{Q}.weight_scale"] = tensors[f"{Q}.weight_scale"].reshape(-1).clone()
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    assert any("the scale does not fit" in problem for problem in verify(tmp_path / "out").problems)
    name = f"{Q}.weight_packed" if scheme == "int8" else f"{Q}.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    assert any(f"{Q}.weight has the shape" in problem for problem in verify(tmp_path / "out").problems)


def test_what_the_config_says_and_the_weights_do_not(quantized: dict[str, Path], tmp_path: Path):
    shutil.copytree(quantized["fp8"], tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    ignored = config["quantization_config"]["ignore"]

    def problems_with(ignore: list[str]) -> str:
        config["quantization_config"]["ignore"] = ignore
        file.write_text(json.dumps(config))
        return "; ".join(verify(tmp_path / "out").problems)

    assert problems_with(ignored) == ""
    assert f"{Q} is not to be quantized, but its weight is" in problems_with([*ignored, Q])
    assert f"{Q} is not to be quantized, but its weight is" in problems_with([*ignored, "re:.*q_proj$"])
    left = [each for each in ignored if each != "lm_head"]
    assert "lm_head is to be quantized, but its weight is not: a loader would use a random scale" in problems_with(left)
    del config["quantization_config"]
    file.write_text(json.dumps(config))
    assert any("holds integers" in problem for problem in verify(tmp_path / "out").problems)


STATED = {
    "quant_method": "compressed-tensors",
    "ignore": ["lm_head", 3],
    "config_groups": {"a": {"targets": ["Linear"], "weights": {"strategy": "group", "num_bits": "x"}}},
}


@pytest.mark.parametrize(
    ("stated", "method"),
    [
        (STATED, "compressed-tensors"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128], "modules_to_not_convert": "x"}, "fp8"),
        ({"quant_method": "gptq"}, None),
        ([], None),
        (STATED | {"config_groups": []}, None),
        (STATED | {"config_groups": {"a": 3}}, None),
        (STATED | {"config_groups": {"a": {"targets": ["Conv2d"], "weights": {}}}}, None),
    ],
)
def test_configs_of_any_kind(stated: Any, method: str | None, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": stated}))
    found = quantization_of(str(tmp_path))
    assert (found.method if found is not None else None) == method
    (tmp_path / "config.json").write_text("{")
    assert quantization_of(str(tmp_path)) is None


def test_of_other_formats_only_what_is_known_is_compared():
    stated = Quantization(method="compressed-tensors", excepted=(), strategy="group", block=(), bits=0)
    held = {"a.weight": Dense((4, 4), DType.F8_E4M3), "a.weight_scale": Dense((4, 2)), "b.weight_packed": Dense((2, 2))}
    assert [finding.text for finding in problems(held, stated, {})] == [
        "b.weight_scale is in no file: without it the quantized weight cannot be computed"
    ]
    assert dense(held, {}, stated).keys() == {"a.weight"}
    assert dense(held, {}, None) == held
    blocks = replace(stated, method="fp8", strategy="block", block=(2, 2), excepted=("a",))
    held = {"a.b.weight": Dense((4, 4), DType.F8_E4M3), "a.b.weight_scale_inv": Dense((2, 2))}
    assert [finding.text for finding in problems(held, blocks, {})] == [
        "config.json: a.b is not to be quantized, but its weight is"
    ]
    assert gate_quantized.dense(held, {}, blocks).keys() == {"a.b.weight"}


def test_a_packed_weight_has_the_width_that_is_expected_or_that_of_its_words():
    stated = Quantization(method="compressed-tensors", excepted=(), strategy="channel", block=(), bits=8)
    held = {"a.weight_packed": Dense((2, 3), DType.I32)}
    for expected, shape in {(2, 10): (2, 10), (2, 8): (2, 12), (2,): (2, 12)}.items():
        assert dense(held, {"a.weight": expected}, stated)["a.weight"].shape == shape


def test_a_model_that_is_not_quantized_is_refused_where_its_config_says_it_is(tmp_path: Path):
    with pytest.raises(WrongNames, match="is to be quantized, but its weight is not"):
        consolidate(
            MODELS / "llm_untied_z3" / "checkpoint",
            tmp_path / "out",
            set_config=['quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}'],
        )
