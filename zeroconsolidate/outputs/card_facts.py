"""A planned output -> the facts of its model card, and whether it gets one."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..archive.model_config import MAX_CONFIG_BYTES, is_diffusers, parse
from ..archive.model_files import ADAPTER_CONFIG, CONFIG, MANIFEST_NAME
from ..archive.regular import read_small
from ..errors import DamagedFile, ZeroConsolidateError
from ..integrations.hub import cached_as, is_hub_id
from ..options.flags_of import flags_of, only_in_python
from .model_card import CARD, Adapter, CardFacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..adapters.adapted import Adapted
    from ..opening.opened import Opened
    from ..options import Options
    from .output import SideFiles


def is_wanted(options: Options, found: SideFiles, directory: str | None) -> bool:
    """Whether a card is to be written: there is a model or an adapter, and no card from elsewhere."""
    names = {*found.made, *found.copies}
    if not options.model_card or CARD in names:
        return False
    # Without `overwrite` the output holds nothing but what an interrupted run of ours has renamed.
    if options.overwrite and directory and _is_someones(directory):
        return False
    return CONFIG in names or any(os.path.basename(name) == ADAPTER_CONFIG for name in names)


def _is_someones(directory: str) -> bool:
    """Whether the output has a card that somebody wrote or edited: it stays. One that we wrote is replaced."""
    path = os.path.join(directory, CARD)
    if not os.path.lexists(path):
        return False
    try:
        listed = read_json(os.path.join(directory, MANIFEST_NAME))["files"][CARD]["sha256"]
        return bool(hashlib.sha256(read_small(path, MAX_CONFIG_BYTES)).hexdigest() != listed)
    except (ZeroConsolidateError, OSError, KeyError, TypeError):
        return True


def card_facts(
    opened: Opened, adapted: Adapted | None, options: Options, *, dtype: str, found: SideFiles, load_line: str
) -> CardFacts:
    """What the card says. `found`: the files beside the weights; `load_line`: what loads them from the folder `.`."""
    config = _config(found.made.get(CONFIG))
    configs = _adapter_configs(adapted)
    base = _base(options, configs, config)
    given = options.base_directory
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    adapter = None
    if adapted is not None:
        types = tuple(str(each.get("peft_type", "PEFT")) for each in configs)
        task = next((each["task_type"] for each in configs if isinstance(each.get("task_type"), str)), None)
        adapter = Adapter(kinds=adapted.kinds, types=types, task=task, merged=not adapted.is_adapter)
    return CardFacts(
        origin=opened.catalog.origin,
        dtype=dtype,
        load_line=load_line,
        is_diffusers=is_diffusers(config),
        architecture=first if isinstance(first, str) and first.isidentifier() else None,
        base=base,
        base_directory=None if given is None or base else os.path.basename(os.path.realpath(given)),
        adapter=adapter,
        rescue=opened.report,
        members=tuple(each.catalog.origin for each in opened.members),
        flags=flags_of(options),
        only_in_python=tuple(only_in_python(options)),
    )


def _base(options: Options, configs: list[Mapping[str, Any]], config: Mapping[str, Any]) -> str | None:
    """The hub id of the original model: as it was given, or as the checkpoint's files have it. Paths are no ids."""
    given = options.base_directory
    cached = cached_as(given) if given is not None else None
    if cached is not None:
        return cached.name
    recorded = [] if options.base_differs else [each.get("base_model_name_or_path") for each in configs]
    if given is None:  # else config.json may be the base's own, and name what that was made of
        recorded.append(config.get("_name_or_path"))
    for name in recorded:
        if isinstance(name, str) and is_hub_id(name):
            return name.partition("@")[0]
    return None


def _adapter_configs(adapted: Adapted | None) -> list[Mapping[str, Any]]:
    if adapted is None:
        return []
    return [read_json(path) for path in adapted.adapter_files.values()]


def _config(text: bytes | None) -> Mapping[str, Any]:
    try:
        config = parse(text) if text is not None else None
    except DamagedFile:
        config = None
    return config if isinstance(config, dict) else {}
