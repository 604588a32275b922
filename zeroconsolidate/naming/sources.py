"""A checkpoint's folder -> expected names: from saved weights, the architecture, or the base model.

Headers are read here. The architecture is looked up in the built-in table (`table/`), which confirms names that are
exactly those it has; else transformers is asked (:mod:`.asking`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.model_config import has_config, is_bare, parse, short_int
from ..archive.places import names_in
from ..archive.safetensors import read_model
from ..errors import StoreFailed, ZeroConsolidateError
from .asking import architecture, config_with, every_class, has_transformers
from .expectation import HEADS, Expectation
from .table.lookup import differing, looked_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .hub_layout import Architecture

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
            return parse(config_with(self.directory, self._rules))
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


def in_table(directory: str, rules: Sequence[str] = ()) -> Architecture | None:
    """What the built-in table says of `directory`/config.json with fields set by `rules`; None if it does not know.

    It can confirm names that match exactly, and decides nothing else. It does not know the names where the installed
    transformers is one that is known to say something else.
    """
    try:
        config = parse(config_with(directory, rules), parse_int=short_int)
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        return None
    found, others = looked_up(config), differing(config)
    if found is not None and others and has_transformers():
        from .remembered import major

        return None if major() in others else found
    return found


def stated_class(config: Mapping[str, Any]) -> bool:
    """Whether a config names its class, or code of its own."""
    return bool(config.get("architectures")) or bool(config.get("auto_map"))
