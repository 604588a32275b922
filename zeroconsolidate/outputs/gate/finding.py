"""The result of the last check: what is wrong, what was compared, what could not be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(Enum):
    """What is wrong."""

    FILE = "a file cannot be read, or contradicts another"
    MISSING = "a parameter that the loader expects is not there"
    UNEXPECTED = "a tensor that the loader would ignore"
    SHAPE = "a tensor in another shape than the loader expects"
    DTYPE = "integers in the place of floating-point numbers"
    CONFIG = "the config says something else than the weights"
    EMPTY = "a tensor without elements in the place of weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, in words that name file and tensor."""

    kind: Kind
    text: str
    module: str = ""
    """Of an adapter: the module that PEFT itself has put into its configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The result of comparing a directory with what its loader expects."""

    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    """What was compared."""
    unchecked: tuple[str, ...] = ()
    """What could not be compared, and why."""
    extra: tuple[str, ...] = ()
    """Names that the model's loader ignores and another program reads, such as a value head."""

    @classmethod
    def all_of(cls, results: Sequence[GateResult]) -> GateResult:
        """Several results as one."""
        return cls(
            findings=tuple(finding for result in results for finding in result.findings),
            checked=tuple(text for result in results for text in result.checked),
            unchecked=tuple(text for result in results for text in result.unchecked),
            extra=tuple(name for result in results for name in result.extra),
        )
