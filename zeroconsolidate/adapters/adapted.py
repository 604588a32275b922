"""What a planned output of an adapter run needs besides its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.witness import Comparison
    from .task import TrainedAs


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What goes with the weights of an adapter run."""

    is_adapter: bool
    """Whether the output is one or several PEFT adapters, not a model."""
    is_wrapped: bool
    """Whether the trainer had wrapped something around the PEFT model."""
    config_files: Mapping[str, str]
    """Output name -> path of an adapter's configuration."""
    files: tuple[str, ...]
    """Files outside of the checkpoint that decide what is written."""
    adapter_files: Mapping[str, str]
    """Adapter -> the path of its configuration, in the order in which they are merged."""
    folders: tuple[str, ...]
    """Entries of the checkpoint that belong to its adapters."""
    ties: Mapping[str, str]
    """Names that are not written, because their tensor is written under another name -> that name."""
    untied: bool
    """Whether the model's configuration must say that the embeddings are no longer tied."""
    comparisons: tuple[Comparison, ...]
    """The original model against its frozen copy in the checkpoint."""
    notes: tuple[str, ...]
    """What was decided and why, for the report."""
    kinds: str
    """The adapters in words: `default (LORA)`."""
    trained_as: TrainedAs | None = None
    """For a merge into a base model: the class that the output is for."""
    rows: int | None = None
    """The vocabulary size that the model's configuration must state, if it states another."""
    warnings: tuple[str, ...] = ()
    of_members: tuple[Mapping[str, str], ...] = ()
    """Of a mean of merged models: the `adapter_files` of each."""
    not_checked: tuple[str, ...] = ()
    """What could not be checked, and why."""
