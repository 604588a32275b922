"""A checkpoint's folder -> expected names: from saved weights, the architecture, or the base model.

Headers are read here. The architecture is looked up in the built-in table (`table/`), which confirms names that are
exactly those it has; else transformers is asked, in a process of its own (`integrations/architecture.py`), so that
neither torch nor transformers enters this one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..archive.model_config import MAX_CONFIG_BYTES, has_config, is_bare, is_diffusers, parse, read_config, short_int
from ..archive.places import names_in
from ..archive.regular import read_small
from ..archive.safetensors import read_model
from ..errors import StoreFailed, ZeroConsolidateError
from ..integrations import apart
from ..integrations.architecture import EVERY, TASK
from .answers import as_answer, of_answer
from .config_fields import with_fields
from .expectation import HEADS, IS_DIFFUSERS, Expectation
from .table.lookup import differing, looked_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .hub_layout import Architecture

ARCHITECTURE_SECONDS = 300
"""How long building a model on the meta device may take. 671 billion parameters take half a minute."""

_LEGACY = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
"""What transformers 5 writes for models like BERT under ZeRO-3 (it reverses its own legacy renaming by mistake)."""


class NameSources:
    """What is known of the target of the checkpoint in `root`, gathered as it is asked for.

    Iterating yields what names are compared with: the architecture, or else its relatives, nearest first.
    """

    def __init__(
        self,
        root: str,
        base: str | None,
        set_config: Sequence[str] = (),
        *,
        task: str | None = None,
        remember: bool = False,
        known: Architecture | None = None,
    ) -> None:
        """`task`: PEFT's name of what the model was trained for, or the name of its class, where config.json may be of
        a model with another head. `remember`: what transformers answers is kept for the next time. `known`: the
        architecture, if it need not be asked."""
        self._root, self._base, self._rules, self._task = root, base, tuple(set_config), task
        self._remember = remember
        self.directory = root if has_config(root) or base is None else base
        """Where config.json is, if anywhere."""
        self._asked: tuple[Architecture | None, str] | None = None if known is None else (known, "")
        self._is_confirming = known is not None

    def by_table(self) -> NameSources | None:
        """The same with the architecture that the built-in table knows, None if it knows none."""
        # Of the classes that a config without one may mean, the table has not all.
        known = in_table(self.directory, self._rules) if self._task is None and not self.lacks_class else None
        if known is None:
            return None
        return self.knowing(known)

    def knowing(self, known: Architecture) -> NameSources:
        """The same with an architecture that need not be asked."""
        return NameSources(self._root, self._base, self._rules, remember=self._remember, known=known)

    def own(self) -> Expectation | None:
        """The names of weights that were saved beside the checkpoint."""
        return reference(self._root, "the weights saved beside the checkpoint", exact=True)

    @property
    def architecture(self) -> Architecture | None:
        """What transformers says, if it can be asked."""
        if self._asked is None:
            self._asked = architecture(self.directory, self._rules, task=self._task, remember=self._remember)
        return self._asked[0]

    def with_fields(self, rules: Sequence[str]) -> Architecture | None:
        """What transformers says if more fields of config.json are set."""
        if self._is_confirming:
            return None  # the table does not find out what is wrong
        return architecture(self.directory, (*self._rules, *rules), task=self._task, remember=self._remember)[0]

    @property
    def lacks_class(self) -> bool:
        """Whether config.json says what type of model it is, but not which class."""
        config = self.config
        return self._task is None and isinstance(config, dict) and "model_type" in config and not stated_class(config)

    def every_class(self) -> tuple[Architecture, ...]:
        """What transformers says of each of its classes of such models; empty if it cannot be asked."""
        return every_class(self.directory, self._rules)

    @property
    def config(self) -> Any:
        """The value of config.json, integers as text; None if there is none that can be read."""
        try:
            return parse(_config(self.directory, self._rules))
        except StoreFailed:
            raise
        except (ZeroConsolidateError, OSError):
            return None

    @property
    def is_bare(self) -> bool:
        """Whether config.json names a model without a head."""
        return is_bare(self.config)

    @property
    def ties_embeddings(self) -> bool:
        """Whether config.json says that embeddings are tied."""
        config = self.config
        return isinstance(config, dict) and config.get("tie_word_embeddings") is True

    @property
    def unasked(self) -> str:
        """Why transformers gave no answer."""
        return "" if self._asked is None else self._asked[1]

    def __iter__(self) -> Iterator[Expectation]:
        if self.architecture is not None:
            yield self.architecture.expectation
            yield self.architecture.hub
            return
        own = self.own()
        if own is not None:
            yield own
        if self._base is not None:
            base = reference(self._base, f"the base model {self._base}", exact=False)
            if base is not None:
                yield base


def reference(directory: str, origin: str, *, exact: bool) -> Expectation | None:
    """The names in the header of the weights in `directory`; None if there are none that can be trusted.

    Empty weights, which ZeRO-3 runs leave behind, still tell names. A file with heads of BGE-M3 in it was not written
    by a trainer: a converter made it from the shards, with the wrong names.
    """
    if not any(
        name.endswith(".safetensors") and name.startswith(("model", "diffusion_pytorch_model"))
        for name in names_in(directory)
    ):
        return None
    try:
        model = read_model(directory)
    except StoreFailed:
        raise
    except ZeroConsolidateError:
        return None  # it is only a witness of names: a broken one has nothing to say
    shapes: dict[str, tuple[int, ...] | None] = {}
    for name, tensor in model.tensors.items():
        suffix = next((old for old in _LEGACY if name.endswith(old)), None)
        plain = name if suffix is None else name.removesuffix(suffix) + _LEGACY[suffix]
        shapes[plain] = None if tensor.shape == (0,) else tensor.shape
    if not shapes or any(name.startswith(HEADS) for name in shapes):
        return None
    return Expectation(origin=origin, shapes=shapes, ties={}, exact=exact)


def _config(directory: str, rules: Sequence[str]) -> bytes:
    return with_fields(read_small(os.path.join(directory, "config.json"), MAX_CONFIG_BYTES), rules)


def in_table(directory: str, rules: Sequence[str] = ()) -> Architecture | None:
    """What the built-in table says of `directory`/config.json with fields set by `rules`; None if it does not know.

    It can confirm names that match exactly, and decides nothing else. It does not know the names where the installed
    transformers is one that is known to say something else.
    """
    try:
        config = parse(_config(directory, rules), parse_int=short_int)
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        return None
    found, others = looked_up(config), differing(config)
    if found is not None and others and find_spec("transformers") is not None:
        from .remembered import major

        return None if major() in others else found
    return found


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
    if find_spec("transformers") is None:
        return None, "transformers is not installed"
    if find_spec("torch") is None:
        return None, "transformers cannot answer without torch, which is not installed"
    try:
        config = _config(directory, rules)
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError) as error:
        return None, f"config.json cannot be read: {error}"
    if not _names_a_model(config):
        return None, "config.json has no model_type"
    question = canonical(config if task is None else _for_task(config, task))
    return _recalled(question) if remember else _ask(question)


def _recalled(config: bytes) -> tuple[Architecture | None, str]:
    """What transformers once said, or says now."""
    from .remembered import Remembered, cache_directory, installed

    asked = installed()
    if asked is None:
        return _ask(config)
    answers = Remembered(cache_directory(), asked)
    answer = answers.get(config)
    if answer is not None:
        with suppress(LookupError, TypeError, ValueError):
            return of_answer(answer), ""
    found, why = _ask(config)
    if found is not None:
        answers.put(config, as_answer(found))
    return found, why


def stated_class(config: Mapping[str, Any]) -> bool:
    """Whether a config names its class, or code of its own."""
    return bool(config.get("architectures")) or bool(config.get("auto_map"))


def every_class(directory: str, rules: Sequence[str] = ()) -> tuple[Architecture, ...]:
    """What transformers says of each of its classes for a config; empty if it cannot be asked."""
    if not has_config(directory) or find_spec("transformers") is None or find_spec("torch") is None:
        return ()
    try:
        config = _config(directory, rules)
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        return ()
    return _ask_every(canonical(_for_task(config, EVERY)))


@lru_cache(maxsize=4)
def _ask_every(config: bytes) -> tuple[Architecture, ...]:
    answer, _ = _answer(config)
    return () if answer is None else tuple(of_answer(each) for each in answer.get("all", ()))


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
def _ask(config: bytes) -> tuple[Architecture | None, str]:
    """What transformers says of a config, and if it says nothing, why."""
    answer, why = _answer(config)
    return (None if answer is None else of_answer(answer)), why


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
