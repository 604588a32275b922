"""The result of a verification, while it is made and when it is finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

Advance = Callable[[int], None]
"""Called with the number of bytes that have been read since the last call."""
NOT_WHOLE = "only part of a model"
"""How a note about missing parts of a model begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was checked, and what is wrong.

    :func:`zeroconsolidate.verify` and :func:`zeroconsolidate.verify_source` return it.

    Attributes
    ----------
    subject : str
        The directory that was checked.
    checks : tuple[str, ...]
        What was checked, in words.
    problems : tuple[str, ...]
        What is wrong; empty if nothing is.
    notes : tuple[str, ...]
        What could not be checked, and what is unusual without being wrong.
    files : int
        Files that were read.
    tensors : int
        Tensors in them.
    bytes_read : int
        Bytes that were read or compared.
    seconds : float
        How long it took.
    unread : tuple[str, ...]
        With `subset`: the tensors, or files, whose values were not read.
    compared : dict[str, str]
        With `against`: by tensor, what was found: `=` equal, `*` other values, `+` only in the output, `-` only in the
        checkpoint, `!` another shape or dtype, or not readable, `?` not read.
    nonfinite : dict[str, tuple[int, int]]
        Number of NaN and of infinite elements, by tensor, for tensors that have any.
    ok
    gb_per_second

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.verify_source("tests/fixtures/z3_bf16/checkpoint").problems
    ()
    """

    subject: str
    checks: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    files: int
    tensors: int
    bytes_read: int
    seconds: float
    unread: tuple[str, ...]
    compared: dict[str, str]
    nonfinite: dict[str, tuple[int, int]]

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def gb_per_second(self) -> float:
        """Gigabytes (10**9 bytes) read per second."""
        return self.bytes_read / max(self.seconds, 1e-9) / 1e9

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        return asdict(self) | {"ok": self.ok, "gb_per_second": round(self.gb_per_second, 3)}


@dataclass(slots=True)
class Findings:
    """Findings while they are being made."""

    advance: Advance
    checks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    tensors: int = 0
    bytes_read: int = 0
    unread: tuple[str, ...] = ()
    compared: dict[str, str] = field(default_factory=dict)
    nonfinite: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, size_bytes: int) -> None:
        """Count bytes that have been read."""
        self.bytes_read += size_bytes
        self.advance(size_bytes)

    def verification(self, subject: str, seconds: float) -> Verification:
        """The finished result."""
        return Verification(
            subject=subject,
            checks=tuple(self.checks),
            problems=tuple(self.problems),
            notes=tuple(self.notes),
            files=self.files,
            tensors=self.tensors,
            bytes_read=self.bytes_read,
            seconds=seconds,
            unread=self.unread,
            compared=self.compared,
            nonfinite=self.nonfinite,
        )
