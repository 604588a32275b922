"""A finished output -> `zeroconsolidate.json`: what it was made of, and what is in it. Written last.

    {
      "manifest": 1,                                    version of this format
      "zeroconsolidate": "0.1.0",                       version of the library
      "source": {"tag": …, "step": …, "stage": …, "world_size": …, "ds_version": …},
      "averaged": [{"tag": …, "step": …}, …],           of a mean only: the checkpoints, in order; `source` is the last
      "options": {"dtype": "fp32", …},                  as given to `consolidate`
      "digest": "sha256",                               of weights; null if none was asked for
      "excused": ["…"],                                 findings that an option allowed
      "noted": {"…": ["…"]},                            notes about several tensors -> all of their names
      "files": {"model.safetensors": {"bytes": …, "sha256": …}, "config.json": {"bytes": …, "sha256": …}, …},
      "tensors": {"embed.weight": {"file": …, "dtype": "F32", "shape": […], "sha256": …}, …}
    }

It says nothing of time, place or machine: the same checkpoint, options and version make the same bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Origin
    from ..plan.build import ModelPlan


def manifest(
    plan: ModelPlan,
    origin: Origin,
    *,
    options: Mapping[str, object],
    digest: str | None,
    weights: Mapping[str, Mapping[str, Any]],
    beside: Mapping[str, tuple[int, str]],
    excused: Sequence[str],
    noted: Mapping[str, Sequence[str]],
    averaged: Sequence[Origin] = (),
) -> bytes:
    """The manifest's text.

    `averaged`: of a mean of several checkpoints, where each comes from. `weights`: file -> `{"file": digest,
    "tensors": {name: digest}}`, empty without digests. `beside`: every other file -> (size in bytes, SHA-256).
    `noted`: note -> the tensors it is about.
    """
    files: dict[str, dict[str, object]] = {}
    tensors: dict[str, dict[str, object]] = {}
    for file in plan.all_files:
        known = weights.get(file.name, {})
        files[file.name] = {"bytes": file.size_bytes} | ({digest: known["file"]} if digest and known else {})
        if "/" in file.name:
            continue  # of several adapters, which have the same names; the list is of the model in the directory itself
        for tensor in file.tensors:
            tensors[tensor.name] = {"file": file.name, "dtype": tensor.dtype.code, "shape": list(tensor.shape)} | (
                {digest: known["tensors"][tensor.name]} if digest and known else {}
            )
    for name, (size_bytes, sha256) in beside.items():
        files[name] = {"bytes": size_bytes, "sha256": sha256}
    content = {
        "manifest": 1,
        "zeroconsolidate": __version__,
        "source": {
            "tag": origin.tag,
            "step": origin.step,
            "stage": origin.stage,
            "world_size": origin.world_size,
            "ds_version": origin.ds_version,
        },
        **({"averaged": [{"tag": each.tag, "step": each.step} for each in averaged]} if averaged else {}),
        "options": dict(options),
        "digest": digest,
        "excused": list(excused),
        "noted": {note: list(names) for note, names in noted.items() if len(names) > 1},
        "files": files,
        "tensors": tensors,
    }
    # One entry a line keeps diffs readable without a file of a million lines for large models.
    return (_lines(content) + "\n").encode()


def _lines(content: Mapping[str, object]) -> str:
    parts = []
    for key, value in content.items():
        if key in ("files", "tensors") and isinstance(value, dict):
            inner = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}"
