"""Paths and options -> a mapping of a checkpoint's tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..opening.info import describe
from ..opening.losses import gaps, losses
from ..opening.open import find, open_files, open_files_incomplete
from ..opening.opened import Opened, of_catalog
from ..outputs.named import planned_tensors, stored_tensors, ties_of
from ..plan.sources import placed
from .checkpoint import Checkpoint

if TYPE_CHECKING:
    from ..options import ReadingOptions, Roots


def opened_mapping(src: Roots, options: ReadingOptions) -> Checkpoint:
    """What `open_checkpoint` returns. Raises what it raises."""
    files = find(src, options.tag)
    left = open_files_incomplete(files) if options.rescue else None
    if left is None or not left.catalog.missing:
        opened = of_catalog(open_files(files, src))
        info = describe(opened.catalog)
    else:
        whole = {name: source for name, source in placed(left.catalog).items() if not gaps(source.recipe)}
        opened = Opened(catalog=left.catalog, stored=whole, whole=whole, report=None, filled_from=())
        info = describe(left.catalog, left.reasons)
    is_planned = options.names != "stored" or options.lora is not None
    tensors = planned_tensors(opened, options) if is_planned else stored_tensors(opened)
    return Checkpoint(
        opened,
        tensors,
        info=info,
        names=options.names,
        ties=ties_of(tensors) if is_planned else dict(opened.catalog.ties),
        base=options.base,
        losses=losses(opened.catalog) if opened.catalog.missing else (),
    )
