"""The original model by its name on the hub: huggingface_hub finds or downloads it, if it is installed."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

from ..errors import BadOption

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""`owner/name`, and after `@` a branch, tag or commit."""

FILES = ("*.safetensors", "*.bin", "*.pt", "*.json", "*.txt", "*.model", "*.py", "*.jinja", "*.spm", "*.tiktoken")
"""What is fetched: weights, config, tokenizer, remote code. Other frameworks' weights are not."""


def is_hub_id(base: str) -> bool:
    """Whether this could be the name of a model on the hub.

    >>> is_hub_id("BAAI/bge-m3"), is_hub_id("../bge-m3"), is_hub_id("runs/base/")
    (True, False, False)
    """
    return _ID.fullmatch(base) is not None and not base.startswith(".")


def resolved(base: str) -> str:
    """The directory of a base model: `base` itself, or the snapshot of a hub id `owner/name[@revision]`.

    What is in the offline cache is taken from there. Raises BadOption if it is neither, if huggingface_hub is not
    installed, or if it finds nothing.
    """
    if os.path.isdir(base):
        return base
    near = _near(base)
    if os.path.lexists(base):
        raise BadOption("the base model must be a directory", found=f"the file {base}", remedy=near)
    if not is_hub_id(base):
        raise BadOption(f"no such directory: {base or repr(base)}", consequence="it is no hub id either", remedy=near)
    if find_spec("huggingface_hub") is None:
        raise BadOption(
            f"no such directory: {base}",
            consequence="to look for it on the hub huggingface_hub is needed",
            remedy=(*([near] if near else []), 'pip install "zeroconsolidate[hub]"'),
        )
    from huggingface_hub import snapshot_download

    name, _, revision = base.partition("@")
    try:
        directory = snapshot_download(name, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # noqa: BLE001  (network, permissions, names: huggingface_hub has a class for each)
        reason = str(error).strip().partition("\n")[0]
        raise BadOption(
            f"no such directory: {base}", consequence=f"nor does huggingface_hub find it: {reason}", remedy=near
        ) from None
    return str(directory)


def _near(base: str) -> str | None:
    """The directory that may have been meant."""
    above, name = os.path.split(base.rstrip("/"))
    try:
        beside = [entry.name for entry in os.scandir(above or ".") if entry.is_dir()]
    except OSError:
        return None
    from difflib import get_close_matches

    near = get_close_matches(name, beside, n=1)
    return f"did you mean {os.path.join(above, near[0])}?" if near else None
