"""Names of tensors -> which kind of module and which layer they belong to, for sums and sentences of a report.

Nothing that is written depends on it. Names are those of models on the hub: GPT-2's `h.3.attn.c_attn`, Llama's
`layers.3.self_attn.q_proj`, BERT's `layer.3.attention.self.query`, T5's `block.3.layer.0.SelfAttention.q`.
"""

from __future__ import annotations

import re
from functools import lru_cache

KINDS = ("embedding", "attention", "mlp", "experts", "router", "norm", "adapter", "head", "other")
"""In the order in which reports list them."""

_NORM = re.compile(r"norm|(^|_)ln(_|$|\d)|^ln\d*$|(^|_)rms(_|$)", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$", re.IGNORECASE)
_HEAD = re.compile(
    r"^(lm_head|embed_out|score|classifier|classification_head|qa_outputs|pooler|cls|v_head|colbert_linear|"
    r"sparse_linear|prediction_head|output_layer|\d+_dense)$",
    re.IGNORECASE,
)
_ADAPTER = re.compile(r"^(lora_|ia3_|hada_|lokr_|oft_|boft_|vera_|vblora_|trainable_tokens_|token_adapter)")
_EXPERTS = re.compile(r"expert", re.IGNORECASE)
_ROUTER = re.compile(r"^router$|^gate$", re.IGNORECASE)
_ATTENTION = re.compile(
    r"att(n|ention)|^(query|key|value|qkv|[qkvo]_proj|c_attn|query_key_value|wq|wk|wv|wo)$", re.IGNORECASE
)
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|^(up|down|fc\d?|fc_in|fc_out|up_proj|down_proj|gate_proj|gate_up_proj|intermediate|dense_h_to_4h|"
    r"dense_4h_to_h|w1|w2|w3|wi|wi_\d|DenseReluDense|c_fc|output|dense|lin\d)$",
    re.IGNORECASE,
)


@lru_cache(maxsize=1 << 16)
def kind_of(name: str) -> str:
    """The kind of module that a tensor belongs to.

    >>> kind_of("model.layers.3.self_attn.q_proj.weight"), kind_of("encoder.layer.0.output.dense.bias")
    ('attention', 'mlp')
    >>> kind_of("model.embed_tokens.weight"), kind_of("h.1.ln_2.weight"), kind_of("lm_head.weight")
    ('embedding', 'norm', 'head')
    """
    parts = name.replace("/", ".").split(".")
    for kind, pattern, where in (
        ("adapter", _ADAPTER, parts),
        ("norm", _NORM, parts[-2:] if len(parts) > 1 else parts),
        ("head", _HEAD, parts if layer_of(name) is None else ()),
        ("embedding", _EMBEDDING, parts),
        ("experts", _EXPERTS, parts),
        ("router", _ROUTER, parts),
        ("attention", _ATTENTION, parts),
        ("mlp", _MLP, parts),
    ):
        if any(pattern.search(part) for part in where):
            return kind
    return "other"


@lru_cache(maxsize=1 << 16)
def layer_of(name: str) -> str | None:
    """The numbered layer that a tensor belongs to; None if it belongs to none. A sequence of modules at the top is not
    a layer.

    >>> layer_of("model.layers.3.mlp.experts.7.w1.weight"), layer_of("2.linear.weight"), layer_of("lm_head.weight")
    ('model.layers.3', None, None)
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if place and part.isdecimal():
            return ".".join(parts[: place + 1])
    return None


@lru_cache(maxsize=1 << 16)
def across_layers(name: str) -> str:
    """The name with `*` in place of the layer's number: the same for the same tensor of every layer.

    >>> across_layers("model.layers.3.mlp.up_proj.weight")
    'model.layers.*.mlp.up_proj.weight'
    """
    layer = layer_of(name)
    return name if layer is None else f"{layer.rpartition('.')[0]}.*{name.removeprefix(layer)}"
