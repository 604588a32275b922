"""Checkpoints of PEFT models in memory: names with tensors that lie somewhere, and what merging makes of them."""

from __future__ import annotations

from typing import Any

from catalogs import tensor

from zeroconsolidate.adapters.merge import Merger, MergeResult
from zeroconsolidate.adapters.original import Original
from zeroconsolidate.adapters.peft_config import PeftConfig, read_peft_config
from zeroconsolidate.adapters.wrapped import collect
from zeroconsolidate.adapters.wrapping import take_apart
from zeroconsolidate.dtypes import DType
from zeroconsolidate.plan.build import Source
from zeroconsolidate.plan.pieces import View

PEFT = "base_model.model."


def stored(*shape: int, role: str = "frozen", dtype: DType = DType.F32, key: str = "0") -> Source:
    return Source(name=key, shape=shape, recipe=View(tensor(*shape, dtype=dtype, key=key)), role=role)


def trained(*shape: int, key: str = "0") -> Source:
    return stored(*shape, role="trainable", key=key)


def config(**content: Any) -> PeftConfig:
    return read_peft_config({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | content)


def lora(module: str, outputs: int, inputs: int, *, rank: int = 2, adapter: str = "default") -> dict[str, Source]:
    """The factors of one linear module."""
    return {
        f"{PEFT}{module}.lora_A.{adapter}.weight": trained(rank, inputs, key=f"{module} A"),
        f"{PEFT}{module}.lora_B.{adapter}.weight": trained(outputs, rank, key=f"{module} B"),
    }


def merge(
    named: dict[str, Source],
    *,
    configs: dict[str, PeftConfig] | None = None,
    ties: dict[str, str] | None = None,
    original: dict[str, Any] | None = None,
    directories: tuple[str, str] | None = ("model", "adapter"),
    copy_ties: bool = False,
) -> MergeResult:
    configs = {"default": config()} if configs is None else configs
    parts = take_apart([*named, *(ties or {}), *(ties or {}).values()], ("lora_", "ia3_"))
    model = collect(named, parts, ties or {}, configs)
    base = None if original is None else Original(original, "base", model.own or ["q.weight"])
    return Merger(model, configs, base, None, directories).result(copy_ties=copy_ties)


def recipes(result: MergeResult) -> dict[str, Any]:
    return {name: source.recipe for name, source in result.selection.named.items()}
