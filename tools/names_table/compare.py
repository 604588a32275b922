"""The two answers in one form, order and all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zeroconsolidate.naming.table.lookup import Architecture


def asked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers said, without the words for people."""
    return {
        "class": answer["class"],
        "names": [(name, tuple(shape)) for name, shape in answer["names"].items()],
        "integers": sorted(answer["integers"]),
        "ties": [*answer["ties"].items()],
        "hub": [(name, tuple(shape)) for name, shape in answer["hub"].items()],
        "hub_ties": [*answer["hub_ties"].items()],
        "conversions": [
            (
                entry["output"],
                tuple(entry["shape"]),
                tuple(entry["inputs"]),
                entry["opaque"] or (entry["row_numel"], tuple(tuple(run) for run in entry["runs"])),
            )
            for entry in answer["conversions"]
        ],
    }


def known(architecture: Architecture) -> dict[str, Any]:
    """What the table said."""
    return {
        "class": architecture.class_name,
        "names": [*architecture.expectation.shapes.items()],
        "integers": sorted(architecture.expectation.integers | architecture.hub.integers),
        "ties": [*architecture.expectation.ties.items()],
        "hub": [*architecture.hub.shapes.items()],
        "hub_ties": [*architecture.hub.ties.items()],
        "conversions": [
            (entry.output, entry.shape, entry.inputs, entry.opaque or (entry.row_numel, entry.runs))
            for entry in architecture.conversions
        ],
    }


def difference(table: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first difference, for people; empty if there is none."""
    for which, said in table.items():
        if said != other[which]:
            if which == "class":
                return f"the table says {said}, transformers {other[which]}"
            more = [entry for entry in said if entry not in other[which]][:3]
            less = [entry for entry in other[which] if entry not in said][:3]
            return (
                f"{which}: the table alone says {more}, transformers alone {less}"
                if more or less
                else f"{which}: other order"
            )
    return ""
