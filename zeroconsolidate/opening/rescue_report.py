"""`rescue-report.json`: for every tensor of a rescued model, which of its elements came from where."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Origin as CheckpointOrigin
    from .rescue import Rescued


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Elements `[start, stop)` of a tensor, counted in row-major order, and where they are from."""

    start: int
    """The first element."""
    stop: int
    """The element after the last."""
    source: str
    """`checkpoint`: its own master weights, frozen parameters and buffers. `module`: the copy in 16 bits beside the
    masters. `fill`: a model given to fill with. `zeros`. `nowhere`: the tensor was not written."""
    dtype: str
    """Of the values before any cast to the output's dtype, in torch's spelling."""
    step: int | None
    """The training step of the values, None if it is not known."""
    directory: str | None
    """For `fill`: of which model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueReport:
    """What became of an incomplete checkpoint. Counts are elements."""

    tag: str
    """The checkpoint's folder that was read."""
    step: int | None
    """The training step."""
    lost_files: Mapping[str, str]
    """File -> why it could not be used."""
    numel: int
    """Of all tensors together, ties counted once."""
    by_source: Mapping[str, int]
    """Source (see :class:`Extent`) -> elements from there."""
    not_written: tuple[str, ...]
    """Tensors that nothing stood in for."""
    tensors: Mapping[str, tuple[Extent, ...]]
    """Every tensor, those that are whole included."""

    def percent(self, source: str) -> float:
        """The share of all elements that came from `source`."""
        return 100 * self.by_source.get(source, 0) / max(self.numel, 1)

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"percent": {source: round(self.percent(source), 3) for source in self.by_source}}

    def to_json(self) -> bytes:
        """The file's text, one tensor a line."""
        content = self.to_dict()
        tensors = content.pop("tensors")
        head = json.dumps(content, indent=2)[:-2]
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in _items(tensors))
        return f'{head},\n  "tensors": {{\n{lines}\n  }}\n}}\n'.encode()


def rescue_report(origin: CheckpointOrigin, reasons: Mapping[str, str], rescued: Sequence[Rescued]) -> RescueReport:
    """Sum a rescue up."""
    by_source = dict.fromkeys(("checkpoint", "module", "fill", "zeros", "nowhere"), 0)
    for tensor in rescued:
        for part in tensor.origins:
            by_source[part.source] += part.stop - part.start
    return RescueReport(
        tag=origin.tag,
        step=origin.step,
        lost_files=dict(reasons),
        numel=sum(by_source.values()),
        by_source=by_source,
        not_written=tuple(tensor.name for tensor in rescued if tensor.source is None),
        tensors={
            tensor.name: tuple(
                Extent(
                    start=part.start,
                    stop=part.stop,
                    source=part.source,
                    dtype=part.dtype.torch_name,
                    step=part.step,
                    directory=part.label,
                )
                for part in tensor.origins
            )
            for tensor in rescued
        },
    )


def _items(mapping: object) -> list[tuple[str, object]]:
    return list(mapping.items()) if isinstance(mapping, dict) else []
