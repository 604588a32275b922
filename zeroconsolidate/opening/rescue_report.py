"""The sources of a rescued model's elements -> `rescue-report.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Origin as CheckpointOrigin
    from .rescue import Rescued


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Consecutive elements of a tensor, in row-major order, and where they came from.

    Attributes
    ----------
    start : int
        The first element.
    stop : int
        The element after the last.
    source : str
        `checkpoint`: the checkpoint's master weights, frozen parameters and buffers. `module`: the 16-bit copy of a
        master weight in the model file. `fill`: a model given with `fill`. `zeros`: nothing had the values, so zeros
        were written. `nowhere`: nothing had the values, and the tensor was not written.
    dtype : str
        The dtype of the values before any cast to the output's dtype, as torch spells it.
    step : int | None
        The training step of the values, None if it is not known.
    directory : str | None
        For `fill`, the directory of that model.
    """

    start: int
    stop: int
    source: str
    dtype: str
    step: int | None
    directory: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RescuedState:
    """Where the values came from that an optimizer keeps of each element.

    Attributes
    ----------
    by_source : Mapping[str, int]
        Elements by source; `Extent` lists the sources.
    tensors : Mapping[str, tuple[Extent, ...]]
        By parameter, where the elements came from.
    """

    by_source: Mapping[str, int]
    tensors: Mapping[str, tuple[Extent, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueReport:
    """Where every value of a rescued model, or of a rescued universal checkpoint, came from.

    It is the content of `rescue-report.json`. Counts are elements.

    Attributes
    ----------
    tag : str
        The folder of the checkpoint that was read.
    step : int | None
        The training step, None if the checkpoint does not say.
    lost_files : Mapping[str, str]
        Why each of the lost files could not be used, by file.
    numel : int
        Elements of all tensors together; a tied parameter counts once.
    by_source : Mapping[str, int]
        Elements by source; `Extent` lists the sources.
    not_written : tuple[str, ...]
        Tensors that were not written, because nothing had the values that are lost of them.
    tensors : Mapping[str, tuple[Extent, ...]]
        Where the elements of each tensor came from, including tensors that have lost nothing. Of a
        universal checkpoint: the master weights.
    states : Mapping[str, RescuedState]
        Of a universal checkpoint: the same of what the optimizer keeps, by state such as `exp_avg`.

    Examples
    --------
    >>> import os, shutil, tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = shutil.copytree("tests/fixtures/z2_w4/checkpoint", f"{folder}/run")
    ...     os.unlink(f"{run}/global_step2/bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt")
    ...     report = zeroconsolidate.consolidate(run, f"{folder}/model", rescue=True)
    >>> [source for source, count in report.rescue.by_source.items() if count]
    ['checkpoint', 'module']
    """

    tag: str
    step: int | None
    lost_files: Mapping[str, str]
    numel: int
    by_source: Mapping[str, int]
    not_written: tuple[str, ...]
    tensors: Mapping[str, tuple[Extent, ...]]
    states: Mapping[str, RescuedState]

    def percent(self, source: str) -> float:
        """Return the share of all elements that came from a source.

        Parameters
        ----------
        source : str
            One of the keys of `by_source`.

        Returns
        -------
        float
            0 to 100.
        """
        return 100 * self.by_source.get(source, 0) / max(self.numel, 1)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        return asdict(self) | {"percent": {source: round(self.percent(source), 3) for source in self.by_source}}

    def to_json(self) -> bytes:
        """Return the content of `rescue-report.json`.

        Returns
        -------
        bytes
            JSON with one line for each tensor.
        """
        content = self.to_dict()
        tensors, states = content.pop("tensors"), content.pop("states")
        head = json.dumps(content, indent=2)[:-2]
        kept = ",\n".join(
            f'    {json.dumps(state)}: {{\n      "by_source": {json.dumps(found["by_source"])},\n'
            f'      "tensors": {{\n{_lines(found["tensors"], 8)}\n      }}\n    }}'
            for state, found in _items(states)
        )
        states = f"{{\n{kept}\n  }}" if kept else "{}"
        return f'{head},\n  "tensors": {{\n{_lines(tensors, 4)}\n  }},\n  "states": {states}\n}}\n'.encode()


def rescue_report(
    origin: CheckpointOrigin,
    reasons: Mapping[str, str],
    rescued: Sequence[Rescued],
    states: Mapping[str, Sequence[Rescued]] = MappingProxyType({}),
) -> RescueReport:
    """The report of a rescue. `states`: of what an optimizer keeps, by state."""
    by_source = _by_source(rescued)
    return RescueReport(
        tag=origin.tag,
        step=origin.step,
        lost_files=dict(reasons),
        numel=sum(by_source.values()),
        by_source=by_source,
        not_written=tuple(tensor.name for tensor in rescued if tensor.source is None),
        tensors=_extents(rescued),
        states={
            state: RescuedState(by_source=_by_source(found), tensors=_extents(found)) for state, found in states.items()
        },
    )


def _by_source(rescued: Sequence[Rescued]) -> dict[str, int]:
    by_source = dict.fromkeys(("checkpoint", "module", "fill", "zeros", "nowhere"), 0)
    for tensor in rescued:
        for part in tensor.origins:
            by_source[part.source] += part.stop - part.start
    return by_source


def _extents(rescued: Sequence[Rescued]) -> dict[str, tuple[Extent, ...]]:
    return {
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
    }


def _lines(tensors: object, indent: int) -> str:
    """JSON with one line for each tensor."""
    return ",\n".join(f"{' ' * indent}{json.dumps(name)}: {json.dumps(value)}" for name, value in _items(tensors))


def _items(mapping: object) -> list[tuple[str, Any]]:
    return list(mapping.items()) if isinstance(mapping, dict) else []
