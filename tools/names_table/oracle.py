"""What transformers itself says of a config: the answer that the product gets, without its detours."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from zeroconsolidate.integrations import architecture

MAJOR = int(transformers.__version__.split(".")[0])
VERSION = transformers.__version__

transformers.logging.set_verbosity(transformers.logging.CRITICAL)


def hush() -> None:
    """Values are nobody's concern: on the meta device, initialising takes longer than all else."""

    def leave(tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    for module in (torch.nn.init, getattr(transformers, "initialization", None)):
        for name in dir(module) if module is not None else ():
            if name.endswith("_") and not name.startswith("_") and callable(getattr(module, name)):
                setattr(module, name, leave)


def conversions_of(model: Any) -> list[Any]:
    """What transformers changes between memory and files, as `revert_weight_conversion` finds it out each time."""
    if MAJOR < 5:
        return []
    from transformers.conversion_mapping import PrefixChange, get_model_conversion_mapping

    return [c for c in get_model_conversion_mapping(model, add_legacy=False) if not isinstance(c, PrefixChange)]


class Reversed:
    """A conversion that is turned around once: `revert_weight_conversion` does it anew for each tensor it is given."""

    def __init__(self, conversion: Any) -> None:
        self._reversed = conversion.reverse_transform()

    def reverse_transform(self) -> Any:
        return self._reversed


class Oracle:
    """Asks transformers in this process. `thorough`: every way the product goes, too."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._hub, self._conversions = architecture._hub, architecture._conversions
        hush()

    def ask(self, config: dict[str, Any], *, thorough: bool = False) -> dict[str, Any] | None:
        """The answer as the product reads it, None if transformers builds no such model."""
        Path(self._folder.name, "config.json").write_text(json.dumps(config))
        architecture._hub = self._hub if thorough else self._quick_hub
        architecture._conversions = self._conversions if thorough else self._quick_conversions
        self._plain: bool | None = None
        try:
            answer = architecture.expectation(self._folder.name)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error!s:.300}"
            return None
        finally:
            architecture._hub, architecture._conversions = self._hub, self._conversions
        return json.loads(json.dumps(answer))

    def saved(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """The config.json that transformers itself would write of this one."""
        Path(self._folder.name, "config.json").write_text(json.dumps(config))
        try:
            loaded = transformers.AutoConfig.from_pretrained(self._folder.name)
            loaded.save_pretrained(self._folder.name)
        except Exception:
            return None
        return json.loads(Path(self._folder.name, "config.json").read_text())

    def tied(self, config: dict[str, Any]) -> set[frozenset[str]]:
        """Groups of names of one parameter, of a model as it is built: in transformers 4, which lists them nowhere."""
        kind = architecture.model_class(transformers.AutoConfig.for_model(**config))
        with torch.device("meta"):
            model = kind(transformers.AutoConfig.for_model(**config))
        owners: dict[int, set[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            owners.setdefault(id(parameter), set()).add(name)
        return {frozenset(names) for names in owners.values() if len(names) > 1}

    def _quick_hub(self, model: Any, state: dict[str, Any]) -> dict[str, Any]:
        if self._plain is None:
            found = conversions_of(model)
            self._plain = not found
            if found:
                model._weight_conversions = [Reversed(conversion) for conversion in found]
        return state if self._plain else self._hub(model, state)

    def _quick_conversions(self, model: Any, state: dict[str, Any], hub: dict[str, Any]) -> list[Any]:
        return [] if self._plain else self._conversions(model, state, hub)
