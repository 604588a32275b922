"""A PEFT adapter on disk -> what PEFT would not find in it.

PEFT puts the adapter's name into each key and loads with `strict=False` (`set_peft_model_state_dict`): a key it does
not know is dropped, and a parameter it does not find stays as it was initialised, which for LoRA means no effect.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ...adapters.peft_config import TUNER_PREFIXES, PeftConfig, read_peft_config
from ...adapters.prompts import PROMPTS
from ...adapters.wrapping import PEFT_MODEL
from ...archive.json_file import read_json
from ...archive.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from ...archive.phrases import counted
from ...archive.places import exists, is_file
from ...archive.safetensors import read_file
from ...archive.weights import read_pickled
from ...catalog.plain import WRAPPERS
from ...errors import ZeroConsolidateError, at
from ...naming.asking import architecture
from ...naming.sources import in_table
from .finding import Finding, GateResult, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...catalog.facts import Shape
    from ...naming.hub_layout import Architecture

_CLASSIFIERS = {"classifier", "score"}
LISTED_BY_PEFT: Mapping[str, frozenset[str]] = {
    "SEQ_CLS": frozenset(_CLASSIFIERS),
    "TOKEN_CLS": frozenset(_CLASSIFIERS),
    "QUESTION_ANS": frozenset({"qa_outputs"}),
}
"""Task -> the heads that PEFT takes for trained, whether or not the model has one of that name
(`PeftModelForSequenceClassification` and others in `peft/peft_model.py`)."""

_NARROWED_BY = (
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings by which not every module of a targeted name has an adapter."""

_BASE = "base_model."
_PROMPT_NAMES = ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")
_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


def examine(folder: str, directory: str, base: str | None, *, remember: bool) -> GateResult:
    """The adapter in `folder`, which is `directory` or lies in it. `base`: directory of the model it belongs to."""
    where = os.path.relpath(folder, directory)
    prefix = "" if where == "." else f"{where}/"
    try:
        content = read_json(os.path.join(folder, ADAPTER_CONFIG))
        with at(f"{prefix}{ADAPTER_CONFIG}"):
            config = read_peft_config(content)
        shapes = _shapes(folder)
    except ZeroConsolidateError as error:
        return GateResult(findings=(Finding(kind=Kind.FILE, text=str(error)),))
    findings = [
        *_foreign_names(shapes, config),
        *_prompts(shapes, config),
        *_empty(shapes),
        *(_halves(shapes, config) if config.peft_type == "LORA" else ()),
        *_targets(shapes, config),
        *_saved_modules(shapes, config),
        *_tokens(shapes, config),
    ]
    checked = [f"{prefix}{ADAPTER_WEIGHTS}: {counted(len(shapes), 'tensor')} against {ADAPTER_CONFIG}"]
    unchecked = []
    against, why = _held_against(directory, base, shapes, config, remember=remember)
    if against is None:
        unchecked.append(f"modules of the adapter: {why}")
    else:
        findings += against
        checked.append("modules of the adapter against those of the base model")
    named = tuple(replace(finding, text=f"{prefix}{finding.text}") for finding in findings)
    return GateResult(findings=named, checked=tuple(checked), unchecked=tuple(unchecked))


def _shapes(folder: str) -> dict[str, Shape]:
    path = os.path.join(folder, ADAPTER_WEIGHTS)
    tensors = read_file(path).tensors if exists(path) else read_pickled(folder, "adapter_model.bin")
    return {name: tensor.shape for name, tensor in tensors.items()}


def _is_of_the_whole(name: str, config: PeftConfig) -> bool:
    """Whether a tensor belongs to no module: a prompt, or what all modules of the adapter share."""
    if config.peft_type in PROMPTS:
        return name in _PROMPT_NAMES or name.startswith(_BASE)
    return name.startswith(_BASE) and name.removeprefix(_BASE).startswith(TUNER_PREFIXES.get(config.peft_type, ()))


def _prompts(shapes: Mapping[str, Shape], config: PeftConfig) -> Iterator[Finding]:
    """PEFT makes an embedding of as many tokens as the config says."""
    if config.peft_type not in PROMPTS:
        return
    tokens = config.content.get("num_virtual_tokens")
    shape = shapes.get("prompt_embeddings")
    if shape is None:
        yield Finding(kind=Kind.MISSING, text="the file has no 'prompt_embeddings': PEFT would not load it")
    elif isinstance(tokens, int) and tokens > 0 and shape[0] % tokens:
        yield Finding(
            kind=Kind.SHAPE,
            text=f"prompt_embeddings is {list(shape)}; {ADAPTER_CONFIG} says {tokens} virtual tokens",
        )


def _foreign_names(shapes: Mapping[str, Shape], config: PeftConfig) -> Iterator[Finding]:
    """Names that PEFT would drop: without its own prefix, or with a wrapper's inside."""
    for name in shapes:
        wrapper = next((w for w in WRAPPERS if f".{w}" in f".{name}"), None)
        if wrapper is not None:
            yield Finding(kind=Kind.UNEXPECTED, text=f"{name} has the wrapper {wrapper!r} in its name: PEFT drops it")
            return
        if not name.startswith(PEFT_MODEL) and not _is_of_the_whole(name, config):
            yield Finding(kind=Kind.UNEXPECTED, text=f"{name} does not begin with {PEFT_MODEL!r}: PEFT drops it")
            return


def _empty(shapes: Mapping[str, Shape]) -> Iterator[Finding]:
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        yield Finding(kind=Kind.EMPTY, text=f"{empty[0]} has no elements (and {len(empty) - 1} more)")


def _modules(shapes: Mapping[str, Shape], config: PeftConfig) -> dict[str, dict[str, Shape]]:
    """Module (as in the base model) -> what the adapter keeps in it."""
    found: dict[str, dict[str, Shape]] = {}
    prefixes = TUNER_PREFIXES.get(config.peft_type, ())
    for name, shape in shapes.items():
        if _is_of_the_whole(name, config):
            continue
        parts = name.removeprefix(PEFT_MODEL).split(".")
        index = next((i for i, part in enumerate(parts) if part.startswith(tuple(prefixes) or ("\0",))), None)
        if index is not None:
            found.setdefault(".".join(parts[:index]), {})[".".join(parts[index:])] = shape
    return found


def _halves(shapes: Mapping[str, Shape], config: PeftConfig) -> Iterator[Finding]:
    """A product of one factor is none; and PEFT builds factors of the rank that the config says."""
    for module, kept in _modules(shapes, config).items():
        for a, b in _PAIRS:
            if (a in kept) != (b in kept):
                there, lacking = (a, b) if a in kept else (b, a)
                yield Finding(kind=Kind.MISSING, text=f"{module} has {there} and no {lacking}: it would have no effect")
                return
            if a not in kept or len(kept[a]) > 2:
                continue
            rank = config.rank_of(module)
            if kept[a][0] % rank or kept[b][1] % rank:
                yield Finding(
                    kind=Kind.SHAPE,
                    text=f"{module}: {a} is {list(kept[a])} and {b} is {list(kept[b])}; {ADAPTER_CONFIG} says rank "
                    f"{rank}",
                )
                return


def _targets(shapes: Mapping[str, Shape], config: PeftConfig) -> Iterator[Finding]:
    """Each adapted module is one that the config targets; each target has an adapted module."""
    modules = _modules(shapes, config)
    if not modules or config.target_parameters or not config.target_modules:
        return
    stray = next((m for m in modules if not _is_target(m, config) and not _is_tied_to_tokens(m, modules, config)), None)
    if stray is not None:
        yield Finding(
            kind=Kind.UNEXPECTED,
            text=f"{stray} has an adapter, but {ADAPTER_CONFIG} does not target it: PEFT drops it",
        )


def _is_tied_to_tokens(module: str, modules: Mapping[str, Mapping[str, Shape]], config: PeftConfig) -> bool:
    """Of a tied model, trained tokens are in the file under every name of the embedding, though only one is a target
    (`TrainableTokensModel.inject_adapter` in `peft/tuners/trainable_tokens/model.py`)."""
    kept = modules[module]
    targets = [held for name, held in modules.items() if _is_target(name, config)]
    return config.peft_type == "TRAINABLE_TOKENS" and list(kept) == ["trainable_tokens_delta"] and kept in targets


def _is_target(module: str, config: PeftConfig) -> bool:
    """PEFT's `check_target_module_exists`, as far as names go."""
    targets = config.target_modules
    if targets == "all-linear" or targets == ("all-linear",):
        return True
    if isinstance(targets, str):
        try:
            return re.fullmatch(targets, module) is not None
        except re.error:
            return True
    saved = config.content.get("modules_to_save") or ()
    tokens = config.token_indices if isinstance(config.token_indices, dict) else {}
    return any(module == name or module.endswith(f".{name}") for name in (*targets, *saved, *tokens))


def _saved_modules(shapes: Mapping[str, Shape], config: PeftConfig) -> Iterator[Finding]:
    """What was trained as a whole is in the file as a whole."""
    saved = config.content.get("modules_to_save")
    named = [module for module in saved if isinstance(module, str)] if isinstance(saved, list) else []
    there = {module for module in named if any(f".{module}." in f".{name}" for name in shapes)}
    task = str(config.content.get("task_type"))
    listed = LISTED_BY_PEFT.get(task, frozenset())
    for module in named:
        # PEFT adds both names that classifiers have to the list, whichever the model has.
        if module in there or (module in _CLASSIFIERS and there & _CLASSIFIERS):
            continue
        by = f"as PEFT does for any {task}" if module in listed else "modules_to_save"
        yield Finding(
            kind=Kind.MISSING,
            text=f"{ADAPTER_CONFIG} says that {module!r} was trained ({by}), but the file has nothing of it: if the "
            "model has such a module, it would be random, or the base's",
            module=module if module in listed else "",
        )


def _tokens(shapes: Mapping[str, Shape], config: PeftConfig) -> Iterator[Finding]:
    """Rows of an embedding that were trained beside the adapter: PEFT does not load a file without them."""
    if config.token_indices and not any(name.endswith("trainable_tokens_delta") for name in shapes):
        yield Finding(
            kind=Kind.MISSING,
            text=f"{ADAPTER_CONFIG} says that single tokens were trained, but the file has none of their rows",
        )


def _held_against(
    directory: str, base: str | None, shapes: Mapping[str, Shape], config: PeftConfig, *, remember: bool
) -> tuple[list[Finding] | None, str]:
    """What is wrong by the base model's modules, and if those are not known, why.

    The path in adapter_config.json is not followed: it comes from outside.
    """
    for place in dict.fromkeys((base, directory)):
        if place is not None and is_file(os.path.join(place, CONFIG)):
            known = in_table(place)
            # The built-in table confirms; only transformers itself can say that something is wrong.
            if known is not None and not [*_against_base(shapes, config, _modules_of(known))]:
                return [], ""
            found, why = architecture(place, remember=remember)
            return (None, why) if found is None else ([*_against_base(shapes, config, _modules_of(found))], "")
    return None, f"the config.json of {config.base or 'the base model'} is not here; name its directory with --base"


def _modules_of(known: Architecture) -> set[str]:
    return {name.rpartition(".")[0] for name in known.expectation.shapes}


def _ends(module: str) -> set[str]:
    """The module's name, and without what a class with or without a head puts before it (`model.`)."""
    parts = module.split(".")
    return {".".join(parts[n:]) for n in range(min(3, len(parts)))}


def _against_base(shapes: Mapping[str, Shape], config: PeftConfig, known: set[str]) -> Iterator[Finding]:
    """Adapters of modules that the base model does not have, and targets in it that have no adapter."""
    modules = _modules(shapes, config)
    ends = {end for module in known for end in _ends(module)}
    # Of a module with several parameters that were targeted, all wrappers but the last are in one another.
    stray = [m for m in modules if m and ends.isdisjoint(_ends(re.sub(r"(\.base_layer)+$", "", m)))]
    if stray:
        more = f" (and {len(stray) - 1} more)" if len(stray) > 1 else ""
        yield Finding(
            kind=Kind.UNEXPECTED, text=f"{stray[0]}{more} has an adapter, but the base model has no such module"
        )
    if isinstance(config.target_modules, str) or any(config.content.get(key) for key in _NARROWED_BY):
        return
    adapted = {end for module in modules for end in _ends(module)}
    targets = tuple(f".{target}" for target in config.target_modules)
    bare = [m for m in sorted(known) if targets and f".{m}".endswith(targets) and adapted.isdisjoint(_ends(m))]
    if bare and modules and not stray:
        more = f" (and {len(bare) - 1} more)" if len(bare) > 1 else ""
        yield Finding(kind=Kind.MISSING, text=f"{bare[0]}{more} is targeted, but the file has no adapter of it")
