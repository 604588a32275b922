"""What our reader makes of a `.pt` file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zeroconsolidate.archive.container import ZipContainer
from zeroconsolidate.archive.unpickle import unpickle

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> Any:
    with ZipContainer(str(path)) as container:
        return unpickle(container.read_pickle(), container)


def saved(value: object, path: Path, **how: Any) -> Any:
    torch.save(value, path, **how)
    return read(path)
