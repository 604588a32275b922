"""A quantized model is compared as the weights that it stands for; one of an unknown format never is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import python
from command import zeroconsolidate as run
from fixtures import FIXTURES
from safetensors.torch import load_file, save_file

from zeroconsolidate import compare, consolidate, html_report
from zeroconsolidate.audit.requantized import most_relative

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


pytest.importorskip("transformers", minversion="5")

MODELS = FIXTURES / "models"
TRAINED = MODELS / "llm_untied_z3" / "checkpoint"
FP8 = torch.float8_e4m3fn
Tensors = dict[str, torch.Tensor]


def written(folder: Path, tensors: Tensors, config: dict[str, Any] | None = None) -> Path:
    """A model directory."""
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": config} if config else {}))
    return folder


def edited(source: Path, folder: Path, change: Callable[[Tensors], Tensors | None], **fields: Any) -> Path:
    """A quantized model with tensors, or its quantization_config, changed."""
    tensors = load_file(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())["quantization_config"]
    return written(folder, change(tensors) or tensors, config | fields)


def unpacked(words: torch.Tensor, columns: int) -> torch.Tensor:
    """Numbers of 8 bits, by shifts."""
    numbers = (words[:, :, None] >> torch.tensor([0, 8, 16, 24])) & 255
    return (numbers.flatten(1)[:, :columns] - 128).float()


def by_hand(folder: Path) -> Tensors:
    """The weights that a quantized output stands for, with torch."""
    stored = load_file(folder / "model.safetensors")
    found: Tensors = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part == "weight" and f"{module}.weight_scale" in stored:
            found[name] = tensor.float() * stored[f"{module}.weight_scale"]
        elif part == "weight_packed":
            numbers = unpacked(tensor, int(stored[f"{module}.weight_shape"][1]))
            found[f"{module}.weight"] = numbers * stored[f"{module}.weight_scale"]
        elif part not in ("weight_scale", "weight_shape"):
            found[name] = tensor
    return found


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("outputs")
    for scheme in ("fp8", "int8"):
        consolidate(TRAINED, folder / scheme, quantize=scheme, dtype="bf16")
    return {scheme: folder / scheme for scheme in ("fp8", "int8")}


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": []}


def blocks(folder: Path, seed: int = 0) -> tuple[Path, Tensors]:
    """A model in blocks of 128 x 128, whose last ones are not full; and its weights."""
    torch.manual_seed(seed)
    stored, weights = {}, {}
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        stored[name], scales = torch.randn(200, 300).to(FP8), torch.rand(2, 3) + 0.1
        stored[f"{name}_scale_inv"] = scales
        wide = scales.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
        weights[name] = stored[name].float() * wide
    stored["model.norm.weight"] = weights["model.norm.weight"] = torch.randn(300)
    return written(folder, stored, BLOCKS), weights


class TestKnownFormats:
    """Numbers times scales are compared."""

    @pytest.mark.parametrize("scheme", ["fp8", "int8"])
    def test_the_weights_are_torchs_products(self, scheme: str, outputs: dict[str, Path], tmp_path: Path) -> None:
        plain = written(tmp_path / "plain", by_hand(outputs[scheme]))
        for pair in ((plain, outputs[scheme]), (outputs[scheme], plain)):
            found = compare(*pair)
            assert found.equal
            assert {tensor.state for tensor in found.tensors} == {"equal"}
            assert len(found.tensors) == 21
            assert found.suspicions == ()

    def test_blocks(self, tmp_path: Path) -> None:
        folder, weights = blocks(tmp_path / "blocks")
        found = compare(written(tmp_path / "plain", weights), folder)
        assert found.equal
        assert found.b.what == "model directory, quantized: fp8-block, 3 layers, dequantized to compare"
        assert {tensor.state for tensor in found.tensors} == {"equal"}

    @pytest.mark.parametrize("shape", [(), (1,)])
    def test_one_scale(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        numbers, scale = torch.randn(20, 30).to(FP8), torch.full(shape, 0.3, dtype=torch.bfloat16)
        weights = {"strategy": "tensor", "num_bits": 8}
        config = {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
        }
        folder = written(tmp_path / "one", {name: numbers, f"{name}_scale": scale}, config)
        plain = written(tmp_path / "plain", {name: numbers.float() * scale.float().reshape(())})
        found = compare(plain, folder)
        assert found.equal
        assert found.tensors[0].state == "equal"
        assert "quantized: fp8 with one scale, 1 layer" in found.b.what

    def test_a_module_in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        inside, weights = blocks(tmp_path / "0_Transformer")
        module = {"idx": 0, "name": "0", "path": inside.name, "type": "sentence_transformers.models.Transformer"}
        (tmp_path / "modules.json").write_text(json.dumps([module]))
        found = compare(tmp_path, tmp_path)
        assert "fp8-block, 3 layers" in found.a.what
        assert len(found.tensors) == len(weights)
        assert found.equal

    @pytest.mark.parametrize("scheme", ["fp8", "int8"])
    def test_a_checkpoint_and_its_output(self, scheme: str, outputs: dict[str, Path]) -> None:
        found = compare(TRAINED, outputs[scheme])
        assert (found.only_a, found.only_b, found.suspicions, found.notes) == ((), (), (), ())
        assert f"quantized: {scheme}, 14 layers, dequantized to compare" in found.b.what
        assert len(found.beyond) == 14
        expected, made = load_file(MODELS / "llm_untied_z3" / "expected.safetensors"), by_hand(outputs[scheme])
        for tensor in found.tensors:
            x, y = expected[tensor.name].double(), made[tensor.name].double()
            assert tensor.figures is not None
            assert tensor.figures.largest == float((x - y).abs().max())
            assert tensor.figures.relative == pytest.approx(float((x - y).norm() / max(x.norm(), y.norm())), rel=1e-9)
        assert all(0 < layer.relative < 2**-4 for layer in found.layers.values())
        assert {t.dtype_b for t in found.tensors if t.name in found.beyond} == {
            "float8_e4m3fn" if scheme == "fp8" else "int8"
        }
        assert compare(TRAINED, outputs[scheme], tolerance="0.004").equal

    @pytest.mark.parametrize("scheme", ["fp8", "int8"])
    def test_with_itself(self, scheme: str, outputs: dict[str, Path]) -> None:
        found = compare(outputs[scheme], outputs[scheme])
        assert found.equal
        assert (found.whole.changed, found.suspicions) == (0, ())

    def test_what_is_read_is_counted_as_it_is_stored(self, tmp_path: Path) -> None:
        folder, weights = blocks(tmp_path / "blocks")
        stored = load_file(folder / "model.safetensors")
        size = sum(tensor.nbytes for tensor in stored.values()) + sum(tensor.nbytes for tensor in weights.values())
        found = compare(written(tmp_path / "plain", weights), folder)
        assert size - 300 < found.bytes_read <= size

    def test_the_command_and_the_page_say_how(self, outputs: dict[str, Path], tmp_path: Path) -> None:
        done = run("compare", TRAINED, outputs["fp8"])
        assert done.returncode == 1, done.stderr
        assert "quantized: fp8, 14 layers, dequantized to compare" in " ".join(done.stdout.split())
        assert "SUSPICIOUS" not in done.stdout
        assert "dequantized to compare" in html_report(compare(TRAINED, outputs["fp8"]))


class TestSuspicions:
    """What quantizing explains is not suspicious; what it does not explain is."""

    def test_a_layer_of_another_model(self, outputs: dict[str, Path], tmp_path: Path) -> None:
        name = "model.layers.1.mlp.down_proj.weight"
        for scheme, part in (("fp8", ""), ("int8", "_packed")):

            def reverse(tensors: Tensors, part: str = part) -> None:
                tensors[f"{name}{part}"] = tensors[f"{name}{part}"].flip(0)

            found = compare(TRAINED, edited(outputs[scheme], tmp_path / scheme, reverse))
            (text,) = [text for text in found.suspicions if "further" in text]
            assert text.endswith(f"unlike 13 other tensors: {name}")

    def test_wrong_scales(self, outputs: dict[str, Path], tmp_path: Path) -> None:
        name = "model.layers.0.self_attn.q_proj.weight"

        def double(tensors: Tensors) -> None:
            tensors[f"{name}_scale"] *= 2

        found = compare(TRAINED, edited(outputs["fp8"], tmp_path / "bad", double))
        assert any(text.endswith(f"unlike 13 other tensors: {name}") for text in found.suspicions)

    def test_what_moved_is_not_further_than_quantizing_explains(self, outputs: dict[str, Path]) -> None:
        assert compare(MODELS / "_bases" / "llama", outputs["fp8"]).suspicions == ()

    def test_a_wrong_head(self, outputs: dict[str, Path], tmp_path: Path) -> None:
        def other(tensors: Tensors) -> None:
            tensors["lm_head.weight"] = torch.randn(tensors["lm_head.weight"].shape).bfloat16()

        found = compare(TRAINED, edited(outputs["fp8"], tmp_path / "bad", other))
        assert any("nothing in common" in text and "lm_head.weight" in text for text in found.suspicions)

    def test_what_is_not_quantized_and_differs_alone(self, tmp_path: Path) -> None:
        tensors = {f"model.layers.{n}.norm.weight": torch.randn(40) for n in range(12)}
        tensors |= {f"model.layers.{n}.up_proj.weight": torch.randn(128, 128) for n in range(2)}
        stored = dict(tensors)
        for n in range(2):
            name = f"model.layers.{n}.up_proj.weight"
            stored |= {name: tensors[name].to(FP8), f"{name}_scale_inv": torch.ones(1, 1)}
        stored["model.layers.3.norm.weight"] = stored["model.layers.3.norm.weight"] + 0.1
        found = compare(written(tmp_path / "a", tensors), written(tmp_path / "b", stored, BLOCKS))
        assert [text for text in found.suspicions if "only" in text] == [
            "of what is not quantized, only model.layers.3.norm.weight differs; 11 other tensors are the same"
        ]

    @pytest.mark.parametrize("scheme", ["fp8", "int8"])
    def test_the_bound_is_one(self, scheme: str) -> None:
        """Of values that are as far off as rounding can be; and it is not many times larger than what is found."""
        torch.manual_seed(0)
        for x in (torch.randn(64, 64), torch.rand(64, 64) + 8.49, torch.randn(64, 64) ** 9):
            scale = x.abs().amax(1, keepdim=True) / (448 if scheme == "fp8" else 127.5)
            made = (x / scale).to(FP8).float() if scheme == "fp8" else (x / scale).clamp(-128, 127).round()
            relative = float((made * scale - x).norm() / x.norm())
            most = most_relative(scheme, numel=x.numel(), peak=float(x.abs().max()), norm=float(x.norm()))
            assert relative <= most < 2
        assert most_relative(scheme, numel=4, peak=0.0, norm=0.0) < 0.1


UNKNOWN = {"gptq": torch.int32, "awq": torch.int32, "bitsandbytes": torch.int8, "mxfp4": torch.uint8}


class TestUnknownFormats:
    """Stored values are not compared as weights."""

    @staticmethod
    def of(method: str, folder: Path, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        part = "weight" if method == "bitsandbytes" else "qweight"
        tensors: Tensors = {"model.norm.weight": torch.ones(8)}
        for layer in range(2):
            module = f"model.layers.{layer}.up_proj"
            tensors[f"{module}.{part}"] = torch.randint(0, 100, (8, 8)).to(UNKNOWN[method])
            tensors[f"{module}.scales"] = torch.rand(8)
            tensors[f"{module}.bias"] = torch.full((8,), float(layer))
        return written(folder, tensors, {"quant_method": method, "bits": 4})

    @staticmethod
    def plain(folder: Path) -> Path:
        tensors: Tensors = {"model.norm.weight": torch.ones(8)}
        for layer in range(2):
            module = f"model.layers.{layer}.up_proj"
            tensors |= {f"{module}.weight": torch.randn(8, 8), f"{module}.bias": torch.full((8,), float(layer))}
        return written(folder, tensors)

    @pytest.mark.parametrize("method", UNKNOWN)
    def test_is_said_and_not_compared_with_weights(self, method: str, tmp_path: Path) -> None:
        found = compare(self.plain(tmp_path / "a"), self.of(method, tmp_path / "b"))
        assert not found.equal
        assert found.b.what == f"model directory, quantized: {method}"
        assert {tensor.name for tensor in found.tensors} == {
            "model.norm.weight", "model.layers.0.up_proj.bias", "model.layers.1.up_proj.bias",
        }  # fmt: skip
        assert set(found.only_a) == {"model.layers.0.up_proj.weight", "model.layers.1.up_proj.weight"}
        assert len(found.only_b) == 4
        (note,) = found.notes
        assert f"2 modules quantized in a format that is not known here ({method})" in note
        assert note.endswith("What is stored of them is not compared as weights")
        assert not [text for text in found.suspicions if "float16" in text or "zeros" in text]

    def test_with_its_like_only_whether_both_store_the_same(self, tmp_path: Path) -> None:
        first = self.of("gptq", tmp_path / "a")
        assert compare(first, first).equal
        found = compare(first, self.of("gptq", tmp_path / "b", seed=1))
        assert len(found.beyond) == 4
        assert [t.figures for t in found.tensors if t.name in found.beyond] == [None] * 4
        assert found.whole.changed == 0
        assert found.suspicions == ()
        done = run("compare", first, tmp_path / "b", "--html", tmp_path / "page.html")
        assert done.returncode == 1, done.stderr
        assert "4 tensors quantized in a format that is not known" in " ".join(done.stdout.split())
        assert "is not the same, in a format of quantization that is not known" in (tmp_path / "page.html").read_text()

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(3, 2)}),
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(2, 3).byte()}),
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight_zero_point": torch.ones(2, 3)}),
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.ones(200, 300).char()}),
            lambda t: t.pop("model.layers.0.mlp.up_proj.weight_scale_inv"),
        ],
        ids=[
            "a scale that does not fit",
            "scales that are no floats",
            "zero points",
            "numbers of four bits",
            "no scale",
        ],
    )
    def test_one_layer_that_is_not_understood(self, change: Callable[[Tensors], Any], tmp_path: Path) -> None:
        folder, weights = blocks(tmp_path / "blocks")

        def altered(tensors: Tensors) -> None:
            change(tensors)

        found = compare(written(tmp_path / "plain", weights), edited(folder, tmp_path / "odd", altered))
        assert "quantized: fp8-block, 2 layers" in found.b.what
        assert found.only_a == ("model.layers.0.mlp.up_proj.weight",)
        assert (
            "1 module quantized in a format that is not known here (fp8): model.layers.0.mlp.up_proj" in found.notes[0]
        )

    @pytest.mark.parametrize(
        "change",
        [
            lambda shape: shape.copy_(torch.tensor([shape[0] + 1, shape[1]])),
            lambda shape: shape.copy_(torch.tensor([shape[0], shape[1] + 1])),
            lambda shape: shape.copy_(torch.tensor([shape[0], -1])),
        ],
    )
    def test_a_shape_that_the_words_have_no_room_for(
        self, change: Callable[[torch.Tensor], Any], outputs: dict[str, Path], tmp_path: Path
    ) -> None:
        def alter(tensors: Tensors) -> None:
            change(tensors["model.layers.0.self_attn.q_proj.weight_shape"])

        found = compare(TRAINED, edited(outputs["int8"], tmp_path / "bad", alter))
        assert found.only_a == ("model.layers.0.self_attn.q_proj.weight",)
        assert "1 module quantized in a format that is not known here" in found.notes[0]

    def test_four_bits(self, outputs: dict[str, Path], tmp_path: Path) -> None:
        config = json.loads((outputs["int8"] / "config.json").read_text())["quantization_config"]
        config["config_groups"]["config_group_0"]["weights"]["num_bits"] = 4
        found = compare(TRAINED, edited(outputs["int8"], tmp_path / "four", lambda _: None, **config))
        assert len(found.only_a) == 14

    def test_no_method_is_named(self, tmp_path: Path) -> None:
        folder, _ = blocks(tmp_path / "blocks")
        found = compare(folder, edited(folder, tmp_path / "odd", lambda _: None, quant_method=None))
        assert "quantized: no quant_method" in found.b.what
        assert not found.equal


MEASURE = """
import sys
from zeroconsolidate import compare
compare(sys.argv[1], sys.argv[2])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_memory_does_not_depend_on_the_size(tmp_path: Path) -> None:
    """Of one matrix: 1 million numbers, and 64 million, which are 256 MiB as float32."""
    peaks = []
    for rows in (128, 8192):
        name = "model.layers.0.mlp.up_proj.weight"
        folder = written(
            tmp_path / f"{rows}",
            {name: torch.zeros(rows, 8192).to(FP8), f"{name}_scale_inv": torch.ones(rows // 128, 64)},
            BLOCKS,
        )
        done = python(MEASURE, folder, folder)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 16 << 20
