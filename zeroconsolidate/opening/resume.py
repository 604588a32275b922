"""The answer to: can I resume, and from where?"""

from __future__ import annotations

from dataclasses import dataclass

LAST_COMPLETE = "last-complete"
"""In place of a tag or a step: the newest save whose files are all there and agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Whether a training can resume, and from which save.

    Attributes
    ----------
    newest : str
        The newest save: a folder such as `checkpoint-500`, or a tag such as `global_step500`.
    newest_whole : bool
        Whether the newest save has all that a training needs to go on as if it had not stopped: model, optimizer,
        scheduler, random numbers and the trainer's own state.
    save : str | None
        The newest save that is whole, or else the newest from which a training can resume at all. None if there is
        none.
    whole : bool
        Whether `save` is whole.
    line : str | None
        What to type or to pass, such as `resume_from_checkpoint=run/checkpoint-500`.
    remarks : tuple[str, ...]
        What is missing from the newest save, and what the file `latest` says against what is there.
    text

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.inspect_run("tests/fixtures/trainer_zero3_tied/checkpoint").resume.newest_whole
    True
    """

    newest: str
    newest_whole: bool
    save: str | None
    whole: bool
    line: str | None
    remarks: tuple[str, ...]

    @property
    def text(self) -> str:
        """The answer in one line."""
        if self.save is None:
            return f"no: {'; '.join(self.remarks)}"
        if self.save == self.newest:
            answer = f"yes: {self.line}" if self.whole else f"not exactly: {self.line}"
        else:
            answer = f"from {self.save}: {self.line}"
        return "; ".join((answer, *self.remarks))
