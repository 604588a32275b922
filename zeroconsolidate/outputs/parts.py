"""A planned output -> one part of its weights in the staging folder. :func:`.make.make` finishes what parts made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..errors import BadOption, at
from ..plan.fragment import FragmentPlan
from ..plan.stretches import share_of
from ..run.counts import Counts
from ..run.execute import execute, extents_of
from ..run.inputs import Inputs, side_by_side
from ..run.page_cache import kept_instead
from ..write.fingerprint import refuse_changed
from ..write.portion import start_over
from ..write.staging import grid_of, portion_of
from .prepared import prepared, refuse_what_would_not_load
from .sharing import means_of
from .weights import make_fragment, shifted, workers_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..opening.opened import Opened
    from ..options import Writing
    from ..plan.layout import FilePlan
    from ..plan.stretches import Part as Number
    from ..plan.stretches import Stretch
    from ..write.part import Part
    from ..write.uploads import SentPart
    from .output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What the command for one part of a conversion has written.

    :func:`zeroconsolidate.consolidate_part` returns it.

    Attributes
    ----------
    output : str
        The directory that the output will be in.
    part : int
        Which part it is, from 1 on.
    parts : int
        How many there are.
    files : dict[str, tuple[int, int]]
        The part's share of each file of weights, by name: its first byte, and that behind its last.
    bytes_written : int
        Bytes of the part.
    total_bytes : int
        Bytes of all parts.
    resumed_bytes : int
        Those of `bytes_written` that an earlier, interrupted run of this part had written.
    seconds : float
        How long it took.
    missing : tuple[str, ...]
        What a loader will not find in the output.
    warnings : tuple[str, ...]
        What may be wrong with the output.

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = zeroconsolidate.consolidate_part("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model", "1/1")
    >>> report.part, report.parts, report.bytes_written == report.total_bytes
    (1, 1, True)
    """

    output: str
    part: int
    parts: int
    files: dict[str, tuple[int, int]]
    bytes_written: int
    total_bytes: int
    resumed_bytes: int
    seconds: float
    missing: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name.
        """
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePart:
    """The result of writing a part."""

    share: tuple[Stretch, ...]
    resumed_bytes: int
    warnings: tuple[str, ...]


def refuse_restart(options: Writing) -> None:
    """Refuse to start over: it would throw away what other parts have written. Raises BadOption."""
    if options.restart:
        raise BadOption(
            "a part cannot start all parts over with --restart",
            remedy="when none is being written, remove the folder .zeroconsolidate in the output, and write all again",
        )


def make_part(output: Output, opened: Opened, options: Writing, directory: str, part: Number) -> MadePart:
    """Write one part of the weights into the staging folder. An interrupted run of the same part is continued.

    Values are compared, and files that are no weights written, by whoever finishes. Raises OutputExists, OutputBusy,
    OutputFailed, BadOption if another conversion is staged there, and what the last check of an output raises if its
    loader would not load it.
    """
    plan = output.plan
    files = {file.name: file for file in plan.all_files}
    share = share_of(plan.all_files, part, grid_of(directory))
    with Inputs(drop_cache=options.drop_cache, known=opened.looks) as inputs:
        side_files, traits = prepared(output, opened, options, inputs, parts=part.count)
        sizes = {file.name: file.size_bytes for file in plan.all_files}
        with portion_of(directory, part, sizes=sizes, overwrite=options.overwrite, fingerprint=traits) as portion:
            portion.need(plan.sizes, cloned_bytes=plan.cloned_bytes)
            refuse_what_would_not_load(portion.own_folder, output, side_files, opened)
            resumed = portion.resumed_bytes
            resumed_bytes = sum(resumed.get(stretch.file, stretch.start) - stretch.start for stretch in share)
            before, total = 0, sum(stretch.nbytes for stretch in share)
            means = means_of(plan, options)
            options.doing("copying")
            with side_by_side(inputs, workers_for(plan, options)) as several:
                for stretch in share:
                    if not portion.is_done(stretch):
                        progress = shifted(options.progress, before - stretch.start, total)
                        with at(stretch.file), portion.weights(stretch, means=means) as place:
                            _make(files[stretch.file], stretch, several, place, progress)
                    before += stretch.nbytes
            refuse_changed(traits, start_over=start_over(portion.folder), places=options.places)
    warnings = (*output.warnings, *side_files.warnings, *kept_instead(asked=options.drop_cache))
    return MadePart(share=share, resumed_bytes=resumed_bytes, warnings=warnings)


def _make(
    file: FilePlan,
    stretch: Stretch,
    inputs: tuple[Inputs, ...],
    place: Part | SentPart,
    progress: Callable[[int], None],
) -> None:
    def reached(upto: int) -> None:
        place.reached(upto)
        progress(upto)

    counts = Counts.kept_in(place.facts)
    first, *others = inputs
    if isinstance(file, FragmentPlan):
        make_fragment(file, first, place.output, place.start, counts, reached)
    else:
        with first.files.expecting(extents_of(file, place.start, stretch.stop)):
            execute(
                file,
                first,
                place.output,
                start=place.start,
                stop=stretch.stop,
                counts=counts,
                reached=reached,
                others=others,
            )
