"""Prompt learning: the trained parameters stand before the model, and wrap none of its modules.

PEFT's names of such a model, and those in its file (`peft/peft_model.py`, `PromptLearningTuner` in
`peft/tuners/tuners_utils.py`)::

    prompt_encoder.default.embedding.weight               prompt_embeddings
    prompt_encoder.default.prefix_task_cols               prefix_task_cols
    base_model.score.modules_to_save.default.weight       base_model.score.weight
    base_model.model.layers.0…                            the model itself: `base_model.` and no second `model.`
    word_embeddings.weight                                a second name of its embedding
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..catalog.plain import plain_names
from .wrapping import Kind, Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .peft_config import PeftConfig

PROMPTS = frozenset("PROMPT_TUNING PREFIX_TUNING P_TUNING MULTITASK_PROMPT_TUNING CPT CARTRIDGE".split())
"""`peft_type` of prompt learning."""
_ENCODER = "prompt_encoder"
_IN_A_FILE = {
    "PROMPT_TUNING": {"embedding.weight": "prompt_embeddings"},
    "PREFIX_TUNING": {"embedding.weight": "prompt_embeddings"},
    "MULTITASK_PROMPT_TUNING": {
        "embedding.weight": "prompt_embeddings",
        "prefix_task_cols": "prefix_task_cols",
        "prefix_task_rows": "prefix_task_rows",
    },
}
"""peft_type -> the encoder's parameter -> its name in the file. A file of any other kind has values computed from the
parameters."""


def take_apart(names: Iterable[str]) -> dict[str, Part]:
    """Parse every name."""
    plain = plain_names(names)
    named = [f".{text}" for text in plain.values() if f".{_ENCODER}." in f".{text}"]
    wrappers = list(dict.fromkeys(f"{text.partition(f'.{_ENCODER}.')[0]}.".lstrip(".") for text in named)) or [""]
    inner_first = sorted(wrappers, key=len, reverse=True)

    def wrapper_of(text: str) -> str:
        return next((wrapper for wrapper in inner_first if text.startswith(wrapper)), wrappers[0])

    return {name: _part(name, text, wrapper_of(text)) for name, text in plain.items()}


def _part(name: str, text: str, wrapper: str) -> Part:
    """`text`: the name without wrappers inside."""
    inner = text.removeprefix(wrapper)
    kind, module, adapter, attribute, rest = Kind.OWN, inner, None, "", ""
    first, _, behind = inner.partition(".")
    if not text.startswith(wrapper) or first not in (_ENCODER, "base_model", "word_embeddings"):
        kind = Kind.BESIDE
    elif first == _ENCODER:
        kind, attribute = Kind.TUNER, _ENCODER
        adapter, _, rest = behind.partition(".")
    elif ".modules_to_save." in inner:
        kind = Kind.SAVED
        before, _, after = inner.partition(".modules_to_save.")
        adapter, _, rest = after.partition(".")
        module = f"{before}.{rest}"
    elif ".original_module." in inner:
        kind, module = Kind.ORIGINAL, inner.replace(".original_module.", ".", 1)
    return Part(
        name=name, wrapper=wrapper, inner=inner, kind=kind, module=module, adapter=adapter, attribute=attribute,
        rest=rest, depth=0,
    )  # fmt: skip


def is_computed(config: PeftConfig, parts: Iterable[Part]) -> bool:
    """Whether PEFT's file has the outputs of an encoder, not its parameters."""
    known = _IN_A_FILE.get(config.peft_type, {})
    encoder = [part.rest for part in parts if part.attribute == _ENCODER]
    return bool(config.content.get("prefix_projection")) or any(rest not in known for rest in encoder)


def in_a_file(part: Part, adapter: str, config: PeftConfig) -> str | None:
    """The name in the file of `adapter`; None for what does not belong there."""
    if part.adapter != adapter:
        return None
    if part.kind is Kind.TUNER:
        return _IN_A_FILE.get(config.peft_type, {}).get(part.rest)
    return part.module if part.kind is Kind.SAVED else None
