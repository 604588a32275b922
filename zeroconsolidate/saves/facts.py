"""What is known of one save, and of all saves of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..opening.resume import Resume


class Writer(Enum):
    """What saved, as it is called in texts."""

    TRAINER = "the Hugging Face Trainer"
    ACCELERATE = "accelerate"
    LIGHTNING = "Lightning"
    DEEPSPEED = "DeepSpeed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of one save, from names and sizes alone."""

    name: str
    """The folder in the run directory, or the tag."""
    paths: tuple[str, ...]
    """The directories that hold the tag: several if nodes saved to their own disks."""
    tag: str | None
    """DeepSpeed's folder in them; None if there is none, or none with DeepSpeed's files in it."""
    is_tag: bool
    """Whether the save is one of the tags of a folder, and not a folder of its own."""
    latest: str | None
    """What the file `latest` says."""
    states: Mapping[str, int]
    """DeepSpeed's files in the tag: size in bytes by name."""
    beside: Mapping[str, int]
    """Files beside the tag, likewise."""
    changed_ns: int
    """When the newest of these files was written, as its file system says."""
    identities: tuple[str, ...] = ()
    """In a store, what tells each of these files from another one in its place: it says no times."""

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal as long as nothing is written to the save."""
        found = (self.tag, self.latest, self.changed_ns, tuple(self.states.items()), tuple(self.beside.items()))
        return (*found, self.identities) if self.identities else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What the metadata in the files of a save says. Nothing of it is known for saves that were not opened."""

    missing: Mapping[str, str]
    """File of DeepSpeed -> why it cannot be used."""
    problem: str | None
    """Why the save cannot be read at all."""
    step: int | None
    ranks: int | None
    """Processes that saved."""
    has_scheduler: bool
    """Whether DeepSpeed saved the state of a scheduler."""
    is_lightning: bool
    """Whether Lightning's state is in it."""
    best: str | None
    """The best checkpoint so far, as Lightning's callback knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveInfo:
    """One save of a training run.

    Attributes
    ----------
    name : str
        The folder in the run directory, such as `checkpoint-500`, or the tag.
    path : str
        The directory to give to `consolidate`.
    paths : tuple[str, ...]
        The same, with those of other nodes, if they saved to their own disks.
    tag : str | None
        DeepSpeed's folder in it, such as `global_step500`.
    step : int | None
        The training step, as the name or the metadata says it.
    saved_at : float
        When its newest file was written, in seconds since 1970, as its file system says.
    saved_by : str
        What saved it: `the Hugging Face Trainer`, `accelerate`, `Lightning` or `DeepSpeed`.
    ranks : int | None
        Number of ranks that saved it.
    checked : str
        What this is known from: `metadata` in the files, or `names` and sizes, for older saves.
    complete : bool
        Whether all files with weights and optimizer state are there.
    missing : Mapping[str, str]
        Why each of DeepSpeed's files that is missing or damaged cannot be used, by name.
    lacks : tuple[str, ...]
        What else a training needs to resume exactly, and is not there.
    resumable : bool
        Whether a training can resume from it, though perhaps with other random numbers.
    whole : bool
        Whether a training can resume from it exactly: it is complete and lacks nothing.
    has_weights : bool
        Whether it has the weights of the model, so that it can be converted or loaded.
    model_bytes : int
        Size of DeepSpeed's model files.
    optimizer_bytes : int
        Size of its optimizer files, which also hold the master weights.
    converted : tuple[str, ...]
        Models it has been converted to, among those that were searched.
    resume_line : str
        What to type or to pass to resume from it.
    use

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.inspect_run("tests/fixtures/trainer_zero3_tied/checkpoint").newest.whole
    True
    """

    name: str
    path: str
    paths: tuple[str, ...]
    tag: str | None
    step: int | None
    saved_at: float
    saved_by: str
    ranks: int | None
    checked: str
    complete: bool
    missing: Mapping[str, str]
    lacks: tuple[str, ...]
    resumable: bool
    whole: bool
    has_weights: bool
    model_bytes: int
    optimizer_bytes: int
    converted: tuple[str, ...]
    resume_line: str

    @property
    def use(self) -> str:
        """What it is good for."""
        return "resume" if self.resumable else "weights" if self.has_weights else "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The saves of a training run.

    :func:`zeroconsolidate.inspect_run` returns it.

    Attributes
    ----------
    root : str
        The run directory.
    saves : tuple[SaveInfo, ...]
        All saves, the oldest first.
    latest : str | None
        For a folder of tags, the tag that the file `latest` names.
    best : str | None
        The save that was best when the newest was written, as the trainer knows it.
    resume : Resume
        Whether a training can resume, and from which save.
    newest
    last_complete

    Examples
    --------
    >>> import zeroconsolidate
    >>> len(zeroconsolidate.inspect_run("tests/fixtures/trainer_zero3_tied/checkpoint").saves)
    1
    """

    root: str
    saves: tuple[SaveInfo, ...]
    latest: str | None
    best: str | None
    resume: Resume

    @property
    def newest(self) -> SaveInfo:
        """The newest save."""
        return self.saves[-1]

    @property
    def last_complete(self) -> SaveInfo | None:
        """The newest save whose weights and optimizer state are complete; None if there is none."""
        return next((save for save in reversed(self.saves) if save.complete), None)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        saves = [asdict(save) | {"use": save.use} for save in self.saves]
        return asdict(self) | {"saves": saves, "resume": asdict(self.resume) | {"text": self.resume.text}}
