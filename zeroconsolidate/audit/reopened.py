"""An output's manifest and the paths it is compared with -> what it was made of, opened again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import BadOption
from ..opening.opened import open_to_convert
from ..options import Options
from ..options.values import as_plain
from ..outputs.averaging import mean_of
from ..saves.several import several
from ..saves.target import settled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..opening.opened import Opened
    from ..options import Roots, VerifyOptions


def reopened(src: Roots, manifest: Mapping[str, Any], options: VerifyOptions) -> tuple[Opened, Options]:
    """(the checkpoint, or the mean of those that the manifest lists; the options of the conversion).

    Raises what `open_checkpoint` raises, and BadOption if the transformations are not those of the manifest.
    """
    recorded = manifest.get("options", {})
    _refuse_other_transforms(recorded.get("transforms") or [], options)
    if recorded.get("average") is None:
        src, options = settled(src, options)
    chosen = Options.from_manifest(recorded, tag=options.tag, base=options.base, transforms=options.transforms)
    listed = manifest.get("averaged")
    entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    averaged = [(str(each.get("tag")), each.get("step")) for each in entries]
    chosen = replace(chosen, files_read=options.files_read)
    opened = [open_to_convert(path, own) for path, own in several(src, chosen, averaged=averaged)]
    return mean_of(opened, chosen), chosen


def _refuse_other_transforms(recorded: object, options: VerifyOptions) -> None:
    given = as_plain(options.transforms, None)
    if given != recorded:
        raise BadOption(
            "the output was written with other transformations",
            expected=f"transforms that are recorded as {recorded}",
            found=given or "none",
            remedy="compare it in Python: zeroconsolidate.verify(OUTPUT, against=CHECKPOINT, transforms=[…])",
        )
