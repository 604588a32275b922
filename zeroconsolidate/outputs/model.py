"""A checkpoint and options -> the planned output: a model directory, or adapters for PEFT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive.model_files import ADAPTER_CONFIG, BESIDE_FOLDER, CONFIG
from ..archive.phrases import counted
from ..options.averages import weights_of
from . import remarks
from .assets import assets_beside, of_adapters
from .averaging import note_of
from .card_facts import card_facts, is_wanted
from .gate.examine import Excuses, examine
from .model_card import CARD, card
from .modules import modules_of
from .output import Output, Recomputed, SideFiles
from .planned import plan_weights
from .side_files import side_files
from .transforming import refuse_without_config
from .usage import load_adapter, load_model, load_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..adapters.adapted import Adapted
    from ..opening.opened import Opened
    from ..options import Options
    from ..run.inputs import Inputs
    from .assets import Assets
    from .gate.finding import GateResult
    from .planned import PlannedWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directory(Output):
    """Weights with the files that belong beside them."""

    assets: Assets
    weights: PlannedWeights
    options: Options
    loads: bool
    """Whether nothing is known that would keep a model's own class from loading the weights."""
    opened: Opened
    directory: str | None
    """Where it is to be written, if that is known."""

    def side_files(self, inputs: Inputs) -> SideFiles:
        """The index, config, tokenizer, heads and whatever else belongs to the model."""
        found = side_files(self.weights, self.assets, self.options, inputs)
        if self.loads and is_wanted(self.options, found, self.directory):
            facts = card_facts(
                self.opened,
                self.weights.adapted,
                self.options,
                dtype=self.dtype.torch_name,
                found=found,
                load_line=self.load_line(".", found),
            )
            found = replace(found, made=found.made | {CARD: card(facts)})
        optimizer = self.weights.optimizer
        return found if optimizer is None else replace(found, made=found.made | dict(optimizer.small))

    def examined(self, directory: str) -> GateResult:
        """What the model's class, or PEFT, would not find in it."""
        options = self.options
        return examine(
            directory, base=options.base_directory, is_merged=options.lora == "merge", remember=options.cache
        )

    def excuses(self, opened: Opened) -> Excuses:
        """What was asked for although a loader may not find what it expects."""
        options = self.options
        insisted = None
        if options.allow_missing:
            insisted = "--allow-missing"
        elif options.rename is not None:
            insisted = "--rename"
        elif options.names == "stored" or options.lora == "keep":
            insisted = "--names stored" if options.names == "stored" else "--lora keep"
        catalog = opened.catalog
        names = (*catalog.order, *catalog.unsaved, *catalog.unsaved_ties)
        return Excuses(
            insisted=insisted,
            is_partial=options.partial or opened.report is not None,
            modules=frozenset(part for name in names for part in name.split(".")),
        )

    def recomputed(self, opened: Opened, path: Callable[[str], str]) -> Recomputed:
        """A sample of what adapters were merged into."""
        adapted = self.weights.adapted
        if adapted is None or self.options.check == "none":
            return Recomputed(checks=(), not_checked=())
        if self.weights.model is not None:
            return Recomputed(checks=(), not_checked=("merged values: not recomputed of transformed values",))
        if opened.members and adapted.is_adapter:
            return Recomputed(checks=(), not_checked=("values of the adapter: not computed again of a mean",))
        # Only who has adapters pays for the imports.
        if adapted.is_adapter:
            from .recomputed.exported import compare_adapters

            found, count = compare_adapters(self.plan, opened, path, adapted.adapter_files)
            text = f"{found} of {counted(count, 'tensor')} of the adapter against the parameters they are: equal"
            return Recomputed(checks=(text,) if found else (), not_checked=())
        from .recomputed.recompute import recompute

        base = self.options.base_directory
        several = adapted.of_members or (adapted.adapter_files,)
        weights = weights_of(str(self.options.average), len(several)) if opened.members else (1.0,)
        found, count = recompute(self.plan, opened.each, path, base=base, adapters=several, weights=weights)
        if not count:
            return Recomputed(checks=(), not_checked=())
        if not found:
            return Recomputed(
                checks=(), not_checked=("merged values: there is no second way to compute them for these adapters",)
            )
        text = f"{found} of {counted(count, 'merged tensor')} recomputed from base and adapter: equal within rounding"
        return Recomputed(checks=(text,), not_checked=())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDirectory(_Directory):
    """A model in one file or in shards, with its config, tokenizer and the like."""

    def load_line(self, directory: str, side_files: SideFiles) -> str:
        """With its class in transformers or FlagEmbedding; with safetensors, if that class would not find its
        weights."""
        weights = [file.name for file in self.plan.files if not file.name.startswith(f"{BESIDE_FOLDER}/")]
        if not self.loads:
            return load_tensors(directory, weights)
        return load_model(directory, weights=weights, side_files=side_files.made, copies=side_files.copies)

    @property
    def published_last(self) -> Sequence[str]:
        """transformers begins with the config, and with the index if there are several shards."""
        return (self.plan.index_name, CONFIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDirectory(_Directory):
    """One or several adapters as PEFT saves them: a configuration of their own in place of the model's."""

    def load_line(self, directory: str, side_files: SideFiles) -> str:
        """With PEFT's class, which takes the base model."""
        return load_adapter(directory, [file.name for file in self.plan.files])

    @property
    def published_last(self) -> Sequence[str]:
        """PEFT begins with the adapter's configuration."""
        return (CONFIG, ADAPTER_CONFIG)


def _fate(adapted: Adapted | None) -> str:
    """What becomes of adapters."""
    return "" if adapted is None else "written" if adapted.is_adapter else "merged"


def plan_output(opened: Opened, options: Options, *, directory: str | None = None) -> Output:
    """Plan what the options ask for, to be written into `directory`. Raises what `plan_weights` and `assets_beside`
    raise."""
    # Assets come first: what is wrong with them is known at once, names may take seconds.
    assets = assets_beside(opened.catalog.origin, options.base_directory)
    remarks.refuse_unsized(options, assets.copies)
    remarks.refuse_fieldless(options, assets.copies)
    weights = plan_weights(opened, options, modules_of(assets.copies), directory=directory)
    named, adapted, additions, model = weights.named, weights.adapted, weights.additions, weights.model
    refuse_without_config(model, has_config=CONFIG in assets.copies)
    if adapted is not None:
        assets = of_adapters(assets, adapted)
    kind: type[_Directory] = AdapterDirectory if adapted is not None and adapted.is_adapter else ModelDirectory
    return kind(
        plan=weights.plan,
        dtype=weights.dtype,
        names=named.reason,
        names_change=named.change,
        ties=named.ties,
        read_files=(*additions.files, *named.files, *(adapted.files if adapted else ())),
        comparisons=adapted.comparisons if adapted else (),
        from_base=len(additions.sources) + len(named.from_base),
        left_behind=assets.left_behind,
        missing=assets.missing,
        notes=(
            *(adapted.notes if adapted else ()),
            *note_of(opened, options, adapters=_fate(adapted)),
            *(model.notes if model is not None else ()),
            *remarks.notes(options, weights.plan),
            *([weights.optimizer.note] if weights.optimizer else []),
        ),
        warnings=tuple(
            dict.fromkeys(
                (
                    *named.warnings,
                    # What a base model does not have matters only if something is missing.
                    *(() if named.complete else additions.warnings),
                    *(adapted.warnings if adapted else ()),
                    *assets.warnings,
                    *remarks.warnings(opened, options, weights.plan, assets.copies, complete=named.complete),
                )
            )
        ),
        not_checked=adapted.not_checked if adapted else (),
        assets=assets,
        weights=weights,
        options=options,
        opened=opened,
        directory=directory,
        loads=named.loads
        and (not options.partial or named.complete)
        and options.names != "stored"
        and options.lora != "keep"
        and not (opened.report and opened.report.not_written),
    )
