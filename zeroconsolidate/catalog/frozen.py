"""Model files of stage 3 -> frozen parameters (mirrors `DeepSpeedEngine._get_zero_frozen_param_attributes`)."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

from ..archive.names import file_name
from ..errors import DamagedFile, Disagreement, at
from .facts import FrozenStripes, stripe_numel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType
    from .model_file import ModelFile


def striped_frozen(models: Sequence[ModelFile], world_size: int) -> dict[str, FrozenStripes]:
    """By name: the stripes of ceil(numel / ranks) elements that each rank's model file holds."""
    shapes = models[0].frozen_shapes or {}
    files = tuple(model.file for model in models)
    starts: dict[str, array[int]] = {name: array("q") for name in shapes}
    looks: dict[str, tuple[DType, bool]] = {}
    for model in models:
        with at(file_name(model.file)):
            for name, shape in shapes.items():
                fragment = model.frozen_fragments.get(name)
                if fragment is None:
                    with at(name):
                        raise DamagedFile(f"the frozen parameter's stripe is missing in rank {model.rank}")
                expected = stripe_numel(math.prod(shape), world_size)
                look = (fragment.dtype, fragment.storage.big_endian)
                agreed = looks.setdefault(name, look)
                if fragment.numel != expected or not fragment.is_contiguous or agreed != look:
                    with at(name):
                        raise Disagreement(
                            f"the frozen parameter's stripe in rank {model.rank} does not fit",
                            expected=f"{expected} elements of {agreed[0].code} for the shape {shape}",
                            found=f"{fragment.numel} of {fragment.dtype.code}",
                        )
                starts[name].append(fragment.start)
    return {
        name: FrozenStripes(
            shape=shape, dtype=looks[name][0], big_endian=looks[name][1], files=files, starts=starts[name]
        )
        for name, shape in shapes.items()
    }
