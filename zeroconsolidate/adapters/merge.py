"""Adapters and the weights they belong to -> a recipe for each tensor of the merged model.

Mirrors what `merge_and_unload()` does to a PEFT model (`peft/tuners/tuners_utils.py`,
`_unload_and_optionally_merge`): each wrapper gives way to its module, with the adapters added to it in order.

Paths are as in `wrapped.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import Disagreement, UnsupportedLayout, at
from ..plan.build import Selection, Source
from .additions import Factors, has_conv1d, in_order, low_rank, target_parameters
from .bases import Bases
from .merged_names import named_as_in, names_that_part, once
from .recipes import Factor, Lie, LowRank, Merged, ModuleJob, ModuleTensor, OfModule, RowsReplaced, Shifted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..dtypes import DType
    from ..plan.pieces import Recipe
    from .original import Found, Original
    from .peft_config import PeftConfig
    from .wrapped import PeftModel


BY_FORMULA = ("LORA", "TRAINABLE_TOKENS")
"""The kinds of adapters that are merged here. Others are left to PEFT, a module at a time."""

BY_PEFT = frozenset(
    """ADALORA IA3 LOHA LOKR OFT BOFT VERA VBLORA FOURIERFT HRA MISS RANDLORA C3A ROAD WAVEFT DELORA GRALORA LN_TUNING
    HIRA PVERA TINYLORA GLORA PEANUT DEFT""".split()
)
"""The kinds that PEFT merges correctly module by module: compared with its merge of the whole model. UniLoRA is not
among them: its modules share a vector, and parts of it would silently differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """The merged model, and what was found out on the way."""

    selection: Selection
    ties: Mapping[str, str]
    """Names that are not written, because their tensor is written under another name -> that name."""
    merged: int
    """Tensors to which adapters add something."""
    replaced: int
    """Tensors that were trained in place of the original's: modules_to_save, biases."""
    from_checkpoint: Mapping[str, str]
    """Tensors of the original model that are taken from the checkpoint's frozen copies: name -> dtype of the copy."""
    untied: tuple[str, ...]
    """Names that shared one tensor in the original model and have their own now."""
    unproven: Mapping[str, tuple[Recipe, Recipe]]
    """Name -> (the original's tensor, the frozen copy in the checkpoint); as far as both go, they should be the
    same."""
    added_rows: Mapping[str, str]
    """Names of the tensors whose rows that the run added are the checkpoint's frozen copies, and the dtypes of
    those."""
    unknown: tuple[str, ...]
    """Names that the original does not have and its class does not expect."""
    ignored: tuple[str, ...]
    """Names of the original that the class does not expect: they are left out."""


@dataclass(slots=True)
class _Additions:
    """What is added to one tensor, in order."""

    low_rank: list[tuple[str, str, Factors, bool]] = field(default_factory=list)
    """(adapter, key for patterns, factors, whether the wrapper is one of target_parameters)."""
    shifts: list[tuple[Recipe, float]] = field(default_factory=list)
    rows: dict[tuple[int, ...], Recipe] = field(default_factory=dict)
    job: tuple[ModuleJob, str] | None = None
    """The module that PEFT merges, and which of its tensors this is."""


class Merger:
    """Finds the base of each tensor and adds the adapters to it."""

    def __init__(
        self,
        model: PeftModel,
        configs: Mapping[str, PeftConfig],
        original: Original | None,
        dtype: DType | None,
        directories: tuple[str, str] | None,
        remedy: str = "name the original model with --base",
    ) -> None:
        """`original`: where untrained weights come from; None takes the frozen copies in the checkpoint. `dtype`: in
        which weights are merged, as PEFT would in a model loaded in it; None for each its own. `directories`: of the
        model's config.json and of the adapter's, for what PEFT merges. `remedy`: how to name the original, if it is
        needed and was not given."""
        self._directories = directories
        self._model, self._configs, self._dtype, self._original = model, configs, dtype, original
        altered = next((c.initialization for c in configs.values() if c.alters_base), None)
        self._bases = Bases(model, original, altered, remedy)
        shapes = {} if original is None else {name: tensor.shape for name, tensor in original.tensors.items()}
        self._has_conv1d = has_conv1d(shapes | {path: source.shape for path, source in model.own.items()})

    def result(self, *, copy_ties: bool) -> MergeResult:
        """Plan every tensor. Raises BadOption if a weight is not found, Disagreement if an adapter does not fit."""
        additions = self._additions()
        made: dict[str, tuple[Found, Source]] = {}
        tied = () if self._original is None else (*self._model.tied, *self._model.tied.values())
        replaced = merged = 0
        for path in dict.fromkeys([*self._model.own, *self._model.saved, *additions, *tied]):
            with at(path):
                base = self._bases.find(path)
                if base is None:
                    if path in additions:
                        raise self._bases.is_nowhere(path)
                    continue
                recipe = self._added(base.source, additions.get(self._bases.added_under(path)))
            source = Source(name=path, shape=base.source.shape, recipe=recipe, role=base.source.role)
            made[path] = (base, source)
            replaced += base.source.role == "trainable"
            merged += recipe is not base.source.recipe
        untied = names_that_part(made, self._model, self._bases)
        kept, ties = once(made, self._model, self._bases, copy_ties=copy_ties or bool(untied))
        named, unknown, ignored = named_as_in(self._original, kept, self._model)
        return MergeResult(
            selection=Selection(named=named, left_out=(*self._model.left_out, *ties, *ignored)),
            ties=ties,
            merged=merged,
            replaced=replaced,
            from_checkpoint=self._bases.from_checkpoint,
            untied=tuple(untied),
            unproven=self._bases.unproven,
            added_rows=self._bases.added_rows,
            unknown=unknown,
            ignored=ignored,
        )

    # --- what is added -----------------------------------------------------------------------------------------------

    def _additions(self) -> dict[str, _Additions]:
        """By path; what is added to a shared tensor under several names stands under one of them."""
        found: dict[str, _Additions] = {}
        for module, depths in self._model.wrappers.items():
            with at(module):
                of_depth = self._parameters(module, depths)
                for depth, by_adapter in depths.items():
                    parameter = of_depth.get(depth)
                    for adapter in self._configs:
                        if adapter in by_adapter:
                            self._add(found, module, parameter, adapter, by_adapter[adapter])
        return found

    def _add(
        self, found: dict[str, _Additions], module: str, parameter: str | None, adapter: str, factors: Factors
    ) -> None:
        config = self._configs[adapter]
        if config.peft_type not in BY_FORMULA:
            self._add_module(found, module, adapter, factors)
            return
        path = f"{module}.{parameter or 'weight'}"
        to_weight = found.setdefault(self._bases.added_under(path), _Additions())
        product = {key: source for key, source in factors.items() if key.startswith("lora_") and key != "lora_B.bias"}
        if product:
            of_parameter = parameter is not None
            to_weight.low_rank.append((adapter, path if of_parameter else module, product, of_parameter))
        if "lora_B.bias" in factors:
            to_bias = found.setdefault(self._bases.added_under(f"{module}.bias"), _Additions())
            to_bias.shifts.append((factors["lora_B.bias"].recipe, config.scale_of(module)))
        if "trainable_tokens_delta" in factors:
            rows, indices = factors["trainable_tokens_delta"], config.tokens_of(module)
            if indices is None and path in self._model.tied:
                return  # the head of a tied model, which has the embedding's rows
            if indices is None or len(indices) != rows.shape[0]:
                raise Disagreement(
                    f"the trained tokens of {adapter!r} do not fit its configuration",
                    expected=f"{0 if indices is None else len(indices)} rows",
                    found=rows.shape[0],
                )
            to_weight.rows[indices] = rows.recipe
        unknown = [
            key for key in factors if key not in product and key not in ("lora_B.bias", "trainable_tokens_delta")
        ]
        if unknown:
            raise UnsupportedLayout(f"it is not known how to merge {', '.join(unknown)} of the adapter {adapter!r}")

    def _add_module(self, found: dict[str, _Additions], module: str, adapter: str, factors: Factors) -> None:
        """Leave a whole module to PEFT."""
        if len(self._configs) > 1 or self._directories is None:
            raise UnsupportedLayout(
                (
                    f"adapters of kind {self._configs[adapter].peft_type} are merged by PEFT one at a time, "
                    "and it needs the config.json of the model"
                ),
                remedy="choose one with --adapter, and name the original model with --base",
            )
        config, (model_directory, adapter_directory) = self._configs[adapter], self._directories
        bases = {name: self._bases.find(f"{module}.{name}") for name in ("weight", "bias")}
        weight = bases["weight"]
        if weight is None:
            raise self._bases.is_nowhere(f"{module}.weight")
        dtype = self._dtype or weight.source.recipe.dtype
        tensors = []
        for name, base in bases.items():
            if base is not None:
                factor = Factor(recipe=base.source.recipe, shape=base.source.shape)
                tensors.append(ModuleTensor(name=f"base_layer.{name}", factor=factor))
        for key, source in factors.items():
            attribute, _, rest = key.partition(".")
            name = f"{attribute}.{adapter}.{rest}" if rest else f"{attribute}.{adapter}"
            factor = Factor(recipe=source.recipe, shape=source.shape)
            tensors.append(ModuleTensor(name=name, factor=factor))
        job = ModuleJob(
            kind=config.peft_type,
            module=module,
            tensors=tuple(tensors),
            setting=(model_directory, adapter_directory, adapter, dtype.torch_name),
        )
        for name, base in bases.items():
            if base is not None:
                found.setdefault(self._bases.added_under(f"{module}.{name}"), _Additions()).job = (job, name)

    def _parameters(self, module: str, depths: Mapping[int, Mapping[str, Factors]]) -> dict[int, str]:
        """Depth -> parameter, for a module whose parameters were targeted; empty for any other."""
        targets = {name for config in self._configs.values() for name in target_parameters(config, module)}
        if not targets:
            return {}
        known = [path.removeprefix(f"{module}.") for path in self._model.own if path.startswith(f"{module}.")]
        if self._original is not None and not targets <= set(known):
            known = self._original.in_order(module, targets)
        order = [name for name in dict.fromkeys(known) if name in targets]
        bases = {name: self._bases.find(f"{module}.{name}") for name in order}
        shapes = {name: base.source.shape for name, base in bases.items() if base is not None}
        if not shapes:
            # A target without a dot, such as `down_proj`, matches any module; most have no parameter of that name.
            if self._bases.find(f"{module}.weight") is not None:
                return {}
            raise self._bases.is_nowhere(f"{module}.{min(targets)}")
        return {depth: name for name, depth in in_order(depths, order, shapes).items()}

    def _added(self, base: Source, additions: _Additions | None) -> Recipe:
        """The recipe of a tensor with all that is added to it."""
        recipe = base.recipe
        if additions is None:
            return recipe
        if not recipe.dtype.is_floating:
            raise UnsupportedLayout(
                f"the base weight is quantized ({recipe.dtype.torch_name})",
                remedy="name the original model, in float32 or bfloat16, with --base",
            )
        dtype = self._dtype or recipe.dtype
        if additions.job is not None:
            job, name = additions.job
            return OfModule(job=job, tensor=name, base=recipe, dtype=dtype)
        parts = tuple(
            low_rank(
                adapter,
                self._configs[adapter],
                key,
                factors,
                base.shape,
                of_parameter=of_parameter,
                of_conv1d=self._has_conv1d and any(part.isdigit() for part in key.split(".")),
            )
            for adapter, key, factors, of_parameter in additions.low_rank
        )
        if parts:
            _refuse_mixture(parts)
            recipe = Merged(base=recipe, shape=base.shape, dtype=dtype, parts=parts)
        for indices in additions.rows:
            if len(base.shape) != 2 or max(indices, default=0) >= base.shape[0]:
                raise Disagreement(
                    "a trained token is not a row of the embedding", consequence=f"its shape is {base.shape}"
                )
        if additions.rows:
            replacements = tuple(additions.rows.items())
            recipe = RowsReplaced(base=recipe, shape=base.shape, dtype=dtype, replacements=replacements)
        if additions.shifts:
            recipe = Shifted(base=recipe, dtype=dtype, shifts=tuple(additions.shifts))
        return recipe


def _refuse_mixture(parts: tuple[LowRank, ...]) -> None:
    lies = {part.lie for part in parts if part.magnitude is not None}
    if Lie.ROWS in lies and len(lies) > 1:
        raise UnsupportedLayout("DoRA of an embedding and a head that share one weight cannot be merged")
