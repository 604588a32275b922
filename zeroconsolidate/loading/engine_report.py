"""What was put into a live engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .report import LoadReport

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport(LoadReport):
    """What was loaded into an engine, and what its program goes on with.

    :func:`zeroconsolidate.load_into_engine` returns it, on every rank the same.

    Attributes
    ----------
    loaded : int
        Tensors that were written, a tied weight once; what the optimizer keeps of them is not counted.
    missing : tuple[str, ...]
        Names of the engine that the source does not have; they keep the values they had.
    unexpected : tuple[str, ...]
        Names of the source that the engine does not have.
    notes : tuple[str, ...]
        What was decided or changed on the way.
    step : int | None
        The engine's step (`global_steps`) at which the checkpoint was saved.
    client_state : Mapping[str, Any]
        What the program gave `save_checkpoint` to keep: plain values, containers of them, and tensors.

    Examples
    --------
    >>> EngineReport(loaded=1, missing=(), unexpected=(), step=2).complete
    True
    """

    step: int | None = None
    client_state: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON, without the client state.

        Returns
        -------
        dict
            The fields by name.
        """
        return {key: value for key, value in asdict(self).items() if key != "client_state"} | {
            "complete": self.complete
        }
