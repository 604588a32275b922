"""Paths and options -> one checkpoint to plan an output from, with substitutes for what is lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..archive.places import looks_in
from ..options import refuse_unmatched, roots_of
from ..plan.patched import Patched
from ..plan.sources import placed, sources
from ..plan.states import MASTERS
from .open import find, open_catalog, open_files, open_files_incomplete

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..archive.raw import CheckpointFiles
    from ..catalog.facts import Catalog
    from ..options import Options, Roots, UniversalOptions, Working
    from ..plan.sources import Source
    from .rescue import Filler
    from .rescue_report import RescueReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint, and where each of its tensors is."""

    catalog: Catalog
    stored: Mapping[str, Source]
    """By stored name: the checkpoint's own, and with a rescue what stands in for lost parts."""
    whole: Mapping[str, Source]
    """Those of `stored` that are nothing but the checkpoint's own."""
    report: RescueReport | None
    """What stands in for what; None for a checkpoint that is whole."""
    filled_from: tuple[str, ...]
    """Files of other models and checkpoints that stand in for lost parts."""
    rescued_states: Mapping[str, Mapping[str, Source]] | None = None
    """With a rescue of what training goes on from: what :func:`.states.states` says of a whole checkpoint."""
    looks_beside: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    """What files of `--base` and of what it is filled from looked like before any was read."""
    members: tuple[Opened, ...] = ()
    """Of a mean of several checkpoints: each of them, the last is this one before the mean was taken."""

    @property
    def each(self) -> tuple[Opened, ...]:
        """The checkpoints that are read: this one, or those that the mean is of."""
        return self.members or (self,)

    @property
    def files(self) -> tuple[str, ...]:
        """Their files."""
        return tuple(file for opened in self.each for file in opened.catalog.files)

    @property
    def looks(self) -> dict[str, Mapping[str, int | str]]:
        """What files of this machine looked like before any was read."""
        return {
            path: look
            for opened in self.each
            for found in (opened.looks_beside, opened.catalog.looks)
            for path, look in found.items()
        }


def open_to_convert(src: Roots, options: Options, files: CheckpointFiles | None = None) -> Opened:
    """Open a checkpoint; with `options.rescue`, complete it as far as possible. `files`: what `find` returned, if it
    was called before.

    Raises what `open_catalog` raises, and BadOption if nothing can be rescued or an `include` matches nothing.
    """
    files = files or find(src, options.tag)
    if options.rescue:
        incomplete = open_files_incomplete(files, files_read=options.files_read)
        if incomplete.catalog.missing:
            from .substitutes import rescued  # a whole checkpoint does not pay for it

            stored, report, fillers = rescued(incomplete, roots_of(options.fill), zeros=options.rescue == "zeros")
            whole = {name: source for name, source in stored.items() if not isinstance(source.recipe, Patched)}
            return Opened(
                catalog=incomplete.catalog,
                stored=stored,
                whole=whole,
                report=report,
                filled_from=_files(fillers),
                looks_beside=_looks(fillers) | looks_in(options.base_directory),
            )

    def before(catalog: Catalog) -> None:
        # Names that come with a base model are not known yet.
        if options.base is None and options.lora != "merge":
            refuse_unmatched(options.include, catalog.order)

    opened = of_catalog(open_files(files, src, before=before, files_read=options.files_read))
    return replace(opened, looks_beside=looks_in(options.base_directory))


def open_to_resume(src: Roots, options: UniversalOptions, files: CheckpointFiles) -> Opened:
    """Open a checkpoint with all that its optimizer keeps; with `options.rescue`, complete it.

    Raises what `open_files` and `rescued_states` raise.
    """
    if options.rescue:
        incomplete = open_files_incomplete(files, files_read=options.files_read)
        catalog = incomplete.catalog
        if catalog.missing:
            from .substitutes import rescued_states

            by_state, report, fillers = rescued_states(incomplete, roots_of(options.fill))
            stored = placed(catalog) | by_state[MASTERS]
            return Opened(
                catalog=catalog,
                stored=stored,
                whole={name: source for name, source in stored.items() if not _is_lost(source)},
                report=report,
                filled_from=_files(fillers),
                looks_beside=_looks(fillers),
                rescued_states=by_state,
            )
    return of_catalog(open_files(files, src, verb="universal", files_read=options.files_read))


def _files(fillers: Sequence[Filler]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(file for filler in fillers for file in filler.files))


def _looks(fillers: Sequence[Filler]) -> dict[str, Mapping[str, int | str]]:
    return {path: look for filler in fillers for path, look in filler.looks.items()}


def _is_lost(source: Source) -> bool:
    """Whether a tensor is not the checkpoint's own, or not all of it."""
    from .losses import gaps

    return isinstance(source.recipe, Patched) or bool(gaps(source.recipe))


def open_whole(src: Roots, options: Working) -> Opened:
    """Open a checkpoint of which nothing is lost. Raises what `find` and `open_files` raise."""
    return of_catalog(open_catalog(src, options.tag, files_read=options.files_read))


def of_catalog(catalog: Catalog) -> Opened:
    """Of a whole checkpoint."""
    stored = sources(catalog)
    return Opened(catalog=catalog, stored=stored, whole=stored, report=None, filled_from=())
