"""config.json and tokenizer files -> the same with single values edited. Every other byte stays."""

from __future__ import annotations

import json
import re

from ..archive.model_config import parse, short_int
from ..archive.phrases import counted
from ..errors import DamagedFile

_NEW_TOKENIZER = re.compile(r'("tokenizer_class"\s*:\s*")TokenizersBackend(")')
_TIED = re.compile(r'("tie_word_embeddings"\s*:\s*)true')
_OPENING = re.compile(r"\s*\{(\s*)")
_BETWEEN = re.compile(r"[\s:,]*")
_DTYPE = re.compile(
    r'("(?:torch_)?dtype"\s*:\s*")(float16|bfloat16|float32|float64|half|float|double)(")',
)


def with_dtype(text: bytes, torch_name: str) -> bytes:
    """config.json with each `dtype` (transformers 5) and `torch_dtype` (4) set to `torch_name`.

    Sub-configs (`text_config`, `vision_config`, …) state their own dtype; theirs are set too. A config that
    states none is left alone: loaders then take the dtype of the weights. Raises DamagedFile if it is not JSON.

    >>> with_dtype(b'{"torch_dtype": "bfloat16", "hidden_size": 8}', "float32")
    b'{"torch_dtype": "float32", "hidden_size": 8}'
    """
    parse(text)
    return _DTYPE.sub(rf"\g<1>{torch_name}\g<3>", text.decode("utf-8")).encode()


def without_ties(text: bytes) -> bytes:
    """config.json saying that the output embedding is not the input embedding.

    Without the key, transformers may tie them by default, so it is put in.

    >>> without_ties(b'{"tie_word_embeddings": true, "hidden_size": 8}')
    b'{"tie_word_embeddings": false, "hidden_size": 8}'
    """
    decoded, found = _TIED.subn(r"\g<1>false", text.decode("utf-8"))
    if not found and "tie_word_embeddings" not in parse(text):
        decoded = decoded.replace("{", '{\n  "tie_word_embeddings": false,', 1)
    return decoded.encode()


def as_trained(text: bytes, class_name: str, labels: int | None) -> tuple[bytes, list[str]]:
    """config.json for the class that was trained and the labels of its head, and what had to be changed, in words.

    `labels`: None if those it states are right.

    >>> as_trained(b'{"architectures": ["LlamaForCausalLM"], "vocab_size": 8}', "LlamaForSequenceClassification", None)
    (b'{"architectures": ["LlamaForSequenceClassification"], "vocab_size": 8}', ['LlamaForSequenceClassification'])
    >>> as_trained(b'{"architectures": ["A"]}', "A", 1)[0]
    b'{"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "architectures": ["A"]}'
    """
    config = parse(text)
    if not isinstance(config, dict):
        return text, []
    decoded, changed = text.decode("utf-8"), list[str]()
    stated = config.get("architectures")
    if not (isinstance(stated, list) and stated[:1] == [class_name]):
        decoded = with_member(decoded, "architectures", [class_name])
        changed.append(class_name)
    if labels is not None:
        # As transformers writes it for labels without names.
        decoded = with_member(decoded, "label2id", {f"LABEL_{n}": n for n in range(labels)})
        decoded = with_member(decoded, "id2label", {str(n): f"LABEL_{n}" for n in range(labels)})
        if "num_labels" in config:
            decoded = with_member(decoded, "num_labels", labels)
        changed.append(counted(labels, "label"))
    return decoded.encode(), changed


def with_member(text: str, key: str, value: object) -> str:
    """A JSON object with `key` set to `value`; every other byte stays. A new one is put first.

    >>> with_member('{"a": 1, "b": {"a": 2}}', "a", 3), with_member('{"a": 1}', "b", [])
    ('{"a": 3, "b": {"a": 2}}', '{"b": [], "a": 1}')
    """
    opening = _OPENING.match(text)
    if opening is None:
        raise DamagedFile("config.json is not a JSON object")
    indent = opening[1] if "\n" in opening[1] else ""
    written = json.dumps(value, indent=len(indent.replace("\n", "")) if indent else None)
    written = written.replace("\n", indent) if indent else written
    known = _members(text).get(key)
    if known is not None:
        return text[: known.start] + written + text[known.stop :]
    first = opening.end()
    separator = "" if text[first] == "}" else f",{indent}" if indent else ", "
    return f"{text[:first]}{json.dumps(key)}: {written}{separator}{text[first:]}"


def _members(text: str) -> dict[str, slice]:
    """Where the values of a JSON object stand."""
    # Numbers are passed over as text: for long ones Python takes quadratic time, and refuses the longest.
    decoder, opening = json.JSONDecoder(parse_int=str), _OPENING.match(text)
    here = len(text) if opening is None else opening.end()
    found: dict[str, slice] = {}
    while here < len(text) and text[here] != "}":
        name, here = decoder.raw_decode(text, here)
        start = _next(text, here)
        _, stop = decoder.raw_decode(text, start)
        found.setdefault(name, slice(start, stop))
        here = _next(text, stop)
    return found


def _next(text: str, here: int) -> int:
    """Where what follows begins, behind colon, comma and blanks."""
    found = _BETWEEN.match(text, here)
    return here if found is None else found.end()


def with_vocabulary(text: bytes, rows: int) -> bytes:
    """config.json with a vocabulary of `rows`, of the language model where that has a config of its own.

    >>> with_vocabulary(b'{"text_config": {"vocab_size": 64}, "vision_config": {"vocab_size": 32}}', 70)
    b'{"text_config": {"vocab_size": 70}, "vision_config": {"vocab_size": 32}}'
    """
    config, decoded = parse(text), text.decode("utf-8")
    text_config = config.get("text_config")
    of_text = text_config.get("vocab_size") if isinstance(text_config, dict) else None
    stated = config.get("vocab_size") if of_text is None else of_text
    return re.sub(rf'("vocab_size"\s*:\s*){re.escape(str(stated))}\b', rf"\g<1>{rows}", decoded).encode()


_SCALED_BEFORE_5 = {"linear", "dynamic", "yarn", "longrope", "llama3"}
"""What 4.57 knows as `rope_type` (`modeling_rope_utils.py`). Of other types 5.0 would take what is written for 4."""
_DEEPEST = 4
"""So deep configs of parts are searched: `thinker_config`, its `text_config`."""
_BY_LAYER = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
"""Model type -> what 4.57 calls the bases of layers with full attention, and of those with a window. 5 has the
parameters of both kinds of layers in `rope_parameters`."""
_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct"), "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct")}
"""Model type -> other names for `rope_theta` and `partial_rotary_factor` before 5."""


def readable_before_5(text: bytes) -> tuple[bytes, bool]:
    """config.json with `rope_theta` beside `rope_parameters`, and whether it had to be added.

    transformers 5 writes only the latter; older ones do not know it, silently take a base of 10000 and give other
    logits. transformers 5 reads both. So it is with what is scaled (`rope_scaling`), with the part of a head that is
    turned (`partial_rotary_factor`), and in the configurations of parts, such as `text_config`.

    >>> readable_before_5(b'{"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}')
    (b'{"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}, "rope_theta": 5.0}', True)
    """
    parse(text)
    decoded = text.decode("utf-8")
    edited = _with_rope_theta(decoded)
    return (text, False) if edited == decoded else (edited.encode(), True)


def _with_rope_theta(text: str, depth: int = 0) -> str:
    """A config, or that of a part."""
    for place in [*_members(text).values()][::-1] if depth < _DEEPEST and '"rope_parameters"' in text else ():
        inner = text[place]
        if inner.startswith("{") and '"rope_parameters"' in inner:
            text = text[: place.start] + _with_rope_theta(inner, depth + 1) + text[place.stop :]
    places = _members(text)
    if "rope_parameters" not in places or not text[places["rope_parameters"]].startswith("{"):
        return text
    place = places["rope_parameters"]
    inner = text[place]
    model_type = parse(text[places["model_type"]].encode()) if "model_type" in places else None
    theta, partial = _NAMES.get(str(model_type), ("rope_theta", "partial_rotary_factor"))
    # Numbers stay as they are written.
    added: dict[str, str] = {}
    layers = _members(inner)
    if "full_attention" in layers:
        if model_type not in _BY_LAYER:
            return text
        theta, local = _BY_LAYER[model_type]
        own = inner[layers["sliding_attention"]] if "sliding_attention" in layers else ""
        base = _members(own).get("rope_theta")
        if base is not None:
            added[local] = own[base]
        inner = inner[layers["full_attention"]]
    parameters = _members(inner)
    if "rope_theta" not in parameters:
        return text
    added[theta] = inner[parameters["rope_theta"]]
    if "partial_rotary_factor" in parameters:
        part = inner[parameters["partial_rotary_factor"]]
        if not (model_type == "phi3" and part == "1.0"):  # 4.57's own default, which earlier releases have no field for
            added[partial] = part
    known = ("rope_theta", "partial_rotary_factor")
    others = {key: parse(inner[at].encode(), parse_int=short_int) for key, at in parameters.items() if key not in known}
    if model_type == "phi3":  # which takes these three and no other
        others = {"type": others.get("rope_type"), **{key: others.get(key) for key in ("short_factor", "long_factor")}}
    if {others.get("rope_type"), others.get("type")} & _SCALED_BEFORE_5 or "mrope_section" in others:
        added["rope_scaling"] = json.dumps(others)
    separator = ", "
    indent = re.search(r"\n([ \t]*)\"rope_parameters\"\s*:\s*$", text[: place.start])
    if indent:
        separator = ",\n" + indent[1]
    new = "".join(f'{separator}"{key}": {value}' for key, value in added.items() if key not in places)
    return text[: place.stop] + new + text[place.stop :]


_OLDER_NAMES = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""Model type -> fields that newer releases of transformers write under another name than older ones read. 4.57 and 5.0
read `num_experts` of Qwen3-MoE and take 128 without it; 5.24 reads both (`attribute_map` of Qwen3MoeConfig)."""


def under_older_names(config: object) -> dict[str, int]:
    """The numbers in a config that older releases of transformers read under another name, under that name.

    >>> under_older_names({"model_type": "qwen3_moe", "num_local_experts": 4})
    {'num_experts': 4}
    """
    if not isinstance(config, dict):
        return {}
    renamed = _OLDER_NAMES.get(str(config.get("model_type")), {})
    # `parse` leaves numbers as they are written.
    found = {old: str(config.get(new)) for new, old in renamed.items() if old not in config}
    return {old: int(number) for old, number in found.items() if number.isdecimal()}


def tokenizer_readable_before_5(text: bytes) -> tuple[bytes, list[str]]:
    """tokenizer_config.json as transformers 4 and 5 read the same tokens from it, and what was changed, in words.

    transformers 5 writes three things that older ones do not read; it still reads what they know
    (`tokenization_utils_base.py`):

    - the class `TokenizersBackend`, which they refuse, and know as `PreTrainedTokenizerFast`;
    - `extra_special_tokens` as a list. 4.57 takes it for a mapping and fails, others ignore it. Under the name
      `additional_special_tokens` all read a list;
    - `model_specific_special_tokens`, a mapping of attributes to tokens, which 4.57 reads as `extra_special_tokens`.

    >>> tokenizer_readable_before_5(b'{"tokenizer_class": "TokenizersBackend"}')[0]
    b'{"tokenizer_class": "PreTrainedTokenizerFast"}'
    >>> tokenizer_readable_before_5(b'{"extra_special_tokens": ["<a>"]}')[0]
    b'{"additional_special_tokens": ["<a>"], "extra_special_tokens": {}}'
    """
    changed = list[str]()
    decoded, renamed = _NEW_TOKENIZER.subn(r"\g<1>PreTrainedTokenizerFast\g<2>", text.decode("utf-8"))
    if renamed:
        changed.append("tokenizer class renamed to PreTrainedTokenizerFast, so that transformers 4 loads it")
    try:
        config = parse(text)
    except DamagedFile:  # it is copied as it is
        return decoded.encode(), changed
    if not isinstance(config, dict):
        return decoded.encode(), changed
    extra, named = config.get("extra_special_tokens"), config.get("model_specific_special_tokens")
    if not isinstance(named, dict):
        named = {}
    if isinstance(extra, list):
        decoded = with_member(decoded, "extra_special_tokens", named)
        decoded = with_member(decoded, "additional_special_tokens", extra)
        changed.append("extra_special_tokens named additional_special_tokens, which transformers 4 and 5 read")
    elif extra is None and named:
        decoded = with_member(decoded, "extra_special_tokens", named)
    if named and not isinstance(extra, dict):
        changed.append(f"{', '.join(named)} added to extra_special_tokens, where transformers 4 reads them")
    return decoded.encode(), changed


def without_truncation(text: bytes) -> tuple[bytes, bool]:
    """tokenizer.json with `truncation` and `padding` cleared, and whether they were set.

    A training run bakes its own lengths in (FlagEmbedding's trainers do); users of the tokenizers library would have
    their texts cut to them. Every other byte stays. Raises DamagedFile if it is not JSON.

    >>> without_truncation(b'{"version": "1.0", "truncation": {"max_length": 24}, "padding": null}')
    (b'{"version": "1.0", "truncation": null, "padding": null}', True)
    """
    decoded = text.decode("utf-8")
    changed = False
    for key in ("truncation", "padding"):
        # Both stand at the head of the file, before any token could contain these letters.
        found = re.search(rf'"{key}"\s*:\s*', decoded[:100_000])
        if found is None or decoded.startswith("null", found.end()):
            continue
        try:
            _, end = json.JSONDecoder().raw_decode(decoded, found.end())
        except ValueError as error:
            raise DamagedFile(f"tokenizer.json is not JSON: {error}") from None
        decoded, changed = decoded[: found.end()] + "null" + decoded[end:], True
    return decoded.encode(), changed
