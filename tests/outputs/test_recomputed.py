"""The second witness: merges recomputed, adapters against masters. Each mistake here is one that loads well."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zeroconsolidate import consolidate
from zeroconsolidate.adapters import export, merge, plan_export, plan_merge, readers
from zeroconsolidate.adapters.peft_config import PeftConfig
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import WitnessMismatch
from zeroconsolidate.naming import asking
from zeroconsolidate.outputs.recomputed import formulas
from zeroconsolidate.outputs.recomputed.factors import pairs
from zeroconsolidate.outputs.recomputed.merged_tensor import as_written

pytest.importorskip("transformers", minversion="5")
pytest.importorskip("peft")

import peft
import transformers
from converted import ask_in_this_process
from peft_runs import CASES, Tuned, differing, llama, lora, qwen2, tune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BF16 = (2.0**-8, 0.0)
TARGETS = {"target_modules": ["q_proj", "v_proj"]}
BY_PEFT: dict[str, Callable[[], Any]] = {
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LOHA": lambda: peft.LoHaConfig(**TARGETS, r=2),
    "VERA": lambda: peft.VeraConfig(**TARGETS, r=4),
    "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "HIRA": lambda: peft.HiraConfig(**TARGETS, r=2),
}
FORMULAS = [
    "lora",
    "patterns",
    "dora",
    "conv1d",
    "conv1d_dora",
    "conv1d_and_linear",
    "embedding",
    "lora_bias",
    "convolutions",
    "experts_mixtral",
]


@pytest.fixture(autouse=True)
def asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", answer)


@cache
def answer(config: bytes) -> Any:
    return ask_in_this_process(config)


@cache
def tuned(kind: str) -> Tuned:
    if kind in BY_PEFT:
        return tune(llama, default=BY_PEFT[kind]())
    make, config = CASES[kind]
    return tune(make, default=config)


def saved(kind: str, folder: Path, **options: Any) -> Callable[[], Any]:
    """What merges a run into its base."""
    source = tuned(kind).save(folder / "in", stage=2, frozen=True, dtype=torch.float32)
    base = tuned(kind).save_base(folder / "base")
    return lambda: consolidate(source, folder / "out", **{"lora": "merge", "base": base} | options)


def agreed(report: Any) -> bool:
    return any("recomputed from base and adapter: equal" in check for check in report.checks)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", [*FORMULAS, "tokens", "embedding_dora", *BY_PEFT])
def test_what_is_right_is_recomputed(kind: str, dtype: str, tmp_path: Path) -> None:
    report = saved(kind, tmp_path, dtype=dtype)()
    if kind not in BY_PEFT or dtype == "fp32":
        assert agreed(report)
    else:
        # In 16 bits rounding may be larger than what a toy adapter adds; then it is not said that they agree.
        assert agreed(report) != (
            "merged values: there is no second way to compute them for these adapters" in report.not_checked
        )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["both", "one trained whole"],
)
def test_two_names_of_a_tied_weight(settings: dict[str, Any], tmp_path: Path, *, frozen: bool) -> None:
    """What each adds is added to the weight they share, unless one has become a tensor of its own."""
    run = tune(qwen2, default=lora(**settings))
    source = run.save(tmp_path / "in", stage=2, frozen=frozen, dtype=torch.float32)
    report = consolidate(source, tmp_path / "out", lora="merge", base=run.save_base(tmp_path / "base"))
    assert agreed(report)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert differing(loaded, run.merged(torch.float32).state_dict()) == []


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", FORMULAS)
def test_a_wrong_scale(kind: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = saved(kind, tmp_path, dtype=dtype)
    right = PeftConfig.scale_of
    monkeypatch.setattr(PeftConfig, "scale_of", lambda config, module: 1.5 * right(config, module))
    with pytest.raises(WitnessMismatch, match="the merged weight is wrong"):
        convert()
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("kind", ["lora", "dora", "conv1d", *BY_PEFT])
def test_factors_of_another_layer(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = saved(kind, tmp_path)
    collect = plan_merge.collect

    def crossed(*arguments: Any) -> Any:
        model = collect(*arguments)
        modules = [module for module in model.wrappers if ".0." in module]
        for module in modules:
            other = module.replace(".0.", ".1.")
            model.wrappers[module], model.wrappers[other] = model.wrappers[other], model.wrappers[module]
        return model

    monkeypatch.setattr(plan_merge, "collect", crossed)
    with pytest.raises(WitnessMismatch):
        convert()


def test_another_weight_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = saved("lora", tmp_path, check="sample")
    find = merge.Bases.find
    monkeypatch.setattr(merge.Bases, "find", lambda bases, path: find(bases, path.replace(".1.", ".0.")))
    monkeypatch.setattr("zeroconsolidate.adapters.plan_merge.prove_base", lambda *_: 0)
    with pytest.raises(WitnessMismatch, match="the merged weight is wrong"):
        convert()


def test_an_adapter_that_was_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = saved("lora", tmp_path, dtype="bf16")
    monkeypatch.setattr(readers, "merge", lambda weight, *_, **__: weight)
    with pytest.raises(WitnessMismatch):
        convert()


def test_trained_tokens_in_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = saved("tokens", tmp_path)
    right = PeftConfig.tokens_of

    def turned(config: PeftConfig, module: str) -> Any:
        indices = right(config, module)
        return None if indices is None else indices[::-1]

    monkeypatch.setattr(PeftConfig, "tokens_of", turned)
    with pytest.raises(WitnessMismatch):
        convert()


def test_no_check_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = saved("lora", tmp_path, check="none")
    right = PeftConfig.scale_of
    monkeypatch.setattr(PeftConfig, "scale_of", lambda config, module: 2 * right(config, module))
    assert not agreed(convert())


class TestAdapters:
    """Keys against the parameters that they name."""

    def test_they_are_compared(self, tmp_path: Path) -> None:
        report = saved("dora", tmp_path, lora="adapter", base=None)()
        assert any("18 of 18 tensors of the adapter" in check for check in report.checks)

    @pytest.mark.parametrize("kind", ["lora", "dora", "IA3"])
    def test_factors_of_another_layer(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        convert = saved(kind, tmp_path, lora="adapter", base=None)
        right = export.adapter_files

        def crossed(*arguments: Any) -> Any:
            files, outside = right(*arguments)
            tensors = dict(files[0].tensors)
            for key in [key for key in tensors if ".0." in key]:
                other = key.replace(".0.", ".1.")
                tensors[key], tensors[other] = tensors[other], tensors[key]
            return (replace(files[0], tensors=tensors),), outside

        monkeypatch.setattr(plan_export, "adapter_files", crossed)
        with pytest.raises(WitnessMismatch, match="differs from the parameter of that name"):
            convert()
        assert not list((tmp_path / "out").glob("*.safetensors"))


class TestContradiction:
    """What rounding may do, and what it may not."""

    rng = np.random.default_rng(0)
    base = as_written(rng.normal(0, 0.05, (8, 512)), DType.BF16)
    size = np.abs(base)

    def judged(self, added: float, factor: float, **how: Any) -> tuple[bool, str]:
        change = np.random.default_rng(1).normal(0, added, self.base.shape)
        expected, written = (as_written(self.base + by * change, DType.BF16) for by in (1, factor))
        return formulas.contradiction(written, expected, self.base, self.size + np.abs(change), BF16, **how)

    @pytest.mark.parametrize("added", [1e-2, 1e-3, 1e-4, 1e-6])
    def test_what_is_right(self, added: float) -> None:
        assert self.judged(added, 1)[1] == ""

    @pytest.mark.parametrize("added", [1e-2, 1e-3])
    @pytest.mark.parametrize("factor", [0, 0.5, 0.8, 1.25, 2, -1])
    def test_a_factor_that_rounding_does_not_explain(self, added: float, factor: float) -> None:
        told, wrong = self.judged(added, factor)
        assert told
        assert wrong

    def test_a_factor_that_no_element_shows(self) -> None:
        """Each is within what rounding may do; all of them together are not."""
        base = as_written(np.where(self.base < 0, -0.05, 0.05), DType.BF16)
        change = np.random.default_rng(1).normal(0, 3e-4, base.shape)
        right, wrong = (as_written(base + by * change, DType.BF16) for by in (1, 2))
        assert formulas.contradiction(right, right, base, np.abs(base), BF16) == (True, "")
        assert "times what it should be" in formulas.contradiction(wrong, right, base, np.abs(base), BF16)[1]

    def test_what_rounding_takes_is_not_told(self) -> None:
        assert self.judged(1e-9, 2) == (False, "")
        assert self.judged(1e-4, 1, is_coherent=True) == (False, "")

    def test_no_number_is_no_agreement(self) -> None:
        nothing = np.full_like(self.base, np.nan)
        assert formulas.contradiction(nothing, self.base, self.base, self.size, BF16)[1] != ""


def test_a_scale_by_any_setting() -> None:
    assert formulas.scale({"lora_alpha": 6, "r": 99}, "q", 4) == 1.5
    assert formulas.scale({"lora_alpha": 6, "use_rslora": True}, "q", 4) == 3
    assert formulas.scale({"lora_alpha": 6, "alpha_pattern": {"layers.1.q": 2}}, "model.layers.1.q", 4) == 0.5


def test_paths_and_names_that_are_each_others_nearest() -> None:
    paths = ["layers.0.q.weight", "layers.1.q.weight", "head.weight", "experts.0.w.weight"]
    names = ["model.layers.0.q.weight", "model.layers.1.q.weight", "head.weight", "vision.layers.2.q.weight"]
    assert pairs(paths, names) == dict(zip(paths[:3], names[:3], strict=True))
    assert pairs(["layers.0.q.weight"], ["text.layers.0.q.weight", "vision.layers.0.q.weight"]) == {}
    both = ["encoder.layers.0.q.weight", "decoder.layers.0.q.weight"]
    assert pairs(both, ["decoder.layers.0.q.weight"]) == {both[1]: both[1]}
