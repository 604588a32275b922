"""The hub's layout by row numbers is, bit for bit, what transformers' own conversion makes of the same tensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from converted import ask_in_this_process
from hypothesis import given
from hypothesis import strategies as st
from model_cases import ROOT, ModelCase, model_cases
from safetensors.torch import load_file
from zero_model import Run, save

from zeroconsolidate import consolidate
from zeroconsolidate.errors import UnsupportedLayout
from zeroconsolidate.integrations import architecture
from zeroconsolidate.naming import asking
from zeroconsolidate.naming.answers import of_answer
from zeroconsolidate.naming.hub_layout import Conversion, to_hub
from zeroconsolidate.plan.build import Selection, Source

transformers = pytest.importorskip("transformers", minversion="5")
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

EXPERTS = [c for c in model_cases(adapter=False) if c.name.startswith(("mixtral", "qwen3_moe"))]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", ask_in_this_process)


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return getattr(transformers, config.architectures[0])(config)


def assert_equal(ours: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == truth.keys()
    for name, tensor in truth.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in EXPERTS])
def test_fused_experts_of_real_runs(case: ModelCase, dtype: str, tmp_path: Path) -> None:
    consolidate(case.checkpoint, tmp_path / "out", dtype=dtype)
    model = on_meta(transformers.AutoConfig.from_pretrained(case.checkpoint))
    masters = {name: tensor.to(DTYPES[dtype]) for name, tensor in case.expected.items()}
    truth = revert_weight_conversion(model, masters)
    assert set(truth) != set(masters)
    assert_equal(load_file(tmp_path / "out/model.safetensors"), truth)


SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 24}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "olmoe": {"num_experts": 4},
    "phimoe": {"num_local_experts": 4},
    "deepseek_v3": {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 8, "n_group": 2,
                    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
                    "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4, "num_experts_per_tok": 2},
    "minimax": {"num_local_experts": 4},
}  # fmt: skip


def config_of(kind: str) -> Any:
    config = transformers.AutoConfig.for_model(kind, **SMALL, **KINDS[kind])
    config.architectures = [transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_other_families(kind: str, tmp_path: Path) -> None:
    """Made here: a checkpoint of the in-memory names and shapes, cut by `zero_model`."""
    config = config_of(kind)
    model = on_meta(config)
    generator = torch.Generator().manual_seed(5)
    named = dict(model.named_parameters())
    values = {name: torch.randn(p.shape, generator=generator) for name, p in named.items()}
    buffers = {name: torch.randn(b.shape, generator=generator) for name, b in model.state_dict().items()
               if name not in named}  # fmt: skip
    save(Run(stage=3, world_size=3, groups=[values], buffers=buffers), tmp_path / "in")
    config.save_pretrained(tmp_path / "in")
    report = consolidate(tmp_path / "in", tmp_path / "out")
    assert report.warnings == ()
    assert_equal(load_file(tmp_path / "out/model.safetensors"), revert_weight_conversion(model, values | buffers))


class TestTheTrace:
    def test_a_fused_expert_is_runs_of_rows(self) -> None:
        said = architecture.expectation(str(ROOT / "_bases/mixtral"))
        entries = {entry["output"]: entry for entry in said["conversions"]}
        moe = "model.layers.0.block_sparse_moe.experts.2"
        experts, rows, width = said["names"]["model.layers.0.mlp.experts.gate_up_proj"]
        assert experts > 2
        assert entries[f"{moe}.w1.weight"] == {
            "output": f"{moe}.w1.weight",
            "shape": [rows // 2, width],
            "opaque": False,
            "inputs": ["model.layers.0.mlp.experts.gate_up_proj"],
            "row_numel": width,
            "runs": [[0, 2 * rows, rows // 2]],
        }
        assert entries[f"{moe}.w3.weight"]["runs"] == [[0, 2 * rows + rows // 2, rows // 2]]

    def test_what_keeps_its_name_and_rows_is_no_conversion(self) -> None:
        outputs = {entry["output"] for entry in architecture.expectation(str(ROOT / "_bases/mixtral"))["conversions"]}
        assert outputs
        assert all("experts" in name or "gate" in name for name in outputs)
        assert architecture.expectation(str(ROOT / "_bases/llama"))["conversions"] == []

    def test_an_operation_that_computes_is_opaque(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Averages, sums, rounding: rows that came out are not rows that went in."""
        real = architecture._hub

        def halves(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: t // 2 if t.device.type != "meta" and "norm" in name else t
                    for name, t in real(model, state).items()}  # fmt: skip

        monkeypatch.setattr(architecture, "_hub", halves)
        entries = architecture.expectation(str(ROOT / "_bases/llama"))["conversions"]
        assert entries
        assert all(entry["opaque"] and "norm" in entry["output"] for entry in entries)

    @pytest.mark.parametrize(
        ("out", "once"),
        [
            ([[0, 1], [2], [10, 11]], True),
            ([[11, 2], [0, 10, 1]], True),
            ([[0, 1], [1], [10, 11]], False),  # a row twice
            ([[0, 1, 2], [10]], False),  # a row lost
            ([[0, 1, 2], [10, 12]], False),  # a row nobody has
            ([[0, 1, 2], [10, -1]], False),
        ],
    )
    def test_every_row_is_used_once(self, out: list[list[int]], once: bool) -> None:
        given_rows = [torch.tensor([10, 11]), torch.tensor([0, 1, 2])]
        assert architecture._uses_each_once([torch.tensor(part) for part in out], given_rows) is once


def source(name: str, shape: tuple[int, ...]) -> Source:
    return Source(name=name, shape=shape, recipe=Values(shape), role="trainable")  # type: ignore[arg-type]


class Values:
    """A recipe that is only passed on."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.numel = int(torch.Size(shape).numel())
        self.dtype = None


def conversion(output: str, inputs: tuple[str, ...], *, opaque: bool = False) -> Conversion:
    runs = () if opaque else ((0, 0, 2),)
    return Conversion(output=output, shape=(2, 3), inputs=inputs, row_numel=3, runs=runs, opaque=opaque)


class TestSelection:
    def selection(self, *names: str) -> Selection:
        return Selection(named={name: source(name, (4, 3)) for name in names}, left_out=())

    def test_outputs_stand_where_their_first_input_stood(self) -> None:
        found = to_hub(
            self.selection("a", "b", "c"),
            [conversion("y", ("c", "b")), conversion("x", ("b",)), conversion("z", ("b",))],
        )
        assert list(found.named) == ["a", "y", "x", "z"]
        assert found.named["y"].shape == (2, 3)

    def test_a_tensor_whose_partner_is_not_selected_stays(self) -> None:
        assert list(to_hub(self.selection("a", "b"), [conversion("x", ("b", "gone"))]).named) == ["a", "b"]

    def test_opaque_conversions_are_refused_if_they_would_be_needed(self) -> None:
        opaque = [conversion("x", ("a",), opaque=True)]
        assert list(to_hub(self.selection("b"), opaque).named) == ["b"]
        with pytest.raises(UnsupportedLayout, match=r"--names in-memory \(at x\)"):
            to_hub(self.selection("a", "b"), opaque)


@given(data=st.data())
def test_any_cut_into_rows_is_found_and_written(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For any way to cut tensors into rows and to put them together again, tracing finds it and copying does it."""
    width = data.draw(st.integers(1, 4))
    heights = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    values = {f"in{i}": torch.randn(height, width) for i, height in enumerate(heights)}
    rows = data.draw(st.permutations([(i, row) for i, height in enumerate(heights) for row in range(height)]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=3))) if len(rows) > 1 else []
    parts = [rows[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True)]

    def made(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"out{n}": torch.stack([tensors[f"in{i}"][row] for i, row in part]) for n, part in enumerate(parts)}

    numbers = {name: i for i, name in enumerate(values)}
    given_rows = {name: architecture._numbered(tensor, numbers[name], rows=True) for name, tensor in values.items()}
    truth = made(values)
    entries = [architecture._entry(name, truth[name], t, rows=True) for name, t in made(given_rows).items()]
    assert all(entry is not None for entry in entries)
    answer = {
        "class": "Test",
        "labels": 2,
        "origin": "a test",
        "names": {name: list(tensor.shape) for name, tensor in values.items()},
        "ties": {},
        "hub": {name: list(tensor.shape) for name, tensor in truth.items()},
        "hub_ties": {},
        "conversions": [e | {"inputs": [f"in{n}" for n in e["inputs"]]} for e in entries if e is not None],
        "linears": [],
    }
    root = tmp_path_factory.mktemp("rows")
    save(Run(stage=2, world_size=2, groups=[values]), root / "in")
    (root / "in/config.json").write_text(json.dumps({"model_type": "one of a test"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "ask", lambda _: (of_answer(answer), ""))
        consolidate(root / "in", root / "out")
    assert_equal(load_file(root / "out/model.safetensors"), truth)
