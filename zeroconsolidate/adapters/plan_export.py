"""The adapters of a run -> planned files for PEFT."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..archive.model_files import ADAPTER_CONFIG
from ..plan.build import ModelPlan, padding_bytes, select
from .adapted import Adapted
from .beside import beside_adapter
from .export import adapter_files, build_adapters
from .task import AUTO_CLASSES, task_of
from .vocabulary import resize_first

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from ..plan.build import Source
    from .find import Adapters


def plan_export(
    catalog: Catalog, stored: Mapping[str, Source], adapters: Adapters, *, base: str | None, dtype: DType | None
) -> tuple[ModelPlan, Adapted, tuple[str, ...]]:
    """The adapters as PEFT would save them, and warnings. Raises UnsupportedLayout for kinds whose file has computed
    values."""
    named = select(catalog, stored, copy_ties=True, wanted=lambda _name, _source: True).named
    files, outside = adapter_files(named, adapters.parts, adapters.ties, adapters.configs)
    left_out = tuple(
        name
        for name, part in adapters.parts.items()
        if part.adapter is not None and part.adapter not in adapters.configs and name in named
    )
    beside = beside_adapter(outside, named, adapters.parts)
    bases = dict.fromkeys(config.base for config in adapters.configs.values() if config.base)
    adapted = Adapted(
        is_adapter=True,
        kinds=adapters.kinds,
        is_wrapped=adapters.is_wrapped,
        config_files={os.path.join(file.folder, ADAPTER_CONFIG): adapters.files[file.adapter] for file in files},
        files=tuple(adapters.files.values()),
        adapter_files=adapters.files,
        folders=adapters.present,
        ties={},
        untied=False,
        comparisons=(),
        notes=(
            *_how_to_load(adapters),
            f"PEFT adapter {adapters.kinds} for the base model {', '.join(bases) or 'unknown'}; "
            "--lora merge writes a full model",
            *(note for file in files for note in resize_first(_shapes(file.tensors), base)),
        ),
    )
    plan = build_adapters(
        files,
        beside=beside.files(dtype),
        left_out=left_out,
        dtype=dtype,
        padding_bytes=padding_bytes(catalog),
    )
    return plan, adapted, beside.warnings


def _how_to_load(adapters: Adapters) -> list[str]:
    task = task_of(adapters.configs.values())
    if task is None:
        return []
    return [f"the base model is to be loaded by {AUTO_CLASSES.get(task, task)}, whose head was trained"]


def _shapes(tensors: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    return {name: source.shape for name, source in tensors.items()}
