"""The parameters of one LoRA wrapper -> what they add to one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Disagreement, UnsupportedLayout
from .recipes import Factor, Lie, LowRank

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Shape
    from ..plan.build import Source
    from .peft_config import PeftConfig

_VOCABULARY = (
    "embed_tokens", "word_embeddings", "wte", "embed_in", "shared", "tok_embeddings", "tokens_embed", "lm_head",
    "embed_out", "predictions.decoder", "lm_head.decoder",
)  # fmt: skip
"""Modules with a row for each token."""

Factors = dict[str, "Source"]
"""`lora_A.weight` and the like -> where it is stored."""


def has_row_per_token(name: str) -> bool:
    """Whether a weight of this name is an embedding of tokens, or a head that predicts them.

    >>> has_row_per_token("model.embed_tokens.weight"), has_row_per_token("model.norm.weight")
    (True, False)
    """
    return any(f".{name}".endswith(f".{module}.weight") for module in _VOCABULARY)


def has_conv1d(shapes: Mapping[str, Shape]) -> bool:
    """Whether layers of a model are transformers' Conv1D, by its weights: [in, out], where nn.Linear has [out, in],
    beside a bias of as many numbers as there are outputs. PEFT keeps one flag for all modules of an adapter, which is
    that of the last one it met: of a head that is a Linear, say.

    >>> has_conv1d({"h.0.c_attn.weight": (4, 12), "h.0.c_attn.bias": (12,)})
    True
    """
    return any(
        len(shape) == 2
        and shape[0] != shape[1]
        and any(part.isdigit() for part in name.split("."))
        and shapes.get(f"{name.removesuffix('.weight')}.bias") == shape[1:]
        for name, shape in shapes.items()
        if name.endswith(".weight")
    )


def target_parameters(config: PeftConfig, module: str) -> tuple[str, ...]:
    """The parameters of `module` that `target_parameters` names, by their whole path or its end."""
    names = dict.fromkeys(target.rpartition(".")[2] for target in config.target_parameters)
    return tuple(name for name in names if any(f".{module}.{name}".endswith(f".{t}") for t in config.target_parameters))


def low_rank(
    adapter: str,
    config: PeftConfig,
    key: str,
    factors: Mapping[str, Source],
    shape: Shape,
    *,
    of_parameter: bool,
    of_conv1d: bool = False,
) -> LowRank:
    """The product that `factors` add to a weight of `shape`.

    `key`: what `rank_pattern` and `alpha_pattern` are matched against. `of_parameter`: the wrapper is one of
    `target_parameters`. `of_conv1d`: the module is one of transformers' Conv1D, whatever `config` says. Raises
    Disagreement if the shapes do not fit, UnsupportedLayout for what cannot be merged.
    """
    embeds = "lora_embedding_A" in factors
    a = factors.get("lora_embedding_A" if embeds else "lora_A.weight")
    b = factors.get("lora_embedding_B" if embeds else "lora_B.weight")
    if a is None or b is None:
        raise Disagreement(
            f"the adapter {adapter!r} lacks one of its two factors",
            expected="A and B",
            found=", ".join(factors),
        )
    magnitude = factors.get("lora_magnitude_vector.weight") or factors.get("lora_magnitude_vector")
    rank = config.rank_of(key)
    turned = of_conv1d or config.fan_in_fan_out
    lie = _lie(a.shape, b.shape, shape, rank, embeds=embeds, turned=turned)
    if lie is None:
        if embeds or has_row_per_token(f"{key}.weight"):
            _refuse_resized(adapter, a.shape[1] if embeds else b.shape[0], shape)
        raise Disagreement(
            f"the adapter {adapter!r} does not fit the weight it belongs to",
            expected=f"A and B of rank {rank} for the shape {shape}",
            found=f"{a.shape} and {b.shape}",
        )
    if magnitude is not None and lie in (Lie.EXPERTS, Lie.EXPERTS_TRANSPOSED):
        raise UnsupportedLayout("PEFT does not support DoRA for stacked experts")
    rounds_first = (
        of_parameter or lie is Lie.EMBEDDING or lie.name.startswith("EXPERTS") or config.initialization == "mica"
    )
    return LowRank(
        adapter=adapter,
        a=Factor(recipe=a.recipe, shape=a.shape),
        b=Factor(recipe=b.recipe, shape=b.shape),
        scale=config.scale_of(key),
        lie=lie,
        magnitude=None if magnitude is None else Factor(recipe=magnitude.recipe, shape=magnitude.shape),
        rounds_first=rounds_first,
    )


def _refuse_resized(adapter: str, rows: int, shape: Shape) -> None:
    """An embedding or a head that grew after the base was saved. Raises Disagreement."""
    if rows > shape[0]:
        raise Disagreement(
            f"the adapter {adapter!r} has {rows} rows, the weight it belongs to has {shape[0]}",
            consequence="if the run resized its vocabulary, the added rows were frozen: neither the save nor the base "
            "has their values",
            remedy="write the adapter (--lora adapter), and load it on a base model resized as in training",
        )


def fits(a: Shape, b: Shape, shape: Shape) -> bool:
    """Whether factors of these shapes, of any rank, can belong to a stack of experts or a matrix of `shape`."""
    if len(shape) == 3:
        experts, *matrix = shape
        return a[0] % experts == 0 and sorted(matrix) == sorted((a[-1], b[0]))
    return len(shape) == 2 and shape == (b[0], a[-1])


def _lie(a: Shape, b: Shape, shape: Shape, rank: int, *, embeds: bool, turned: bool) -> Lie | None:
    if embeds:
        return Lie.EMBEDDING if (a, b) == ((rank, shape[0]), (shape[-1], rank)) and len(shape) == 2 else None
    if len(a) > 2:
        fits_kernel = shape == (b[0], a[1], *a[2:]) and a[0] == b[1] == rank
        return Lie.CONVOLUTION if fits_kernel else None
    outputs, inputs = b[0], a[1]
    if len(shape) == 2:
        if a[0] != rank or b[1] != rank:
            return None
        # Of a square matrix the shape does not tell; PEFT sets the flag when it meets a Conv1D.
        if shape == (outputs, inputs) and not (turned and outputs == inputs):
            return Lie.ROWS
        return Lie.COLUMNS if shape == (inputs, outputs) else None
    if len(shape) != 3 or a[0] != rank * shape[0] or b[1] != rank * shape[0]:
        return None
    if shape[0] == 1:
        return Lie.ROWS if shape[1:] == (outputs, inputs) else None
    if shape[1:] == (outputs, inputs):
        return Lie.EXPERTS
    return Lie.EXPERTS_TRANSPOSED if shape[1:] == (inputs, outputs) else None


def in_order(
    depths: Mapping[int, Mapping[str, Factors]], parameters: Sequence[str], shapes: Mapping[str, Shape]
) -> dict[str, int]:
    """Which of the nested wrappers belongs to which parameter: parameter -> depth.

    PEFT wraps the parameters of a module one after the other, so that the first is innermost. `parameters` are in the
    module's order. Raises Disagreement if the shapes contradict this.
    """
    if len(depths) != len(parameters):
        raise Disagreement(
            f"target_parameters names {len(parameters)} parameters here ({', '.join(parameters)}), but there are "
            f"{len(depths)} adapters"
        )
    chosen = dict(zip(parameters, sorted(depths, reverse=True), strict=True))
    for parameter, depth in chosen.items():
        for factors in depths[depth].values():
            a, b = factors.get("lora_A.weight"), factors.get("lora_B.weight")
            if a is not None and b is not None and not fits(a.shape, b.shape, shapes[parameter]):
                raise Disagreement(
                    f"the adapter does not fit the parameter {parameter} of shape {shapes[parameter]}",
                    found=f"A {a.shape} and B {b.shape}",
                )
    return chosen
