"""Answers of transformers as JSON: what `integrations/architecture.py` prints, and what is kept of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .expectation import Expectation
from .hub_layout import Architecture, Conversion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def of_answer(answer: Mapping[str, Any]) -> Architecture:
    """What `integrations/architecture.py` printed."""

    def expectation(origin: str, names: Mapping[str, Sequence[int]], ties: Mapping[str, str]) -> Expectation:
        shapes = {name: tuple(shape) for name, shape in names.items()}
        integers = frozenset(answer.get("integers", ()))
        return Expectation(origin=origin, shapes=shapes, ties=ties, exact=True, integers=integers)

    return Architecture(
        class_name=answer["class"],
        labels=int(answer["labels"]),
        expectation=expectation(answer["origin"], answer["names"], answer["ties"]),
        linears=frozenset(answer["linears"]),
        hub=replace(
            expectation(f"{answer['origin']}, in the hub's layout", answer["hub"], answer["hub_ties"]), layout="hub"
        ),
        conversions=tuple(
            Conversion(
                output=entry["output"],
                shape=tuple(entry["shape"]),
                inputs=tuple(entry["inputs"]),
                row_numel=entry.get("row_numel", 1),
                runs=tuple(tuple(run) for run in entry.get("runs", ())),
                opaque=entry["opaque"],
            )
            for entry in answer["conversions"]
        ),
    )


def as_answer(architecture: Architecture) -> dict[str, Any]:
    """The way back: `of_answer(as_answer(x)) == x`."""
    expectation, hub = architecture.expectation, architecture.hub
    return {
        "class": architecture.class_name,
        "labels": architecture.labels,
        "origin": expectation.origin,
        "names": dict(expectation.shapes),
        "integers": sorted(expectation.integers),
        "ties": dict(expectation.ties),
        "hub": dict(hub.shapes),
        "hub_ties": dict(hub.ties),
        "linears": sorted(architecture.linears),
        "conversions": [asdict(conversion) for conversion in architecture.conversions],
    }
