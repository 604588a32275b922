"""A config.json -> what transformers expects of such a model, asked or remembered.

It is asked in a process of its own (`integrations/architecture.py`), so that neither torch nor transformers enters this
one. No answer is no error: the reason is passed on, and other sources of names are tried.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..archive.model_config import MAX_CONFIG_BYTES, has_config, is_diffusers, parse, read_config
from ..archive.regular import read_small
from ..errors import StoreFailed, ZeroConsolidateError
from ..integrations import apart
from ..integrations.architecture import EVERY, TASK
from .answers import as_answer, of_answer
from .config_fields import with_fields
from .expectation import IS_DIFFUSERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hub_layout import Architecture

ARCHITECTURE_SECONDS = 300
"""How long building a model on the meta device may take. 671 billion parameters take half a minute."""


def config_with(directory: str, rules: Sequence[str]) -> bytes:
    """What is in `directory`/config.json, with fields set by `rules`."""
    return with_fields(read_small(os.path.join(directory, "config.json"), MAX_CONFIG_BYTES), rules)


def has_transformers() -> bool:
    """Whether transformers is installed here."""
    return find_spec("transformers") is not None


def architecture(
    directory: str, rules: Sequence[str] = (), *, task: str | None = None, remember: bool = False
) -> tuple[Architecture | None, str]:
    """What transformers expects for `directory`/config.json with fields set by `rules`; if it says nothing, why.

    `task`: what the model was trained for, if its head is not the one that config says. `remember`: the user's cache
    directory is searched for the answer, and keeps it.
    """
    if not has_config(directory):
        return None, "no config.json"
    if _is_of_diffusers(directory):
        return None, IS_DIFFUSERS
    if not has_transformers():
        return None, "transformers is not installed"
    if find_spec("torch") is None:
        return None, "transformers cannot answer without torch, which is not installed"
    try:
        config = config_with(directory, rules)
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError) as error:
        return None, f"config.json cannot be read: {error}"
    if not _names_a_model(config):
        return None, "config.json has no model_type"
    question = canonical(config if task is None else _for_task(config, task))
    return _recalled(question) if remember else ask(question)


def every_class(directory: str, rules: Sequence[str] = ()) -> tuple[Architecture, ...]:
    """What transformers says of each of its classes for a config; empty if it cannot be asked."""
    if not has_config(directory) or not has_transformers() or find_spec("torch") is None:
        return ()
    try:
        config = config_with(directory, rules)
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        return ()
    return _ask_every(canonical(_for_task(config, EVERY)))


def _recalled(config: bytes) -> tuple[Architecture | None, str]:
    """What transformers once said, or says now."""
    from .remembered import Remembered, cache_directory, installed

    asked = installed()
    if asked is None:
        return ask(config)
    answers = Remembered(cache_directory(), asked)
    answer = answers.get(config)
    if answer is not None:
        with suppress(LookupError, TypeError, ValueError):
            return of_answer(answer), ""
    found, why = ask(config)
    if found is not None:
        answers.put(config, as_answer(found))
    return found, why


def _is_of_diffusers(directory: str) -> bool:
    try:
        return is_diffusers(read_config(os.path.join(directory, "config.json")))
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        return False  # said when it is read for what it says


def _for_task(config: bytes, task: str) -> bytes:
    try:
        value = json.loads(config)
    except (ValueError, RecursionError):
        return config  # transformers says what is wrong with it
    return json.dumps(value | {TASK: task}).encode() if isinstance(value, dict) else config


def _names_a_model(config: bytes) -> bool:
    """Whether transformers could tell what model it is: without `model_type` it need not be started to say that it
    cannot (`AutoConfig.from_pretrained`)."""
    try:
        value = parse(config)
    except StoreFailed:
        raise
    except ZeroConsolidateError:
        return True  # transformers says what is wrong with it
    return not isinstance(value, dict) or "model_type" in value


def canonical(config: bytes) -> bytes:
    """A config without the fields that no name or shape depends on, so that one answer is right before and after our
    edits.

    These are the dtype, how weights are quantized, who wrote it, and the `rope_theta` that is added next to
    `rope_parameters`.

    >>> canonical(b'{"model_type": "llama", "torch_dtype": "bfloat16"}')
    b'{"model_type": "llama"}'
    """
    try:
        return json.dumps(_without_indifferent(json.loads(config))).encode()
    except (ValueError, RecursionError):
        return config  # transformers says what is wrong with it


def _without_indifferent(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    dropped = {"dtype", "torch_dtype", "transformers_version", "_name_or_path", "quantization_config"}
    if isinstance(value.get("rope_parameters"), dict):
        dropped |= {"rope_theta", "rope_scaling"}
    return {key: _without_indifferent(item) for key, item in value.items() if key not in dropped}


@lru_cache(maxsize=16)
def ask(config: bytes) -> tuple[Architecture | None, str]:
    """What transformers says of a config, and if it says nothing, why."""
    answer, why = _answer(config)
    return (None if answer is None else of_answer(answer)), why


@lru_cache(maxsize=4)
def _ask_every(config: bytes) -> tuple[Architecture, ...]:
    answer, _ = _answer(config)
    return () if answer is None else tuple(of_answer(each) for each in answer.get("all", ()))


def _answer(config: bytes) -> tuple[dict[str, Any] | None, str]:
    """One process for each config, which sees nothing but that file.

    It is started by its path: nothing of ours is imported there.
    """
    # Only who asks pays for their import.
    import subprocess
    from tempfile import TemporaryDirectory

    script = os.path.join(os.path.dirname(os.path.dirname(__file__)), "integrations", "architecture.py")
    with TemporaryDirectory(prefix="zeroconsolidate-") as alone:
        with open(os.path.join(alone, "config.json"), "wb") as file:
            file.write(config)
        try:
            done = subprocess.run(  # noqa: S603  (our own script, no shell)
                apart.command(script, alone),
                env=apart.environment(),
                capture_output=True,
                timeout=ARCHITECTURE_SECONDS,
                check=False,
                text=True,
            )
            answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
        except subprocess.TimeoutExpired:
            return None, f"transformers took more than {ARCHITECTURE_SECONDS} s to build the model"
        except ValueError:
            return None, "transformers could not build the model"
    if "error" in answer:
        return None, f"transformers could not build the model: {answer['error'].replace(alone, 'config.json')}"
    return answer, ""
