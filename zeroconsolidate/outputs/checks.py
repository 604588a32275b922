"""What exists twice (master weights, replicas, a base) -> an error if the two differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..errors import UnsupportedLayout
from ..plan.witness import comparisons, replica_comparisons
from ..write.journal import Checks

if TYPE_CHECKING:
    from ..catalog.facts import Catalog
    from ..opening.opened import Opened
    from ..run.inputs import Inputs
    from ..write.staging import Staging
    from .output import Output


def checked(output: Output, opened: Opened, inputs: Inputs, stage: Staging, *, check: str, replicas: str) -> Checks:
    """Compare what should be equal, unless an earlier run of the same conversion did.

    `check`: `sample`, `all` or `none`. `replicas`: `equal`, or take the `first`. Raises WitnessMismatch where values
    differ that must be equal, Disagreement where ranks hold different copies.
    """
    how = f"{check}, {replicas}"
    known = stage.checks
    if known is not None and known.how == how:
        return known
    numel = _compare_base(output, inputs, check)
    warnings: list[str] = []
    for each in opened.each:
        numel += _compare_copies(each, inputs, check)
        warnings += _compare_replicas(output, each.catalog, inputs, replicas, check)
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
    from ..adapters.plan import prove_base

    return prove_base(output.comparisons, inputs)


def _compare_copies(opened: Opened, inputs: Inputs, check: str) -> int:
    catalog = opened.catalog
    if check == "none" or not (catalog.module or catalog.stacked):
        return 0
    from ..run.witness import compare

    return compare(comparisons(catalog, opened.whole, everything=check == "all"), inputs)


def _compare_replicas(output: Output, catalog: Catalog, inputs: Inputs, replicas: str, check: str) -> list[str]:
    """Warnings about tensors of which ranks hold different copies; Disagreement unless the first may be taken."""
    if catalog.missing or (check == "none" and replicas == "equal"):
        return []
    found = replica_comparisons(output.replicas(catalog))
    if not found:
        return []
    from ..run.witness import compare, drifted

    if replicas == "equal":
        compare([comparison for comparison in found if not comparison.is_spare], inputs)
        found = [comparison for comparison in found if comparison.is_spare]
    names = drifted(found, inputs)
    if not names:
        return []
    return [f"ranks hold different copies of {len(names)} tensors, the first was taken: {listed(names, 8)}"]
