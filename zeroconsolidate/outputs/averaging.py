"""Several checkpoints that are open -> one whose tensors are their mean."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..adapters.find import find_adapters
from ..adapters.peft_config import differences
from ..archive.phrases import counted, listed
from ..archive.printable import described
from ..errors import Disagreement
from ..options.averages import weights_of
from ..transforms.averaged import averaged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..adapters.adapted import Adapted
    from ..adapters.beside import Beside
    from ..adapters.find import Adapters
    from ..dtypes import DType
    from ..opening.opened import Opened
    from ..options import Options
    from ..plan.build import Selection, Source


def mean_of(several: Sequence[Opened], options: Options) -> Opened:
    """The last of the checkpoints with the mean of all in place of its tensors; the only one as it is.

    Raises Disagreement if they are not of one model, BadOption if the weights are not as many as they are.
    """
    last = several[-1]
    if options.average is None:
        return last
    weights = weights_of(options.average, len(several))
    for other in several[:-1]:
        if dict(other.catalog.ties) != dict(last.catalog.ties):
            differing = sorted(set(other.catalog.ties.items()) ^ set(last.catalog.ties.items()))
            raise Disagreement(
                f"the checkpoints are not of one model: {differing[0][0]} is tied in one and not in the other",
                consequence="a mean is taken of tensors that all of them have",
                address=(place_of(other),),
            )
    mean = averaged([each.stored for each in several], weights, [place_of(each) for each in several])
    return replace(last, stored=mean, whole=mean, members=tuple(several))


def merged_mean(
    opened: Opened, options: Options, dtype: DType, wanted: Callable[[str, Source], bool]
) -> tuple[Selection, Adapted, Beside]:
    """Every checkpoint's own model with its own adapters merged, and the mean of these models and of what was trained
    around them.

    Raises what a merge raises, and Disagreement if they are not of one model.
    """
    from . import adapted

    merged = []
    for each in opened.members:
        adapters = _adapters_of(each, options)
        adapted.refuse_unusable(each, adapters, options)
        merged.append(adapted.merged(each, adapters, options, dtype, wanted))
    selection, peft, beside = merged[-1]
    weights, places = weights_of(str(options.average), len(merged)), [place_of(each) for each in opened.members]
    named = averaged([each.named for each, _, _ in merged], weights, places)
    around = averaged([each.tensors for _, _, each in merged], weights, places)
    compared = tuple(comparison for _, each, _ in merged for comparison in each.comparisons)
    files = dict.fromkeys(file for _, each, _ in merged for file in each.files)
    of_members = tuple(each.adapter_files for _, each, _ in merged)
    peft = replace(peft, comparisons=compared, files=tuple(files), of_members=of_members)
    return replace(selection, named=named), peft, replace(beside, tensors=around)


def refuse_different_adapters(opened: Opened, adapters: Adapters, options: Options) -> None:
    """The mean of factors is that of adapters which use them alike. `adapters`: of the last checkpoint.

    Raises Disagreement if the configurations of two checkpoints differ in what the factors mean.
    """
    for each in opened.members[:-1]:
        theirs = _adapters_of(each, options).configs
        for name, config in adapters.configs.items():
            differing = [] if name not in theirs else differences(theirs[name], config)
            if name in theirs and not differing:
                continue
            here, there = place_of(each), place_of(opened.members[-1])
            raise Disagreement(
                f"the adapters {name} are not of one kind: {differing[0]} differs"
                if differing
                else f"the checkpoints are not of one model: the adapter {name} is not in {here}",
                expected=described(config.content.get(differing[0])) + f" as in {there}" if differing else None,
                found=described(theirs[name].content.get(differing[0])) + f" in {here}" if differing else None,
                consequence="factors that are used differently have no mean" if differing else None,
                remedy="take the mean of the merged weights with --lora merge" if differing else None,
            )


def _adapters_of(opened: Opened, options: Options) -> Adapters:
    """Those of one checkpoint. Raises Disagreement if it has none."""
    adapters = find_adapters(opened.catalog, lora=options.lora, chosen=options.adapters, base=options.base_directory)
    if adapters is None:
        raise Disagreement("the checkpoints are not of one model: one has no adapters", address=(place_of(opened),))
    return adapters


def place_of(opened: Opened) -> str:
    """Where a checkpoint lies, for people."""
    origin = opened.catalog.origin
    return f"{origin.root}/{origin.tag}"


def note_of(opened: Opened, options: Options, *, adapters: str = "") -> tuple[str, ...]:
    """What the report says of a mean. `adapters`: `written` or `merged` ones."""
    if not opened.members:
        return ()
    tags = listed([member.catalog.origin.tag for member in opened.members], 8)
    said = [f"mean of {counted(len(opened.members), 'checkpoint')} ({options.average}): {tags}"]
    if adapters == "written":
        said.append(
            "the mean of A and the mean of B were taken: their product is not the mean of the products; --lora merge "
            "takes that of the merged weights"
        )
    if adapters == "merged":
        said.append("adapters were merged first: the mean is that of the merged weights")
    return tuple(said)
