"""What an output consists of, whatever its kind, and what must be true before it gets its final name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..plan.sources import replicas
from .gate.examine import Excuses, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from ..opening.opened import Opened
    from ..plan.build import ModelPlan
    from ..plan.joins import Replica
    from ..plan.witness import Comparison
    from ..run.inputs import Inputs
    from .gate.finding import GateResult


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
    """A planned output. Each kind says which files are beside its weights; :func:`.make.make` writes any of them."""

    plan: ModelPlan
    """The weights."""
    dtype: DType
    """What floating-point parameters are written as."""
    names: str
    """What was decided about names, and how they compare with what a loader expects."""
    names_change: str
    """What was done to the names of the checkpoint; empty if nothing."""
    ties: Mapping[str, str]
    """Names that are not written, because their tensor is written under another name -> that name."""
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
    """What could not be checked, and why."""

    @abstractmethod
    def side_files(self, inputs: Inputs) -> SideFiles:
        """All files beside the weights, except for the manifest: copied, edited or made."""

    def replicas(self, catalog: Catalog) -> list[Replica]:
        """What the checkpoint holds more than once, of all that the output is made of."""
        return replicas(catalog)

    def recomputed(self, _opened: Opened, _path: Callable[[str], str]) -> Recomputed:
        """Compare the staged files with values computed from the sources in another way than the plan's.

        `_path`: of a staged file. Tensors that are only copied are not compared: the plan accounts for each of their
        bytes. Raises WitnessMismatch.
        """
        return Recomputed(checks=(), not_checked=())

    @property
    def has_preview(self) -> bool:
        """Whether headers and small files alone show what a loader would not find, before values are copied."""
        return True

    def examined(self, directory: str) -> GateResult:
        """What the program that loads the output would not find in a directory that holds it."""
        return examine(directory)

    def excuses(self, _opened: Opened) -> Excuses:
        """What of it was asked for."""
        return Excuses()

    @abstractmethod
    def load_line(self, directory: str, side_files: SideFiles) -> str:
        """The line of Python that loads what was written into `directory`."""

    @property
    @abstractmethod
    def published_last(self) -> Sequence[str]:
        """Names of files that become visible after all others, in this order: a loader begins with them."""
