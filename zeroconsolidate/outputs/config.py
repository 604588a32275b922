"""config.json and tokenizer files -> the same with single values edited. Every other byte stays."""

from __future__ import annotations

import json
import re

from ..archive.model_config import parse
from ..archive.phrases import counted
from ..errors import DamagedFile

_NEW_TOKENIZER = re.compile(r'("tokenizer_class"\s*:\s*")TokenizersBackend(")')
_TIED = re.compile(r'("tie_word_embeddings"\s*:\s*)true')
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
    decoder, opening = json.JSONDecoder(), re.compile(r"\s*\{(\s*)").match(text)
    if opening is None:
        raise DamagedFile("config.json is not a JSON object")
    indent = opening[1] if "\n" in opening[1] else ""
    written = json.dumps(value, indent=len(indent.replace("\n", "")) if indent else None)
    written = written.replace("\n", indent) if indent else written
    here, first = opening.end(), opening.end()
    while text[here] != "}":
        name, here = decoder.raw_decode(text, here)
        here = _next(text, here)
        _, stop = decoder.raw_decode(text, here)
        if name == key:
            return text[:here] + written + text[stop:]
        here = _next(text, stop)
    separator = "" if text[first] == "}" else f",{indent}" if indent else ", "
    return f"{text[:first]}{json.dumps(key)}: {written}{separator}{text[first:]}"


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


def readable_before_5(text: bytes) -> tuple[bytes, bool]:
    """config.json with `rope_theta` beside `rope_parameters`, and whether it had to be added.

    transformers 5 writes only the latter; older ones do not know it, silently take a base of 10000 and give other
    logits. transformers 5 reads both.

    >>> readable_before_5(b'{"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}')
    (b'{"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}, "rope_theta": 5.0}', True)
    """
    config = parse(text)
    parameters = config.get("rope_parameters") if isinstance(config, dict) else None
    if not isinstance(parameters, dict) or "rope_theta" not in parameters or "rope_theta" in config:
        return text, False
    decoded = text.decode("utf-8")
    start = decoded.index('"rope_parameters"')
    value = re.compile(r"\s*:\s*").match(decoded, start + len('"rope_parameters"'))
    theta = re.search(r'"rope_theta"\s*:\s*([-+0-9.eE]+)', decoded[start:])
    if value is None or theta is None:
        return text, False
    _, end = json.JSONDecoder().raw_decode(decoded, value.end())
    indent = re.search(r"\n([ \t]*)$", decoded[:start])
    separator = ",\n" + indent[1] if indent else ", "
    added = f'{separator}"rope_theta": {theta[1]}'
    others = {key: item for key, item in json.loads(decoded[value.end() : end]).items() if key != "rope_theta"}
    if others.get("rope_type", "default") != "default" and "rope_scaling" not in config:
        added += f'{separator}"rope_scaling": {json.dumps(others)}'
    return (decoded[:end] + added + decoded[end:]).encode(), True


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
