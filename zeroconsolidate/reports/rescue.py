"""A rescue report -> its page: where the values of every tensor came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..audit.kinds import layer_of
from .charts import Slice, figure, legend, stacks
from .markup import tag
from .page import facts, findings, page, section, texts
from .table import Column, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..opening.rescue_report import Extent, RescueReport
    from .markup import Markup
    from .table import Cell

SOURCES = {
    "checkpoint": ("h4", "as trained"),
    "module": ("k3", "in 16 bits, from the second copy of the weights"),
    "fill": ("k4", "from another checkpoint or model"),
    "zeros": ("k7", "lost, written as zeros"),
    "nowhere": ("lost", "lost, so not written"),
}
"""Source -> class of its colour, and words."""
OUTSIDE = "outside"


def rescue_page(report: RescueReport, output: str | None = None) -> str:
    """The page. `output`: the directory that was written."""
    exact = report.percent("checkpoint")
    return page(
        f"Rescued from {report.tag}" + (f": {output}" if output else ""),
        tag("p", f"{exact:.1f} % of the values are as trained.", class_=f"lead {'good' if exact == 100 else 'bad'}"),
        section("Lost files", findings([f"{name}: {why}" for name, why in report.lost_files.items()])),
        section("Where the values came from", facts(_shares(report.by_source, report.numel)), _layers(report.tensors)),
        section("Not written", texts(report.not_written)),
        *(
            section(
                f"State {state}",
                facts(_shares(found.by_source, report.numel)),
            )
            for state, found in report.states.items()
        ),
        section(
            "Tensors",
            table(f"{counted(len(report.tensors), 'tensor')}", _COLUMNS, _rows(report)),
            id_="tensors",
        ),
    )


def _shares(by_source: Mapping[str, int], numel: int) -> list[tuple[str, str]]:
    return [
        (f"{100 * count / max(numel, 1):.1f} %", f"{SOURCES[source][1]}: {counted(count, 'element')}")
        for source, count in by_source.items()
        if count and source in SOURCES
    ]


def _layers(tensors: Mapping[str, Sequence[Extent]]) -> Markup:
    """For each layer, shares of the sources."""
    sums: dict[str, dict[str, int]] = {}
    for name, extents in tensors.items():
        place = sums.setdefault(layer_of(name) or OUTSIDE, dict.fromkeys(SOURCES, 0))
        for extent in extents:
            place[extent.source] = place.get(extent.source, 0) + extent.stop - extent.start
    sums.setdefault(OUTSIDE, {})
    layers = sorted(sums, key=lambda layer: layer == OUTSIDE)
    stacked = [
        [
            Slice(style, f"{layer}: {100 * count / total:.1f} % {words}", count / total)
            for source, (style, words) in SOURCES.items()
            if (count := sums[layer].get(source, 0))
        ]
        for layer in layers
        if (total := max(sum(sums[layer].values()), 1))
    ]
    used = [source for source in SOURCES if any(place.get(source) for place in sums.values())]
    description = f"Shares of each layer's values by source, for {counted(len(layers), 'column')}."
    return figure(
        stacks(
            "Sources by layer",
            description,
            [layer.rpartition(".")[2] for layer in layers],
            stacked,
            "layer",
            "100 %",
            apart=True,
        ),
        f"Shares of the values of each layer; {OUTSIDE}: what belongs to none.",
        legend([SOURCES[source] for source in used]),
    )


_COLUMNS = (Column("tensor"), Column("elements", True), Column("as trained", True), Column("sources"))


def _rows(report: RescueReport) -> list[list[Cell]]:
    return [_row(name, extents) for name, extents in report.tensors.items()]


def _row(name: str, extents: Sequence[Extent]) -> list[Cell]:
    numel = sum(extent.stop - extent.start for extent in extents)
    exact = sum(extent.stop - extent.start for extent in extents if extent.source == "checkpoint")
    sources = dict.fromkeys(SOURCES.get(extent.source, ("", extent.source))[1] for extent in extents)
    share = exact / numel if numel else 1.0
    return [name, (f"{numel:,}", numel), (f"{100 * share:.1f} %", share), "; ".join(sources)]
