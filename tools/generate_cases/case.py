"""What one fine-tune is, drawn at random. The same seed and number give the same case."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import adapters, models, wrappers

ADDED_ROWS = (1, 6, 64)
"""How many tokens a vocabulary of 64 grows by."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fine-tune. Every field is plain JSON, and by default as plain as can be."""

    number: int = 0
    seed: int = 7
    model: str = "llama"
    """Key of models.MODELS."""
    tied: bool = False
    base_head: str = "causal"
    """Which class the original on disk is of."""
    head: str = "causal"
    """Which class is trained."""
    added_rows: int = 0
    """Tokens the vocabulary grew by."""
    adapter: dict[str, Any] | None = None
    """Arguments of PEFT's configuration, and its `kind`."""
    second: str = ""
    """Name of another adapter of the same configuration, or nothing."""
    beside: str = ""
    """What is trained beside the adapter: nothing, or the end of parameters' names."""
    freeze: str = "none"
    """`none`, `embeddings`, `layers` (every other), `body` (all but what is called a head)."""
    unoptimized: bool = False
    """Whether some trainable parameters are not given to the optimizer."""
    untied: bool = False
    """Whether tied embeddings were given values of their own."""
    outer: tuple[str, ...] = ()
    """Wrappers around the model, the outermost first."""
    inner: str = ""
    """A wrapper around some of its layers, or nothing."""
    exclude_frozen: bool = False
    stage: int = 2
    world_size: int = 2
    dtype: str = "bf16"
    config: str = "own"
    """config.json beside the checkpoint: `own` of the trained model, `base`'s as it was, or `none`."""
    weights: str = "none"
    """Weights beside the checkpoint: `none`, `half` (a trainer's copy in 16 bits), `empty` (what stage 3 leaves)."""
    way: str = ""
    """One more way to convert it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Case:
        content = json.loads(text)
        return Case(**content | {"outer": tuple(content.get("outer", ()))})

    def __str__(self) -> str:
        """What sets it apart, in a line."""
        parts = [f"{self.model}/{self.head}", f"z{self.stage}w{self.world_size}", self.dtype]
        parts += [f"{key}={value}" for key, value in asdict(self).items() if key in _SHOWN and value not in _USUAL]
        if self.adapter:
            parts += [f"{key}={value}" for key, value in self.adapter.items()]
        return " ".join(parts)


_SHOWN = (
    "tied", "added_rows", "second", "beside", "freeze", "unoptimized", "untied", "outer", "inner", "exclude_frozen",
    "config", "weights",
)  # fmt: skip
_USUAL: tuple[Any, ...] = (False, 0, "", "none", (), "own")


def _can_be_two(adapter: dict[str, Any] | None) -> bool:
    """PEFT has two adapters with biases on no model."""
    return bool(adapter) and adapter["kind"] == "LORA" and adapter.get("bias", "none") == "none"


def pinned() -> dict[str, Case]:
    """What each case in pinned.json shows -> the case: one of each kind that was ever found wrong, and no more."""
    content = json.loads((Path(__file__).parent / "pinned.json").read_text())
    return {what: Case.from_json(json.dumps(case | {"number": n})) for n, (what, case) in enumerate(content.items())}


def draw(seed: int, number: int) -> Case:
    """The case of this number: half of them adapters, a tenth plain torch."""
    rng = random.Random(f"{seed}/{number}")
    family = rng.choices(("full", "adapter", "plain"), (45, 45, 10))[0]
    name = rng.choice(models.PLAIN if family == "plain" else models.NAMES)
    model = models.MODELS[name]
    base_head, head = rng.choice(model.pairs)
    adapter = adapters.draw(rng, model, head) if family == "adapter" else None
    outer = wrappers.draw_outer(rng, adapted=adapter is not None, encoder="bare" in (head, base_head))
    tied = rng.random() < 0.5 if model.ties else False
    return Case(
        number=number,
        seed=rng.randrange(1 << 30),
        model=name,
        tied=tied,
        base_head=base_head,
        head=head,
        added_rows=rng.choice(ADDED_ROWS) if model.embedding and rng.random() < 0.2 else 0,
        adapter=adapter,
        second="other" if _can_be_two(adapter) and rng.random() < 0.06 else "",
        beside=rng.choice(model.beside) if adapter and model.beside and rng.random() < 0.15 else "",
        freeze=rng.choices(("none", "embeddings", "layers", "body"), (60, 15, 15, 10))[0]
        if adapter is None
        else "none",
        unoptimized=adapter is None and rng.random() < 0.1,
        untied=tied and adapter is None and rng.random() < 0.1,
        outer=outer,
        inner=rng.choices(("", *wrappers.INNER), (70, 8, 8, 5, 5, 4))[0],
        exclude_frozen=rng.random() < (0.6 if adapter and not outer else 0.3),
        stage=rng.choice((1, 2, 3)),
        world_size=rng.choices((1, 2), (20, 80))[0],
        dtype=rng.choices(("bf16", "fp16", "fp32"), (70, 15, 15))[0],
        config="none"
        if family == "plain"
        else rng.choices(("own", "base", "none"), (85, 10, 5) if adapter is None else (20, 5, 75))[0],
        weights=rng.choices(("none", "half", "empty"), (75, 15, 10))[0] if adapter is None else "none",
        way=rng.choice(("bf16", "sharded", "copies", "in-memory", "")),
    )
