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


def resolved(base: str) -> str:
    """The directory of a base model: `base` itself, or the snapshot of a hub id `owner/name[@revision]`.

    What is in the offline cache is taken from there. Raises BadOption if it is neither, if huggingface_hub is not
    installed, or if it finds nothing.
    """
    if os.path.isdir(base):
        return base
    if not _ID.fullmatch(base) or base.startswith("."):
        raise BadOption("the base model must be a directory, or a hub id such as owner/name", found=base)
    if find_spec("huggingface_hub") is None:
        raise BadOption(
            f"the base model {base} is no directory, and to look for it on the hub huggingface_hub is needed",
            remedy='install it (pip install "zeroconsolidate[hub]"), or give a directory',
        )
    from huggingface_hub import snapshot_download

    name, _, revision = base.partition("@")
    try:
        directory = snapshot_download(name, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # noqa: BLE001  (network, permissions, names: huggingface_hub has a class for each)
        reason = str(error).strip().partition("\n")[0]
        raise BadOption(f"the base model {base} is no directory, and huggingface_hub has none: {reason}") from None
    return str(directory)
