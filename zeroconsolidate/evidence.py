"""Gathers what a target expects, cheapest first: weights of the same model, the architecture, the base model.

Headers are read here; the architecture is asked in a process of its own (`integrations/architecture.py`), so that
neither torch nor transformers enters this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .archive.regular import read_small
from .archive.safetensors import read_model
from .errors import ZeroConsolidateError
from .plan.naming import Expectation
from .plan.rows import Conversion
from .write.config import MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURE_SECONDS = 300
"""How long building a model on the meta device may take. Even 671 billion parameters take a second."""

_LEGACY = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
"""What transformers 5 writes for BERT's kin under ZeRO-3 (it reverses its own legacy renaming by mistake)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What transformers says of a config."""

    expectation: Expectation
    conversions: tuple[Conversion, ...]


def reference(directory: str, origin: str, *, exact: bool) -> Expectation | None:
    """The names in the header of the weights in `directory`, or None if there are none that can be read.

    Empty weights, which ZeRO-3 runs leave behind, still tell names.
    """
    if not any(name.endswith(".safetensors") and name.startswith("model") for name in os.listdir(directory)):
        return None
    try:
        model = read_model(directory)
    except ZeroConsolidateError:
        return None  # it is only a witness of names: a broken one has nothing to say
    shapes: dict[str, tuple[int, ...] | None] = {}
    for name, tensor in model.tensors.items():
        suffix = next((old for old in _LEGACY if name.endswith(old)), None)
        plain = name if suffix is None else name.removesuffix(suffix) + _LEGACY[suffix]
        shapes[plain] = None if tensor.shape == (0,) else tensor.shape
    return Expectation(origin=origin, shapes=shapes, ties={}, optional=frozenset(), exact=exact) if shapes else None


def architecture(directory: str) -> tuple[Architecture | None, str]:
    """What transformers expects for `directory`/config.json, and if it says nothing, why."""
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path):
        return None, "there is no config.json"
    if find_spec("transformers") is None:
        return None, "transformers is not installed"
    try:
        return _asked(read_small(path, MAX_CONFIG_BYTES))
    except (ZeroConsolidateError, OSError) as error:
        return None, f"config.json cannot be read: {error}"


@lru_cache(maxsize=16)
def _asked(config: bytes) -> tuple[Architecture | None, str]:
    """Ask about a config's text, once a process: the answer depends on nothing else.

    It is asked in a folder that holds that text only, so that nothing else of a checkpoint is looked at.
    """
    # `python -m` looks for modules in its working directory first. That must not be the user's, who may stand in
    # the checkpoint, which may hold a `transformers.py`: it is the folder our own package was imported from.
    trusted = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    quiet |= {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    with tempfile.TemporaryDirectory(prefix="zeroconsolidate-") as folder:
        with open(os.path.join(folder, "config.json"), "wb") as file:
            file.write(config)
        command = [sys.executable, "-m", "zeroconsolidate.integrations.architecture", folder]
        try:
            done = subprocess.run(  # noqa: S603  (our own module, no shell)
                command,
                env=quiet,
                cwd=trusted,
                capture_output=True,
                timeout=ARCHITECTURE_SECONDS,
                check=False,
                text=True,
            )
            answer = json.loads(done.stdout.strip().rpartition("\n")[2])
        except subprocess.TimeoutExpired:
            return None, f"transformers took more than {ARCHITECTURE_SECONDS} s to build the model"
        except ValueError:
            return None, "transformers could not build the model"
    if "error" in answer:
        return None, f"transformers could not build the model: {answer['error']}"
    return _architecture(answer), ""


def _architecture(answer: Mapping[str, Any]) -> Architecture:
    return Architecture(
        expectation=Expectation(
            origin=answer["origin"],
            shapes={name: tuple(shape) for name, shape in answer["names"].items()},
            ties=answer["ties"],
            optional=frozenset(answer["buffers"]),
            exact=True,
        ),
        conversions=tuple(
            Conversion(
                output=entry["output"],
                shape=tuple(entry["shape"]),
                inputs=tuple(entry.get("inputs", ())),
                row_numel=entry.get("row_numel", 1),
                runs=tuple(tuple(run) for run in entry.get("runs", ())),
                opaque=entry["opaque"],
            )
            for entry in answer["conversions"]
        ),
    )
