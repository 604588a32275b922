"""What a case is to become: the engine's values, and for a merge what PEFT itself makes of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from . import models
from .build import Built, build, original, trained_class

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from .case import Case


class NoOracleError(Exception):
    """Nobody can say what would be right."""


@dataclass(frozen=True)
class Known:
    """A case, and the engine's values."""

    case: Case
    folder: Path
    truth: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @staticmethod
    def read(case: Case, folder: Path) -> Known:
        facts = json.loads((folder / "facts.json").read_text())
        return Known(case, folder, load_file(folder / "truth.safetensors"), facts)

    @cached_property
    def values(self) -> dict[str, torch.Tensor]:
        """By the names of the model without wrappers: parameters in float32."""
        return {name: self.truth[owner].float() for name, owner in self.facts["names"].items()}

    @property
    def optimized(self) -> set[str]:
        """Names of the model whose values were trained."""
        owners = set(self.facts["optimized"])
        return {name for name, owner in self.facts["names"].items() if owner in owners}

    def is_absent(self, name: str) -> bool:
        """Whether the checkpoint has no value of a parameter of the model."""
        if name in self.optimized:
            return False
        if self.facts["names"][name] in self.facts["trainable"]:
            return self.case.stage == 3  # not given to the optimizer
        # DeepSpeed excludes names of parameters: other names of the same tensors stay in the state of stages 1 and 2.
        return self.case.exclude_frozen and not any(f".{key}".endswith(f".{name}") for key in self.kept)

    @cached_property
    def kept(self) -> set[str]:
        """Names of the module's state in the save that have values, without what wraps layers."""
        file = min((self.folder / "ckpt").glob("*/*mp_rank_00_model_states.pt"))
        module = torch.load(file, map_location="cpu", weights_only=False)["module"]
        inside = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
        return {inside.sub("", name) for name, value in module.items() if torch.is_tensor(value) and value.numel()}

    @cached_property
    def new(self) -> set[str]:
        """Names of the trained class that the original on disk does not have: their values began as random ones."""
        if not models.MODELS[self.case.model].config:
            return set()
        _, info = trained_class(self.case).from_pretrained(self.folder / "base", output_loading_info=True)
        return set(info["missing_keys"])

    @cached_property
    def lost(self) -> set[str]:
        """Names of the trained class that neither the original nor the save has: they began as random values, were
        frozen, and left out."""
        names = self.facts["names"]
        kept = {_in_model(name) for name in names if not self.is_absent(name)}
        return {name for name in self.new if name not in kept}

    @property
    def has_bias_of_none(self) -> bool:
        """Whether a LoRA has a bias for a layer without one."""
        names = self.facts["names"]
        ends = [name.partition(".lora_B.")[0] for name in names if ".lora_B." in name and name.endswith(".bias")]
        return any(f"{module}.base_layer.bias" not in names for module in ends)

    @property
    def has_lost_rows(self) -> bool:
        """Whether a vocabulary grew, and an embedding or a head of it was left out."""
        absent = [self.truth[owner] for name, owner in self.facts["names"].items() if self.is_absent(name)]
        return bool(self.case.added_rows) and any(map(self.is_of_grown_rows, absent))

    def is_of_grown_rows(self, value: torch.Tensor) -> bool:
        """Whether a value has a row for each token of the grown vocabulary."""
        return value.shape[:1] == (models.VOCABULARY + self.case.added_rows,)

    def rows_of_base(self, value: torch.Tensor) -> torch.Tensor:
        """A value without the rows a vocabulary grew by: they are lost if nothing in the checkpoint tells of them."""
        grown = models.VOCABULARY + self.case.added_rows
        return value[: models.VOCABULARY] if value.shape[:1] == (grown,) and self.case.config != "own" else value

    @property
    def outside(self) -> dict[str, torch.Tensor]:
        """Trained, and no part of the model: by their names in the engine."""
        own = set(self.facts["names"].values())
        return {name: self.truth[name] for name in self.facts["optimized"] if name not in own}

    def live(self) -> Built:
        """The model with the engine's values, its layers as they were wrapped, in float32."""
        built = build(self.case, self.folder / "base")
        own = dict(built.module.named_parameters())
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(self.truth[name].float())
        return built


def trained_values(known: Known, options: dict[str, Any], *, second_names: bool = True) -> dict[str, torch.Tensor]:
    """The values of a fully trained model; what the checkpoint has not is the original's where that is given.

    `second_names`: whether frozen values are those of a 16-bit copy that the save kept under a second name, or the
    original's even so.
    """
    expected = dict(known.values)
    if known.case.inner == "parametrize":
        live = known.live().model
        names = original(known.case, known.folder / "base").state_dict()
        expected = {name: _attribute(live, name) for name in names if name in expected or name.endswith("weight")}
    absent = {name for name in expected if name in known.facts["names"] and known.is_absent(name)}
    if known.case.exclude_frozen:
        computed = {name for name in expected if name not in known.facts["names"]}
        trained = {name.partition(".parametrizations.")[0] for name in known.facts["trainable"]}
        absent |= {name for name in computed if not any(f".{its}".endswith(f".{_owner(name)}") for its in trained)}
    if "base" in options:
        if known.case.exclude_frozen and not second_names:
            owners, trainable = known.facts["names"], set(known.facts["trainable"])
            absent |= {name for name in expected if name in owners and owners[name] not in trainable}
        start = original(known.case, known.folder / "base").state_dict()
        expected |= {name: known.rows_of_base(start[name].float()) for name in absent if name in start}
        return {name: value for name, value in expected.items() if name not in absent & known.new}
    return expected


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _attribute(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, last = name.rpartition(".")
    found: Any = model
    for part in filter(None, owner.split(".")):
        found = getattr(found, part)
    return getattr(found, last).detach().float()


def _as_parametrized(known: Known, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the place of weights what they are computed of: without a config.json a model is written as it is stored."""
    found = dict(expected)
    for name, value in known.truth.items():
        module, parametrized, rest = _in_model(name).partition(".parametrizations.")
        if parametrized:
            found.pop(f"{module}.{rest.partition('.')[0]}", None)
            found[f"{module}{parametrized}{rest}"] = value.float()
    return found


def _in_model(name: str) -> str:
    """A parameter of a PEFT model as the model before it has it."""
    inner = name.partition("base_model.model.")[2] or name
    parts = inner.replace(".modules_to_save.default.", ".").split(".")
    return ".".join(part for part in parts if part not in ("base_layer", "original_module"))


def merged_values(known: Known, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """PEFT's merge of the engine's values; frozen weights are the original's if it is given."""
    plain = build(known.case, known.folder / "base", inner=False, outer=False)
    # Some initialisations take what the adapter begins with from the base: then it is the frozen copies' merge.
    assert known.case.adapter is not None
    with_base = "base" in options and known.case.adapter.get("init_lora_weights") not in ("pissa", "olora")
    with torch.no_grad():
        for name, parameter in plain.model.named_parameters(remove_duplicate=False):
            if name in known.optimized or not with_base or _in_model(name) in known.new:
                # What is parametrized has no value of its own.
                parameter.copy_(known.values.get(name, parameter))
            elif known.case.added_rows and not known.case.exclude_frozen and known.is_of_grown_rows(parameter):
                # Of a frozen embedding that grew, the save has rows that the base does not have.
                parameter[models.VOCABULARY :] = known.values[name][models.VOCABULARY :]
    adapters = list(plain.model.peft_config)  # type: ignore[arg-type]
    try:
        merged = plain.model.merge_and_unload(adapter_names=adapters[:1])  # type: ignore[operator]
    except Exception as error:
        raise NoOracleError(f"PEFT does not merge it: {type(error).__name__}: {error}") from None
    own = dict(merged.named_parameters(remove_duplicate=False))
    kept = {name: value.detach().float() for name, value in merged.state_dict().items() if name in own}
    # Of some kinds PEFT leaves modules_to_save in their wrappers.
    trained_whole = f".modules_to_save.{adapters[0]}."
    expected = {name: value for name, value in kept.items() if ".original_module." not in name}
    expected = {name.replace(trained_whole, "."): value for name, value in expected.items()}
    if known.case.inner == "parametrize" and not ("base" in options and known.case.exclude_frozen):
        expected = _as_parametrized(known, expected)
    if not known.case.exclude_frozen:
        return expected
    trained = {
        name
        for name in expected
        for key in known.optimized - {key for key in known.optimized if ".trainable_tokens_" in key}
        if key.endswith(f"{name.rpartition('.')[0]}.modules_to_save.default.{name.rpartition('.')[2]}")
        or key.startswith(f"base_model.model.{name.rpartition('.')[0]}.")
    }
    untrained = {name: value for name, value in expected.items() if name not in trained}
    expected |= {name: known.rows_of_base(value) for name, value in untrained.items()}
    return {name: value for name, value in expected.items() if name not in untrained or name not in known.new}
