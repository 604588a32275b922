"""What exists twice (master weights, replicas, a base) -> an error if the two differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..errors import UnsupportedLayout
from ..plan.witness import comparisons, replica_comparisons
from ..run.inputs import side_by_side, threads_for
from ..write.journal import Checks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalog.facts import Catalog
    from ..opening.opened import Opened
    from ..options import Writing
    from ..run.inputs import Inputs
    from ..write.staging import Staging
    from .output import Output


def checked(output: Output, opened: Opened, inputs: Inputs, stage: Staging, options: Writing) -> Checks:
    """Compare what should be equal, unless an earlier run of the same conversion did.

    Raises WitnessMismatch where values differ that must be equal, Disagreement where ranks hold different copies.
    """
    how = f"{options.check}, {options.replicas}"
    known = stage.checks
    if known is not None and known.how == how:
        return known
    with side_by_side(inputs, threads_for(options.workers)) as (_, *others):
        numel = _compare_base(output, inputs, options.check)
        warnings: list[str] = []
        for each in opened.each:
            numel += _compare_copies(each, inputs, others, options.check)
            warnings += _compare_replicas(output, each.catalog, inputs, others, options)
    found = Checks(how=how, numel=numel, warnings=tuple(warnings))
    stage.note_checks(found)
    return found


def refuse_unplaced(catalog: Catalog, *, weights_only: bool) -> None:
    """Refuse an optimizer state that is not laid out like the parameters: the whole layout may be another. Raises
    UnsupportedLayout."""
    if catalog.unplaced and not weights_only:
        raise UnsupportedLayout(
            f"the optimizer's state {', '.join(map(repr, catalog.unplaced))} is not laid out like the parameters",
            consequence="the weights do not depend on it",
            remedy="--weights-only writes them",
            address=(catalog.origin.tag,),
        )


def _compare_base(output: Output, inputs: Inputs, check: str) -> int:
    if check == "none" or not output.comparisons:
        return 0
    from ..adapters.plan_merge import prove_base

    return prove_base(output.comparisons, inputs)


def _compare_copies(opened: Opened, inputs: Inputs, others: Sequence[Inputs], check: str) -> int:
    catalog = opened.catalog
    if check == "none" or not (catalog.module or catalog.stacked):
        return 0
    from ..run.witness import compare

    everything = check == "all"
    # A sample is compared before threads have begun.
    beside = others if everything else ()
    return compare(comparisons(catalog, opened.whole, everything=everything), inputs, others=beside)


def _compare_replicas(
    output: Output, catalog: Catalog, inputs: Inputs, others: Sequence[Inputs], options: Writing
) -> list[str]:
    """Warnings about tensors of which ranks hold different copies; Disagreement unless the first may be taken."""
    if catalog.missing or (options.check == "none" and options.replicas == "equal"):
        return []
    found = replica_comparisons(output.replicas(catalog))
    if not found:
        return []
    from ..run.witness import compare, drifted

    if options.replicas == "equal":
        compare([comparison for comparison in found if not comparison.is_spare], inputs, others=others)
        found = [comparison for comparison in found if comparison.is_spare]
    names = drifted(found, inputs, others=others)
    if not names:
        return []
    return [f"ranks hold different copies of {len(names)} tensors, the first was taken: {listed(names, 8)}"]
