"""What a merge is recomputed from: the checkpoint's parameters, the base's tensors and what was written, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...adapters.additions import has_conv1d, has_row_per_token
from ...adapters.peft_config import TUNER_PREFIXES
from ...archive.safetensors import read_file
from ...archive.weights import read_weights
from ...errors import ZeroConsolidateError
from ...plan.pieces import Rows, View
from .factors import factors, pairs, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from ...archive.located import LocatedTensor
    from ...opening.opened import Opened
    from ...plan.build import ModelPlan, Source
    from ...plan.layout import TensorPlan
    from ...plan.pieces import Recipe


class MergeSources:
    """All of it."""

    def __init__(
        self,
        plan: ModelPlan,
        opened: Opened,
        staged: Callable[[str], str],
        base: str | None,
        configs: Mapping[str, Mapping[str, Any]],
        planned: Mapping[str, TensorPlan],
    ) -> None:
        ties = opened.catalog.ties.items()
        stored = dict(opened.stored) | {name: opened.stored[its] for name, its in ties if its in opened.stored}
        self.planned = planned
        self.factors, self.wrapped = factors(stored, configs, _prefixes(configs))
        self.own = {plain(name): source for name, source in stored.items()}
        self.shared = _shared({**opened.catalog.ties, **opened.catalog.unsaved_ties}, self.factors)
        """Modules with adapters that share their weight with another such module: what is written has both added."""
        self.written: dict[str, LocatedTensor] = {}
        for file in plan.files:
            self.written |= read_file(staged(file.name)).tensors
        tensors = _base_tensors(base, configs)
        lacking = [name for name in planned if name not in tensors]
        # A base of a class with another head may have another prefix.
        self.base = {name: tensors[its] for its, name in pairs(tensors, lacking).items()} | dict(tensors)
        shapes = {name: tensor.shape for name, tensor in self.base.items()}
        self._has_conv1d = has_conv1d(shapes | {name: source.shape for name, source in self.own.items()})

    def is_conv1d(self, module: str) -> bool:
        """Whether a module of numbered layers has its weight the other way round, by the shapes of its siblings."""
        return self._has_conv1d and any(part.isdigit() for part in module.split("."))

    def with_added_rows(self, base: LocatedTensor | None, saved: Source) -> Recipe:
        """What the run saved of a weight, with the rows that the base has of it: a vocabulary that grew or shrank."""
        is_frozen = saved.role == "frozen" and saved.recipe.dtype.is_floating
        if base is None or not is_frozen or base.shape[1:] != saved.shape[1:] or not self._resized_to(base, saved):
            return saved.recipe
        kept = min(base.numel, saved.recipe.numel)
        return Rows((View(base), saved.recipe), 1, ((0, 0, kept), (1, kept, saved.recipe.numel - kept)))

    def _resized_to(self, base: LocatedTensor, saved: Source) -> bool:
        sizes = (base.shape[:1], saved.shape[:1])
        return any((self.base[name].shape[:1], self.written[name].shape[:1]) == sizes for name in self.base
                   if name in self.written and has_row_per_token(name))  # fmt: skip


def _shared(ties: Mapping[str, str], adapted: Container[str]) -> set[str]:
    """The modules on both sides of a tie, where adapters belong to either."""
    tied = [{plain(name).rpartition(".")[0] for name in pair} for pair in ties.items()]
    return {module for modules in tied if all(each in adapted for each in modules) for module in modules}


def _prefixes(configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """How the attributes begin that hold parameters of these adapters."""
    kinds = {str(config.get("peft_type", "")).upper() for config in configs.values()}
    return ("trainable_tokens_", *(prefix for kind in kinds for prefix in TUNER_PREFIXES.get(kind, ())))


def _base_tensors(base: str | None, configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, LocatedTensor]:
    """Of the original model, unless an adapter's beginning altered the weights it belongs to."""
    altering = ("pissa", "olora", "corda", "loftq", "lora_ga")
    altered = any(str(c.get("init_lora_weights", "")).lower().startswith(altering) for c in configs.values())
    if base is None or altered:
        return {}
    try:
        return read_weights(base).tensors
    except ZeroConsolidateError:
        return {}  # it was read before, and is said there
