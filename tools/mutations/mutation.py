"""What a mutation is: a protection, the text that makes it, the text that does without, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in a file of the package."""

    file: str
    """Path inside `zeroconsolidate/`."""
    old: str
    """Occurs exactly once."""
    new: str


class Mutation:
    """A protection taken out."""

    def __init__(self, protection: str, tests: str, *edits: tuple[str, str, str]) -> None:
        self.protection = protection
        """In words: what no longer holds."""
        self.tests = tuple(f"tests/{test}" for test in tests.split())
        """Node ids of pytest, at least one of which must fail."""
        self.edits = tuple(Edit(*edit) for edit in edits)
