"""The base of a merge: which the checkpoint names, whether the one that is given is it, and how to name it."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ..archive.model_files import ADAPTER_CONFIG
from ..errors import Disagreement
from ..integrations.hub import in_cache, is_hub_id
from .base_agreement import Agreement, Run, base_contradictions
from .wrapping import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Catalog
    from .find import Adapters


def agreed(catalog: Catalog, adapters: Adapters, tied: Mapping[str, str], base: str, *, insisted: bool) -> Agreement:
    """What speaks for and against `base`. `tied`: the run's ties by the names of the model. Raises Disagreement if
    something tells that it is another than the adapters were trained on, unless the caller has `insisted`."""
    run = Run(
        directory=catalog.origin.root,
        configs=adapters.configs,
        ties=tied,
        is_quantized=any(".quant_state." in name or name.endswith((".absmax", ".SCB")) for name in catalog.order),
    )
    found = base_contradictions(run, base)
    if found.contradictions and not insisted:
        raise Disagreement(
            f"the adapter was trained on another base than --base: {'; '.join(found.contradictions)}",
            consequence="merged into this one, it would give wrong answers",
            remedy=(base_remedy(adapters), "--base-differs merges anyway"),
        )
    return found


def recorded_base(catalog: Catalog, adapters: Adapters) -> str | None:
    """The base that the adapters' own configurations name, where the checkpoint lacks weights and the base is in the
    offline cache of the hub. A directory that a checkpoint names is not opened unless the caller names it too."""
    parts = adapters.parts.values()
    saved = set(catalog.order)
    own = {part.module.rpartition(".")[0] for part in parts if part.kind is Kind.OWN and part.name in saved}
    if own.issuperset(part.module for part in parts if part.kind is Kind.TUNER):
        return None
    recorded = {(config.base, config.content.get("revision")) for config in adapters.configs.values()}
    if len(recorded) != 1:
        return None
    ((base, revision),) = recorded
    return None if base is None else in_cache(base, revision if isinstance(revision, str) else None)


def base_remedy(adapters: Adapters) -> str:
    """How to name the original model: as the adapters' own configurations do, if that leads anywhere from here."""
    recorded = list(dict.fromkeys(config.base for config in adapters.configs.values() if config.base))
    if len(recorded) != 1:
        return "name the original model with --base"
    (base,) = recorded
    if os.path.isdir(base) or is_hub_id(base):
        return f"merge into the model that {ADAPTER_CONFIG} names: --base {shlex.quote(base)}"
    return f"name the original model with --base; {ADAPTER_CONFIG} says {base}, which is not a directory here"
