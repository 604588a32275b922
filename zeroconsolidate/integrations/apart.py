"""A module -> the command that runs it in a process of its own."""

from __future__ import annotations

import os
import sys

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where the package is imported from."""

_HAS_SAFE_PATH = sys.version_info >= (3, 11)
_LIKE_SAFE_PATH = """
import sys
del sys.path[0]
import runpy
del sys.argv[0]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""What `-P` does, which Python 3.10 does not have."""


def command(*arguments: str) -> list[str]:
    """A call of this interpreter, with a script or `-m` and a module.

    The working directory may be a checkpoint, so nothing is imported from it.
    """
    safely = ["-P"] if _HAS_SAFE_PATH else ["-c", _LIKE_SAFE_PATH]
    return [sys.executable, *safely, *arguments]


def environment(*, with_us: bool = False) -> dict[str, str]:
    """The environment of this process, with transformers and PEFT quiet, and without network and GPU. `with_us`: this
    package can be imported in it, from the same place as here."""
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if with_us:
        places = [_OURS, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        quiet["PYTHONPATH"] = os.pathsep.join(places)
    return dict(quiet)
