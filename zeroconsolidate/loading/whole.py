"""A checkpoint -> a dict of all of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadOption
from ..options import element_type
from .source import tensors_of

if TYPE_CHECKING:
    import torch

    from ..dtypes import DType
    from ..mapping.checkpoint import Checkpoint
    from ..options import Roots, StateDictOptions
    from .source import Tensors


def state_dict_of(src: Roots | Checkpoint, options: StateDictOptions, *, lazy: bool) -> dict[str, Any]:
    """What `state_dict` does."""
    tensors = next(tensors_of(src, options, names=options.names))
    if lazy:
        if options.dtype is not None:
            raise BadOption("dtype cannot be used with lazy=True", remedy="give it to load() of each tensor")
        return tensors.views()
    wanted = element_type_of(options.dtype, tensors)
    views, read = tensors.views(), dict[int, "torch.Tensor"]()
    for name in tensors.order:
        source = tensors.named[name]
        if id(source.recipe) not in read:
            castable = source.role != "buffer" and source.recipe.dtype.kind in ("float", "float8")
            read[id(source.recipe)] = views[name].load(wanted.torch_name if wanted is not None and castable else None)
    return {name: read[id(source.recipe)] for name, source in tensors.named.items()}


def element_type_of(given: object, tensors: Tensors) -> DType | None:
    """A dtype that was given, where `auto` is that of training. Raises BadOption."""
    if given is None:
        return None
    if given != "auto":
        return element_type(given)
    if tensors.training_dtype is None:
        raise BadOption('dtype="auto" is the dtype of training, which a model directory does not say')
    return tensors.training_dtype
