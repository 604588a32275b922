"""What an output consists of, whatever its kind, and what must be true before it gets its final name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..dtypes import DType
    from ..opening.opened import Opened
    from ..plan.build import ModelPlan
    from ..plan.witness import Comparison
    from ..run.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFiles:
    """The small files of an output, beside its weights."""

    copies: dict[str, str]
    """Output name -> path of the file it is a copy of."""
    made: dict[str, bytes]
    """Output name -> content."""
    notes: tuple[str, ...]
    """What was changed or decided."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Values of an output that were recomputed."""

    checks: tuple[str, ...]
    """What was found right, in words."""
    not_checked: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(ABC):
    """A planned output. Each kind says what lies beside its weights; :func:`.make.make` writes any of them."""

    plan: ModelPlan
    """The weights."""
    dtype: DType
    """What floating-point parameters are written as."""
    names: str
    """What was decided about names, and how they compare with what a loader expects."""
    names_change: str
    """What was done to the names of the checkpoint; empty if nothing."""
    ties: Mapping[str, str]
    """Names that are not written, because their tensor is under another -> that one."""
    read_files: tuple[str, ...]
    """Files outside of the checkpoint that decide what is written, those of `side_files` not counted."""
    comparisons: tuple[Comparison, ...]
    """What must be equal before anything is written, beside the checkpoint's own masters and copies."""
    from_base: int
    """Tensors that the base model's weights supply."""
    left_behind: tuple[str, ...]
    """Entries of the checkpoint that are not part of the output."""
    missing: tuple[str, ...]
    """What a loader will miss."""
    notes: tuple[str, ...]
    """What was decided on the way."""
    warnings: tuple[str, ...]
    not_checked: tuple[str, ...]
    """What nothing could tell."""

    @abstractmethod
    def side_files(self, inputs: Inputs) -> SideFiles:
        """Everything beside the weights, read, edited or made again, but for the manifest."""

    def recomputed(self, _opened: Opened, _path: Callable[[str], str]) -> Recomputed:
        """What the staged files say, against the sources by another route than the plan's. `_path`: of a staged file.

        Nothing for what is only copied: that is checked byte by byte of the plan. Raises WitnessMismatch.
        """
        return Recomputed(checks=(), not_checked=())

    @abstractmethod
    def load_line(self, directory: str, side_files: SideFiles) -> str:
        """The line of Python that loads what was written into `directory`."""

    @property
    @abstractmethod
    def published_last(self) -> Sequence[str]:
        """Names of files that become visible after all others, in this order: a loader begins with them."""
