"""What `--quantize` writes is what others make of the same fp32 model, byte for byte, and transformers loads it.

Needs llm-compressor and compressed-tensors: tools/test_quantize.sh. Models are tiny and random: what matters is which
layers are quantized, under which names, and each bit of weights and scales.
"""

from __future__ import annotations

import json
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", minversion="5")
pytest.importorskip("compressed_tensors")
model_free: Any = pytest.importorskip("llmcompressor.entrypoints.model_free")

import transformers  # noqa: E402
import zero_model  # noqa: E402
from architectures.cases import ARCHITECTURES  # noqa: E402
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: E402
from compressed_tensors.quantization.lifecycle.forward_helpers import _dequantize  # noqa: E402
from fixtures import FIXTURES  # noqa: E402
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize  # noqa: E402
from transformers.utils.quantization_config import CompressedTensorsConfig, FineGrainedFP8Config  # noqa: E402

from zeroconsolidate import compare, consolidate, verify  # noqa: E402
from zeroconsolidate.errors import BadOption, UnsupportedLayout  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REFERENCES: dict[str, Any] = {
    "fp8": lambda: "FP8_DYNAMIC",
    "int8": lambda: QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, type="int", strategy="channel", symmetric=True, dynamic=False),
        format="pack-quantized",
    ),
}
"""What llm-compressor calls the scheme."""


class Made:
    """A random model, as a ZeRO checkpoint and as transformers saves it."""

    def __init__(self, name: str, folder: Path, sizes: Mapping[str, int] = MappingProxyType({})) -> None:
        torch.manual_seed(0)
        case = ARCHITECTURES[name]
        config = transformers.AutoConfig.for_model(**case.config | dict(sizes))
        config.architectures = [name]
        self.model = getattr(transformers, name)(config).float()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
        first: dict[int, str] = {}
        named = self.model.named_parameters(remove_duplicate=False)
        owners = {n: first.setdefault(id(p), n) for n, p in named}
        parameters = {n: p.detach() for n, p in self.model.named_parameters()}
        others = {n: t for n, t in self.model.state_dict().items() if n not in owners}
        run = zero_model.Run(
            stage=case.stage, world_size=2, groups=[parameters], buffers=others,
            ties={n: owner for n, owner in owners.items() if n != owner},
        )  # fmt: skip
        self.checkpoint, self.plain, self.folder = folder / "checkpoint", folder / "plain", folder
        zero_model.save(run, self.checkpoint)
        self.model.save_pretrained(self.plain)
        (self.checkpoint / "config.json").write_bytes((self.plain / "config.json").read_bytes())


def assert_as_llm_compressor(out: Path, plain: Path, scheme: str, folder: Path) -> None:
    """`out` has the tensors and the quantization_config that llm-compressor makes of the fp32 model in `plain`."""
    stated = json.loads((out / "config.json").read_text())["quantization_config"]
    ignored, tensors = stated["ignore"], load_file(plain / "model.safetensors")
    # It asks for patterns of all that is no linear layer, such as norms whose name does not end in `norm`.
    vectors = [n.removesuffix(".weight") for n, t in tensors.items() if t.ndim != 2 and n.endswith(".weight")]
    model_free.model_free_ptq(plain, folder, REFERENCES[scheme](), ignore=[*ignored, *vectors], device="cpu")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == [*ignored, *vectors]
    assert stated == config | {"ignore": ignored}
    wanted, found = (load_file(each / "model.safetensors") for each in (folder, out))
    assert found.keys() == wanted.keys()
    assert all(same_bits(found[name], tensor) for name, tensor in wanted.items())


@pytest.fixture(scope="module", autouse=True)
def contiguous() -> Iterator[None]:
    """llm-compressor 0.14 fails to save packed weights whose rows are not filled: they are views."""
    with pytest.MonkeyPatch.context() as patch:
        save = model_free.save_file
        patch.setattr(
            model_free,
            "save_file",
            lambda tensors, path: save({n: t.contiguous() for n, t in tensors.items()}, path),
        )
        yield


REFUSED = {
    "GPT2LMHeadModel": "nothing is left to quantize",  # its layers are transformers' Conv1D
    "GPT2ForSequenceClassification": "nothing is left to quantize",
    "SiglipForImageClassification": "nothing is left to quantize",  # a tower of pictures, and nothing else
    "GptOssForCausalLM": "the experts are stacked in one tensor",
}
QUANTIZED = sorted(ARCHITECTURES.keys() - REFUSED)


LOADED = [
    "BertModel", "BloomForCausalLM", "FalconForCausalLM", "Gemma3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM",
    "MixtralForCausalLM", "ModernBertForMaskedLM", "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM",
    "Qwen2_5_VLForConditionalGeneration", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "T5ForConditionalGeneration",
    "XLMRobertaModel",
]  # fmt: skip
"""Dense, with listed experts that transformers fuses, with pictures, encoders, with both halves."""


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    sides = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*sides)


def dequantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that they stand for, by the formulas of the formats: a number times its scale."""
    found = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "weight_packed":
            rows, columns = tensors[f"{module}.weight_shape"].tolist()
            numbers = tensor.contiguous().view(torch.uint8).reshape(rows, -1)[:, :columns].float() - 128
            found[f"{module}.weight"] = numbers * tensors[f"{module}.weight_scale"]
        elif f"{module}.weight_scale_inv" in tensors and part == "weight":
            scales = tensors[f"{module}.weight_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            found[name] = tensor.float() * scales
        elif part == "weight" and f"{module}.weight_scale" in tensors:
            found[name] = tensor.float() * tensors[f"{module}.weight_scale"]
        elif part not in ("weight_scale", "weight_scale_inv", "weight_shape"):
            found[name] = tensor
    return found


def is_loaded_as_it_is(out: Path, folder: Path, kind: Any, quantization: Any, dtype: torch.dtype) -> bool:
    """Whether transformers makes of a quantized directory the model that it makes of the dequantized weights."""
    config = json.loads((out / "config.json").read_text())
    del config["quantization_config"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dequantized(load_file(out / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    truth = kind.from_pretrained(folder, dtype=dtype).state_dict()
    loaded, info = kind.from_pretrained(out, dtype=dtype, quantization_config=quantization, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    found = loaded.state_dict()
    return found.keys() == truth.keys() and all(same_bits(found[name], truth[name]) for name in truth)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(name, scheme) for name in QUANTIZED for scheme in REFERENCES if scheme == "fp8" or name in LOADED],
)
def test_bytes_and_config_are_those_of_llm_compressor(name: str, scheme: str, tmp_path: Path):
    made = Made(name, tmp_path)
    report = consolidate(made.checkpoint, tmp_path / "out", quantize=scheme)
    assert_as_llm_compressor(tmp_path / "out", made.plain, scheme, tmp_path / "reference")
    assert report.warnings == ()
    assert verify(tmp_path / "out").ok


@pytest.mark.parametrize("scheme", REFERENCES)
def test_a_merged_model_is_quantized_from_float32(scheme: str, tmp_path: Path):
    options: dict[str, Any] = {"lora": "merge", "base": FIXTURES / "models" / "_bases" / "llama", "names": "hub"}
    source = FIXTURES / "models" / "lora_z3" / "checkpoint"
    consolidate(source, tmp_path / "plain", **options)
    consolidate(source, tmp_path / "out", quantize=scheme, **options)
    assert_as_llm_compressor(tmp_path / "out", tmp_path / "plain", scheme, tmp_path / "reference")


@pytest.mark.parametrize("scheme", REFERENCES)
@pytest.mark.parametrize("name", LOADED)
def test_transformers_loads_it(name: str, scheme: str, tmp_path: Path):
    made = Made(name, tmp_path)
    consolidate(made.checkpoint, tmp_path / "out", quantize=scheme)
    quantization = CompressedTensorsConfig(dequantize=True)
    assert is_loaded_as_it_is(tmp_path / "out", tmp_path / "dense", type(made.model), quantization, torch.float32)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_quantized_is_refused_by_name(name: str, tmp_path: Path):
    made = Made(name, tmp_path)
    with pytest.raises((BadOption, UnsupportedLayout), match=REFUSED[name]):
        consolidate(made.checkpoint, tmp_path / "out", quantize="fp8")
    assert not (tmp_path / "out").exists()


# --- blocks of 128 x 128, as DeepSeek and Qwen publish them

SIDES = {"hidden_size": 256, "intermediate_size": 384}
HEADS = SIDES | {"num_attention_heads": 2, "num_key_value_heads": 1}
WIDE_HEADS = HEADS | {"head_dim": 128}
BLOCKED: dict[str, dict[str, Any]] = {
    "BertModel": SIDES,
    "FalconForCausalLM": {"hidden_size": 256, "num_attention_heads": 2},
    "Gemma3ForCausalLM": WIDE_HEADS,
    "LlamaForCausalLM": WIDE_HEADS,
    "LlavaForConditionalGeneration": {
        "text_config": ARCHITECTURES["LlavaForConditionalGeneration"].config["text_config"] | HEADS
    },
    "MistralForCausalLM": HEADS,
    "MixtralForCausalLM": WIDE_HEADS,
    "ModernBertForMaskedLM": SIDES,
    "Phi3ForCausalLM": HEADS,
    "Qwen2ForCausalLM": HEADS,
    "Qwen2MoeForCausalLM": HEADS | {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 256},
    "Qwen3ForCausalLM": WIDE_HEADS,
    "Qwen3MoeForCausalLM": WIDE_HEADS | {"moe_intermediate_size": 128},
    "T5ForConditionalGeneration": {"d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 384},
    "XLMRobertaModel": SIDES,
}


def assert_as_transformers(out: Path, plain: Path) -> None:
    """`out` has the numbers, scales and config of transformers' own FineGrainedFP8, of the fp32 model in `plain`."""
    found, dense = load_file(out / "model.safetensors"), load_file(plain / "model.safetensors")
    stated = json.loads((out / "config.json").read_text())["quantization_config"]
    read = FineGrainedFP8Config(**stated)
    assert (read.weight_block_size, read.activation_scheme, read.scale_fmt) == ([128, 128], "dynamic", "float")
    quantize = Fp8Quantize(SimpleNamespace(quantization_config=read))
    wanted, chosen = {}, [n.removesuffix("_scale_inv") for n in found if n.endswith("_scale_inv")]
    for key, tensor in dense.items():
        wanted |= quantize.convert({key: tensor}) if key in chosen else {key: tensor}
    assert len(chosen) > 5
    assert found.keys() == wanted.keys()
    assert all(same_bits(found[key], tensor) for key, tensor in wanted.items())
    assert verify(out).ok


@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_are_those_of_transformers(name: str, tmp_path: Path):
    """And on a CPU, where transformers dequantizes, they load as what they stand for."""
    made = Made(name, tmp_path, BLOCKED[name])
    consolidate(made.checkpoint, tmp_path / "out", quantize="fp8-block")
    assert_as_transformers(tmp_path / "out", made.plain)
    assert is_loaded_as_it_is(tmp_path / "out", tmp_path / "dense", type(made.model), None, torch.float32)


def test_blocks_of_a_merged_model(tmp_path: Path):
    """Of a run that has nothing but factors, which are merged into the model that transformers saved."""
    base = Made("LlamaForCausalLM", tmp_path, BLOCKED["LlamaForCausalLM"]).plain
    modules = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    shapes = {"lora_A.default.weight": (4, 256), "lora_B.default.weight": (256, 4)}
    factors = {f"{module}.{name}": torch.randn(shape) for module in modules for name, shape in shapes.items()}
    source = zero_model.save(zero_model.Run(stage=3, world_size=2, groups=[factors]), tmp_path / "lora")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (source / "adapter_config.json").write_text(json.dumps(config))
    options: dict[str, Any] = {"lora": "merge", "base": base, "names": "hub"}
    consolidate(source, tmp_path / "merged", **options)
    consolidate(source, tmp_path / "out", quantize="fp8-block", **options)
    merged, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", base))
    assert sum(not torch.equal(merged[name], original[name]) for name in merged) == 2
    assert_as_transformers(tmp_path / "out", tmp_path / "merged")


@pytest.mark.parametrize("scheme", [*REFERENCES, "fp8-block"])
def test_compare_sees_what_the_libraries_of_the_formats_compute(scheme: str, tmp_path: Path):
    """Each weight that `compare` makes of numbers and scales is theirs, bit for bit."""
    made = Made("Qwen3MoeForCausalLM", tmp_path, BLOCKED["Qwen3MoeForCausalLM"])
    consolidate(made.checkpoint, tmp_path / "out", quantize=scheme)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    theirs: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part == "weight" and f"{name}_scale_inv" in stored:
            inverse = stored[f"{name}_scale_inv"]
            theirs[name] = Fp8Dequantize(None)._dequantize_one(tensor, inverse, torch.float32)
        elif part == "weight" and f"{name}_scale" in stored:
            theirs[name] = _dequantize(tensor, stored[f"{name}_scale"])
        elif part == "weight_packed":
            shape = torch.Size(stored[f"{module}.weight_shape"].tolist())
            theirs[f"{module}.weight"] = _dequantize(
                unpack_from_int32(tensor, 8, shape), stored[f"{module}.weight_scale"]
            )
        elif part not in ("weight_scale", "weight_scale_inv", "weight_shape"):
            theirs[name] = tensor
    (tmp_path / "dense").mkdir()
    save_file(theirs, tmp_path / "dense" / "model.safetensors")
    found = compare(tmp_path / "dense", tmp_path / "out")
    assert f"quantized: {scheme}, " in found.b.what
    assert len(found.tensors) == len(theirs)
    assert {tensor.state for tensor in found.tensors} == {"equal"}
