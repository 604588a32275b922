"""A checkpoint's names and folder -> its adapters and their configurations."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..archive.model_files import ADAPTER_CONFIG
from ..archive.phrases import counted
from ..archive.places import is_file
from ..archive.regular import Fence
from ..archive.weights import read_weights
from ..catalog.plain import plain_names
from ..errors import BadOption, NotACheckpoint, UnsupportedLayout, at
from . import prompts
from .peft_config import TUNER_PREFIXES, PeftConfig, read_peft_config
from .wrapping import Kind, Part, adapters_in, is_wrapped, of_one_model, take_apart, ties_of_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..catalog.facts import Catalog


NOT_WRITTEN = {
    "SHIRA": "which elements its values belong to is kept outside of the model's state, so no checkpoint has it",
    "UNILORA": "its modules share one vector, and how is not in the checkpoint",
    "ADAPTION_PROMPT": "its names do not say which adapter they belong to",
}
"""Kinds whose files cannot be made from a checkpoint, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The adapters of a checkpoint that were chosen, in order."""

    parts: Mapping[str, Part]
    """Every name of the checkpoint, parsed."""
    present: tuple[str, ...]
    """Every adapter of the checkpoint."""
    configs: Mapping[str, PeftConfig]
    """By adapter, in order: the chosen ones."""
    files: Mapping[str, str]
    """By adapter: the path of its adapter_config.json."""
    ties: Mapping[str, str]
    """alias -> name, including those of tensors that were not saved."""

    @property
    def is_wrapped(self) -> bool:
        """Whether the trainer had wrapped something around the PEFT model."""
        return any(part.wrapper for part in self.parts.values())

    @property
    def kinds(self) -> str:
        """The adapters in words: `default (LORA)`."""
        return ", ".join(f"{name} ({config.peft_type})" for name, config in self.configs.items())


def find_adapters(
    catalog: Catalog, *, lora: str | None, chosen: Sequence[str], base: str | None = None
) -> Adapters | None:
    """The adapters of the checkpoint; None if it has none, or if they are to be kept as they are.

    `lora`: `adapter`, `merge`, `keep` or None. `chosen`: names of adapters; by default all that were trained. `base`:
    directory of the original model. Raises BadOption for options that contradict each other, NotACheckpoint if
    adapter_config.json is missing, UnsupportedLayout for adapters that are not recognised.
    """
    root = catalog.origin.root
    names = list(
        dict.fromkeys([*catalog.order, *catalog.unsaved_ties, *catalog.unsaved_ties.values(), *catalog.unsaved])
    )
    config_path = os.path.join(root, ADAPTER_CONFIG)
    first = _read(root, config_path) if is_file(config_path) else None
    wrapped = is_wrapped(plain_names(names).values())
    prefixes = tuple(prefix for group in TUNER_PREFIXES.values() for prefix in group)
    if first is not None:
        prefixes = TUNER_PREFIXES.get(first.peft_type, prefixes)
    held = any(".module." in name for name in names)
    base_names = read_weights(base).tensors if held and base is not None and lora != "keep" else None
    if first is not None and first.peft_type in prompts.PROMPTS:
        parts = prompts.take_apart(names)
    else:
        parts = take_apart(names, prefixes, base_names=base_names) if wrapped or first is not None else {}
    ties = {**catalog.ties, **catalog.unsaved_ties}
    if lora != "keep":
        parts = of_one_model(parts, ties)
    present = adapters_in(parts.values())
    if first is not None and lora != "keep":
        _refuse_unknown(first.peft_type, present)
    if lora == "keep" or not present:
        if lora in ("adapter", "merge") or (chosen and lora != "keep"):
            raise BadOption("the checkpoint has no PEFT adapters: --lora and --adapter do not apply")
        if chosen:
            raise BadOption(
                "--adapter cannot be used with --lora keep",
                consequence="--lora keep writes the tensors of all adapters",
            )
        return None
    for name in chosen:
        if name not in present:
            raise BadOption(f"the checkpoint has no adapter {name!r}", consequence=f"it has {', '.join(present)}")
    wanted = tuple(dict.fromkeys(chosen)) or present
    if lora == "merge" and len(wanted) > 1 and not chosen:
        raise BadOption(
            f"the checkpoint has several adapters ({', '.join(present)})",
            remedy="name those to merge, in order, with --adapter",
        )
    files = {name: _config_file(root, name, alone=len(present) == 1) for name in wanted}
    return Adapters(
        parts=parts,
        present=present,
        configs={name: _read(root, path) for name, path in files.items()},
        files=files,
        ties=ties if lora == "keep" else ties_of_model(parts, ties),
    )


def _refuse_unknown(kind: str, present: Sequence[str]) -> None:
    """A configuration whose adapter cannot be told from the rest: written as a model, it would be nothing that loads.
    Raises UnsupportedLayout."""
    keep = "--lora keep writes the tensors under their names in the checkpoint"
    if kind not in TUNER_PREFIXES and kind not in prompts.PROMPTS:
        raise UnsupportedLayout(
            f"{ADAPTER_CONFIG} says {kind}",
            consequence=NOT_WRITTEN.get(kind, "zeroconsolidate does not know which parameters such an adapter has"),
            remedy=keep,
        )
    if not present:
        raise UnsupportedLayout(
            f"{ADAPTER_CONFIG} says {kind}, and the checkpoint has no parameter of such an adapter",
            remedy=(f"remove {ADAPTER_CONFIG} if it belongs to another run", keep),
        )


def refuse_modules(parts: Iterable[Part]) -> None:
    """Refuse names that a wrapper may have changed, where neither a base model nor a config.json has the true ones:
    PEFT would find no module under them, with a warning at most, and a merged model would not load. Raises
    UnsupportedLayout."""
    held = [part.name for part in parts if part.kind is Kind.TUNER and ".module." in f".{part.module}."]
    if held:
        raise UnsupportedLayout(
            f"{counted(len(held), 'parameter')} of the adapter lie in a module called 'module', such as {held[0]}",
            consequence="that may be a wrapper, or part of the base model's own names, and it is not known which",
            remedy=(
                "name the base model with --base: its names decide",
                "write them under their names in the checkpoint with --lora keep",
            ),
        )


def _read(root: str, path: str) -> PeftConfig:
    with at(path):
        Fence(root).check(path)  # it is not only read but copied beside the adapter
    content = read_json(path)
    with at(path):
        return read_peft_config(content)


def _config_file(root: str, adapter: str, *, alone: bool) -> str:
    """PEFT keeps `default` in the checkpoint itself and every other adapter in a folder of its name."""
    places = [os.path.join(root, adapter, ADAPTER_CONFIG)] if adapter != "default" else []
    if alone or adapter == "default":
        places.append(os.path.join(root, ADAPTER_CONFIG))
    for place in places:
        if is_file(place):
            return place
    raise NotACheckpoint(
        f"the names are those of a PEFT model, but the configuration of its adapter {adapter!r} is missing",
        expected=places[0],
        remedy="put it there, or write all tensors under their names in the checkpoint with --lora keep",
    )
