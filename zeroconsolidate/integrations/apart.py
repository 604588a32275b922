"""A module -> the command that runs it in a process of its own."""

from __future__ import annotations

import os
import sys

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where the package is imported from."""


def command(*arguments: str) -> list[str]:
    """A call of this interpreter. -P: the working directory may be a checkpoint, so nothing is imported from it."""
    return [sys.executable, "-P", *arguments]


def environment(*, with_us: bool = False) -> dict[str, str]:
    """The environment of this process, with transformers and PEFT quiet, and without network and GPU. `with_us`: this
    package can be imported in it, from the same place as here."""
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if with_us:
        places = [_OURS, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        quiet["PYTHONPATH"] = os.pathsep.join(places)
    return dict(quiet)
