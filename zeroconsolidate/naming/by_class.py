"""Stored names and shapes -> the class of the model, where config.json does not name it.

Such a config was written by hand, or by `config.save_pretrained`. Of the classes that transformers has for its
`model_type`, it is the one whose names fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decision import best_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Shape
    from .hub_layout import Architecture
    from .sources import NameSources


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An architecture whose names and shapes are exactly those of the checkpoint."""

    architecture: Architecture
    class_name: str
    """Name of the one class that fits; empty if several do, in which case nothing that is written depends on it."""


def of_class(sources: NameSources, stored: Mapping[str, Shape], ties: Mapping[str, str]) -> Found | None:
    """The class whose names and shapes are exactly those of `stored`, if possible without changing a name.

    None if there is none, or transformers cannot be asked. `stored`: stored name -> shape, aliases included; `ties`:
    alias -> owner.
    """
    fitting: list[tuple[bool, Architecture]] = []
    for architecture in sources.every_class():
        namings = [best_mapping(stored, ties, each) for each in (architecture.expectation, architecture.hub)]
        fits = [naming for naming in namings if naming.fits]
        if fits:
            fitting.append((all(naming.change for naming in fits), architecture))
    if not fitting:
        return None
    least = min(changed for changed, _ in fitting)
    best = [architecture for changed, architecture in fitting if changed == least]
    return Found(architecture=best[0], class_name=best[0].class_name if len(best) == 1 else "")
