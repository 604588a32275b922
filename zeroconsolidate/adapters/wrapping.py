"""A name of a PEFT model -> module, adapter and kind, with PEFT's wrapping undone.

PEFT puts the model under `base_model.model.` and replaces each module it adapts by a wrapper, so that one Linear
becomes several names (`peft/tuners/tuners_utils.py`, `peft/utils/other.py`)::

    base_model.model.layers.0.q_proj.base_layer.weight                     the module's own weight
    base_model.model.layers.0.q_proj.lora_A.default.weight                 of the adapter `default`
    base_model.model.layers.0.q_proj.lora_magnitude_vector.default.weight  of a DoRA adapter
    base_model.model.embed.lora_embedding_A.default                        a parameter, not a module: no `.weight`
    base_model.model.head.original_module.weight                           modules_to_save: what was there before,
    base_model.model.head.modules_to_save.default.weight                   and what is trained in its stead
    base_model.model.embed.token_adapter.base_layer.weight                 trainable_token_indices: the embedding,
    base_model.model.embed.token_adapter.trainable_tokens_delta.default    and the rows that replace some of its own
    base_model.model.experts.base_layer.lora_A.default.weight              target_parameters: wrappers in wrappers

Whatever the trainer wrapped around the PEFT model stands before all of that (`model.base_model.model.…` in a
FlagEmbedding checkpoint). A model that was adapted in place (`inject_adapter_in_model`) has no `base_model.model.`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from ..catalog.plain import plain_names, without_modules
from ..errors import Disagreement, UnsupportedLayout, at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PEFT_MODEL = "base_model.model."


class Kind(Enum):
    """What a name stands for."""

    OWN = "a tensor of the model itself"
    ORIGINAL = "what modules_to_save replaced"
    SAVED = "a module trained whole, by modules_to_save"
    TUNER = "a parameter of an adapter"
    SHARED = "of an adapter, shared by all of its modules"
    BESIDE = "outside of the PEFT model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One name, taken apart."""

    name: str
    """As stored."""
    wrapper: str
    """What stands before PEFT's own prefix. Here and below, wrappers inside of the name are undone."""
    inner: str
    """What stands behind it, PEFT's wrapping included."""
    kind: Kind
    module: str
    """Path of the module in the model as it was before PEFT; for OWN, ORIGINAL and SAVED, of its tensor."""
    adapter: str | None
    attribute: str
    """For TUNER: where the wrapper keeps it, such as `lora_A`."""
    rest: str
    """For TUNER: what follows the adapter's name, such as `weight`."""
    depth: int
    """Wrappers between this one and the module itself: counts `base_layer`."""

    @property
    def in_model(self) -> str:
        """The name with PEFT's wrapping undone, and wrappers inside of it."""
        return self.module if self.kind is Kind.BESIDE else self.wrapper + self.module


def take_apart(
    names: Iterable[str], prefixes: tuple[str, ...], *, base_names: Iterable[str] | None = None
) -> dict[str, Part]:
    """Every name, by itself. `prefixes`: of the attributes that hold adapters. `base_names`: of the original model,
    if it is known.

    Wrappers inside of names are undone: PEFT's file, and the base model, are without them. Raises UnsupportedLayout
    for parameters of an adapter that are saved as what they are computed from.
    """
    plain = plain_names(names)
    if base_names is not None:
        plain = without_modules(plain, base_names) or plain
    wrapped = is_wrapped(plain.values())
    return {name: _part(name, text, prefixes, wrapped=wrapped) for name, text in plain.items()}


def is_wrapped(names: Iterable[str]) -> bool:
    """Whether PEFT's prefix is in the names. `names`: without wrappers inside."""
    return any(f".{PEFT_MODEL}" in f".{name}" for name in names)


def _part(name: str, text: str, prefixes: tuple[str, ...], *, wrapped: bool) -> Part:
    """`text`: the name without wrappers inside."""
    wrapper, inner = "", text
    if wrapped:
        found = f".{text}".find(f".{PEFT_MODEL}")
        if found < 0:
            return _outside(name, text, prefixes)
        wrapper, inner = text[:found], text[found + len(PEFT_MODEL) :]
    kind, path, adapter, attribute, rest, depth = Kind.OWN, [], None, "", "", 0
    segments = inner.split(".")
    while segments:
        segment = segments.pop(0)
        if segment == "base_layer":
            depth += 1
        elif segment == "original_module" and segments:
            kind = Kind.ORIGINAL
        elif segment == "modules_to_save" and len(segments) > 1:
            kind, adapter = Kind.SAVED, segments.pop(0)
        elif segment == "token_adapter" and segments:
            continue
        elif segments and segment.startswith((*prefixes, "trainable_tokens_")):
            kind, attribute, adapter = Kind.TUNER, segment, segments.pop(0)
            rest = ".".join(segments)
            if "parametrizations" in segments:
                with at(name):
                    raise UnsupportedLayout(
                        "the adapter's parameter is parametrized, and PEFT's file has what is computed of it",
                        remedy="--lora keep writes what is stored, under its own names",
                    )
            break
        else:
            path.append(segment)
    return Part(
        name=name, wrapper=wrapper, inner=inner, kind=kind, module=".".join(path), adapter=adapter,
        attribute=attribute, rest=rest, depth=depth,
    )  # fmt: skip


def _outside(name: str, text: str, prefixes: tuple[str, ...]) -> Part:
    """A name that is not under PEFT's prefix: another module's, or `base_model.vera_A.default`, which VeRA shares."""
    wrapper, _, rest = f".{text}".partition(".base_model.")
    attribute, _, adapter = rest.partition(".")
    shared = bool(adapter) and attribute.startswith(prefixes)
    return Part(
        name=name,
        wrapper=f"{wrapper}.".lstrip(".") if shared else "",
        inner=text,
        kind=Kind.SHARED if shared else Kind.BESIDE,
        module=text,
        adapter=adapter.partition(".")[0] if shared else None,
        attribute=attribute if shared else "",
        rest=adapter.partition(".")[2] if shared else "",
        depth=0,
    )


def adapters_in(parts: Iterable[Part]) -> tuple[str, ...]:
    """The names of the adapters, in the order in which they first appear."""
    return tuple(dict.fromkeys(part.adapter for part in parts if part.adapter is not None))


def of_one_model(parts: Mapping[str, Part], ties: Mapping[str, str]) -> dict[str, Part]:
    """`parts` without the second names of a PEFT model that lies behind several wrappers. Raises Disagreement for
    several PEFT models: their adapters have the same names, and one would be written over the other."""
    by_wrapper: dict[str, list[str]] = {}
    for name, part in parts.items():
        if part.adapter is not None and part.kind is not Kind.BESIDE:
            by_wrapper.setdefault(part.wrapper, []).append(name)
    aliases = {
        wrapper
        for wrapper, names in by_wrapper.items()
        if all(name in ties and ties[name] in parts and parts[ties[name]].wrapper != wrapper for name in names)
    }
    models = [wrapper for wrapper in by_wrapper if wrapper not in aliases]
    if len(models) > 1:
        raise _several(models)
    return {
        name: replace(part, kind=Kind.BESIDE, module=part.name, adapter=None) if part.wrapper in aliases else part
        for name, part in parts.items()
        if not (part.wrapper in aliases and name in ties)
    }


def _several(wrappers: Sequence[str]) -> Disagreement:
    shown = [repr(wrapper) if wrapper else "no wrapper" for wrapper in wrappers]
    return Disagreement(
        f"the checkpoint holds several PEFT models, behind {' and '.join(sorted(shown))}",
        consequence="their adapters have the same names, and one would be written over the other",
        remedy=tuple(
            f"--lora keep --include '{wrapper}*' writes one of them under its names in the checkpoint"
            for wrapper in wrappers
            if wrapper
        ),
    )
