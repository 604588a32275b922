"""Right or wrong: what the program that would load an output makes of it, against the values the engine had.

Nothing here is zeroconsolidate's. An adapter is loaded by PEFT onto the original; a model by the class that was
trained, and by the one its config.json names; plain torch by names. Merged values are PEFT's own.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from . import models
from .build import build, original, trained_class
from .known import merged_values, trained_values

if TYPE_CHECKING:
    from pathlib import Path

    from .build import Built
    from .known import Known

CLOSE = 1e-5
"""Differences below this are another order of additions: PEFT merges in one, we in another."""
INSIDE = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What wraps layers; never a part of a model's own names."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def judge(known: Known, out: Path, report: Any, options: dict[str, Any]) -> str:
    """What is wrong with an output; nothing if it is right."""
    said = {
        word for text in (*report.left_out, *report.notes, *report.warnings) for word in re.findall(r"[\w.]+", text)
    }
    if known.case.adapter is not None and options.get("lora") != "merge":
        return _adapter(known, out, said)
    dtype = DTYPES[options.get("dtype", "fp32")]
    compare = _loaded if models.MODELS[known.case.model].config else _plain
    if known.case.adapter:
        return compare(known, out, said, merged_values(known, options), dtype)
    found = compare(known, out, said, trained_values(known, options), dtype)
    if found and known.case.exclude_frozen and "base" in options:
        # Copies in 16 bits and the original are the same weights.
        found = compare(known, out, said, trained_values(known, options, second_names=False), dtype) and found
    return found


def _loaded(known: Known, out: Path, said: set[str], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> str:
    """A model of transformers."""
    import transformers

    made_up = sorted(known.lost & _written(out).keys())
    if made_up:
        return f"nobody has the values of: {_some(made_up)}"
    if not (out / "config.json").exists():
        return _plain(known, out, said, expected, dtype)
    stated = json.loads((out / "config.json").read_text()).get("architectures") or []
    kinds = [trained_class(known.case), *(getattr(transformers, name, None) for name in stated[:1])]
    for kind in dict.fromkeys(filter(None, kinds)):
        try:
            model, info = kind.from_pretrained(out, dtype=dtype, output_loading_info=True)
        except Exception as error:
            return f"{_who(kind, known)} does not load it: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
        for what in ("missing_keys", "mismatched_keys"):
            bad = [name for name in info[what] if kind is not kinds[0] or name in expected or name not in known.new]
            if bad:
                return f"{_who(kind, known)} leaves {what[:-5]} parameters random: {_some(bad)}"
        unexpected = [name for name in info["unexpected_keys"] if name not in said]
        if kind.__name__ in stated and unexpected:
            return f"{_who(kind, known)} ignores, and the report does not say so: {_some(unexpected)}"
        if kind is kinds[0]:
            found = _differing(model.state_dict(), expected, dtype)
            if found:
                return found
            buffers = dict(model.named_buffers())
            odd = [name for name, value in _written(out).items() if value.dtype is not dtype and name not in buffers]
            if odd:
                return f"written in another dtype than asked for: {_some(odd)}"
    return _lost(known, out, said, dtype)


def _who(kind: Any, known: Known) -> str:
    return "the trained class" if kind is trained_class(known.case) else "the class in config.json"


def _plain(known: Known, out: Path, said: set[str], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> str:
    """Nobody but torch loads it: the names are the model's own, or all behind one prefix, or as stored."""
    written = _written(out)
    if known.case.exclude_frozen and known.case.adapter is None:
        # Nobody can know of parameters that a save leaves out.
        names, trainable = known.facts["names"], set(known.facts["trainable"])
        expected = {name: value for name, value in expected.items() if names.get(name, name) in trainable}
    groups: dict[bytes, list[str]] = {}
    for name, value in expected.items():
        groups.setdefault(repr(value.shape).encode() + value.numpy().tobytes(), []).append(name)
    found: dict[str, str] = {}
    for prefix in sorted({"", *(name[: -len(key)] for name in written for key in expected if name.endswith(key))}):
        there = {}
        for group in groups.values():  # of tied names one is enough
            one = next((written[prefix + name] for name in group if prefix + name in written), None)
            there |= {name: one for name in group if one is not None}
        found[prefix] = _differing(there, expected, dtype)
        if not found[prefix]:
            return _lost(known, out, said, dtype)
    stored = {owner: known.truth[owner] for name, owner in known.facts["names"].items() if name in expected}
    if known.case.adapter is None and not _differing(written, stored, dtype):
        return _lost(known, out, said, dtype)
    stored = {INSIDE.sub("", name): value for name, value in stored.items()}
    wrappers = {"", *(name[: place + 1] for name in stored for place, sign in enumerate(name) if sign == ".")}
    for wrapper in wrappers if known.case.adapter is None else ():
        unwrapped = {name.removeprefix(wrapper): value for name, value in stored.items()}
        if len(unwrapped) == len(stored) and not _differing(written, unwrapped, dtype):
            return _lost(known, out, said, dtype)
    return f"torch alone, without a config.json: {found['']}"


def _adapter(known: Known, out: Path, said: set[str]) -> str:
    """Adapters, each loaded by PEFT onto the original."""
    import peft

    fresh = build(known.case, known.folder / "base", inner=False, outer=False)
    adapters = list(fresh.model.peft_config)  # type: ignore[arg-type]
    for adapter in adapters:
        folder = out if adapter == "default" else out / adapter
        if not (folder / "adapter_config.json").exists():
            return f"there is no adapter {'' if adapter == 'default' else 'of the second name'} for PEFT"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            base = original(known.case, known.folder / "base")
            try:
                model = peft.PeftModel.from_pretrained(base, folder, adapter_name=adapter)
            except Exception as error:
                return f"PEFT does not load it: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
        missing = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
        if missing:
            return f"PEFT leaves adapter keys random: {missing[0][:150]}"
        own = dict(model.named_parameters(remove_duplicate=False))
        ours = peft.get_peft_model_state_dict(fresh.model, adapter_name=adapter)
        extra = [name for name in load_file(folder / "adapter_model.safetensors") if name not in ours]
        if extra and not all(name in said for name in extra):
            return f"PEFT would not write, and reads nothing of: {_some(extra)}"
        values = {name: value for name, value in known.values.items() if name in own and name in known.optimized}
        beside = _beside(known, fresh, values)
        found = _differing(own, {name: value for name, value in values.items() if name not in beside}, torch.float32)
        if found:
            return found
        unsaid = _nowhere(beside, out, said, torch.float32)
        if unsaid:
            return f"trained beside the adapter, not written and not said: {_some(unsaid)}"
    return _lost(known, out, said, torch.float32)


def _beside(known: Known, fresh: Built, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Trained parameters of the original, which are no adapter's."""
    if not known.case.beside:
        return {}
    return {name: value for name, value in values.items() if f".{known.case.beside}." in name and "lora" not in name}


def _lost(known: Known, out: Path, said: set[str], dtype: torch.dtype) -> str:
    """What was trained outside of the model: written under whatever name, or named in the report."""
    unsaid = _nowhere(known.outside, out, said, dtype)
    return f"trained outside of the model, not written and not said: {_some(unsaid)}" if unsaid else ""


def _nowhere(values: dict[str, torch.Tensor], out: Path, said: set[str], dtype: torch.dtype) -> list[str]:
    if not values:
        return []
    written = list(_written(out).values())
    for path in out.rglob("*.pt"):
        written += list(torch.load(path, weights_only=True).values())
    cast = {name: value.to(dtype) for name, value in values.items() if name not in said}
    return [
        name
        for name, value in cast.items()
        if not any(w.shape == value.shape and torch.equal(w.to(dtype), value) for w in written)
    ]


def _written(out: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in sorted(out.rglob("*.safetensors")) for name, value in load_file(path).items()}


def _differing(found: dict[str, Any], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> str:
    lacking = [name for name in expected if name not in found]
    if lacking:
        return f"has no {_some(lacking)}"
    worst: dict[str, float] = {}
    for name, value in expected.items():
        true, got = value.to(dtype), found[name].detach()
        if true.shape != got.shape:
            return f"another shape than the engine's: {name}: {list(got.shape)}, not {list(true.shape)}"
        if not torch.equal(true.float(), got.float()):
            apart = (true.float() - got.float()).abs().max().item() if true.numel() else 0.0
            if not apart <= (CLOSE if dtype == torch.float32 else 8e-3 * true.float().abs().max().item()):
                worst[name] = apart
    if not worst:
        return ""
    largest = f"{max(worst.values()):.1e}"
    return f"other values than the engine's in {len(worst)} of {len(expected)}, by {largest}: {_some(worst)}"


def _some(names: Any) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
