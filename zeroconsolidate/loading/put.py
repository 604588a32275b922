"""A recipe -> its values in a tensor of a module, or in a new tensor in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnsupportedLayout
from ..plan.index import box
from ..run.boxes import read_box
from ..run.elements import read_all
from ..run.reader import reader
from ..run.tensors import to_numpy, to_torch

if TYPE_CHECKING:
    from ..dtypes import DType
    from ..plan.sources import Source
    from ..run.inputs import Inputs
    from .target import Slot


def put(
    slot: Slot,
    source: Source,
    inputs: Inputs,
    *,
    dtype: torch.dtype | None,
    device: torch.device | None,
    assign: bool,
) -> None:
    """Load one tensor. `dtype`: of floating-point parameters, None for the module's own; `device`: None for where the
    tensor is; `assign`: whether a new tensor takes the place of the one that is there, as one on meta always does.

    Memory: in place and without a cast nothing, else the tensor.
    """
    old = slot.tensor
    castable = slot.is_parameter and old.is_floating_point()
    wanted = dtype if dtype is not None and castable else old.dtype
    if hasattr(old, "placements"):
        _put_sharded(slot, source, inputs, wanted, assign=assign)
        return
    place = device or (torch.device("cpu") if old.is_meta else old.device)
    if assign or old.is_meta:
        _replace(slot, _whole(source, inputs).to(place, wanted))
    elif wanted == old.dtype and place == old.device:
        _fill(old.detach(), source, inputs)
    else:
        old.data = _whole(source, inputs).to(place, wanted)  # the parameter stays the one that an optimizer has


def refuse_unheld(slot: Slot, source: Source, inputs: Inputs) -> None:
    """The tensor in the module must be able to hold the values: integers, as in a quantized module, hold no fractions.
    Raises UnsupportedLayout."""
    wanted, kind = slot.tensor.dtype, getattr(torch, source.recipe.dtype.torch_name)
    if wanted.is_floating_point or wanted.is_complex or wanted == kind:
        return
    if not kind.is_floating_point:  # as few as a buffer has
        values = _whole(source, inputs)
        if torch.equal(values.to(wanted).to(kind), values):
            return
    raise UnsupportedLayout(
        f"{slot.name} cannot hold the values of the checkpoint",
        expected=f"elements of {kind}",
        found=str(wanted),
        consequence="a quantized module has other values in its parameters, and their scales beside them"
        if kind.is_floating_point
        else None,
        remedy="load into the module before it is quantized" if kind.is_floating_point else None,
    )


def _whole(source: Source, inputs: Inputs) -> torch.Tensor:
    return to_torch(read_all(source.recipe, inputs), source.recipe.dtype).reshape(source.shape)


def _fill(tensor: torch.Tensor, source: Source, inputs: Inputs) -> None:
    """Read the values into the memory that is there, where it is as they lie in the file."""
    kind: DType = source.recipe.dtype
    if tensor.device.type == "cpu" and tensor.dtype == getattr(torch, kind.torch_name) and tensor.is_contiguous():
        if tensor.numel():
            reader(source.recipe, inputs).fill(0, tensor.numel(), to_numpy(tensor, kind))
    else:
        tensor.copy_(_whole(source, inputs))


def _replace(slot: Slot, new: torch.Tensor) -> None:
    """Put a new tensor into every place of the old one."""
    made = torch.nn.Parameter(new, requires_grad=slot.tensor.requires_grad) if slot.is_parameter else new
    for place in slot.places:
        setattr(place.module, place.attribute, made)


def _put_sharded(slot: Slot, source: Source, inputs: Inputs, dtype: torch.dtype, *, assign: bool) -> None:
    """A DTensor, as FSDP2 has them: of the files, only this rank's part is read."""
    old: Any = slot.tensor
    index = _part(old, slot.name)
    local = old.to_local()
    chosen = box(index, source.shape)
    part = to_torch(read_box(source.recipe, chosen, inputs).reshape(-1), source.recipe.dtype)
    part = part.reshape(chosen.result_shape).to(dtype)
    if tuple(part.shape) != tuple(local.shape):
        raise _unknown(old, slot.name)
    if not (assign or old.is_meta) and dtype == old.dtype:
        local.detach().copy_(part)
        return
    device = old.device_mesh.device_type if old.is_meta else local.device
    new = type(old).from_local(
        part.to(device), old.device_mesh, old.placements, run_check=False, shape=old.shape, stride=old.stride()
    )
    _replace(slot, new)


def _part(tensor: Any, name: str) -> tuple[slice, ...]:
    """What this rank holds of a DTensor: along each dimension of the mesh a chunk as `torch.chunk` makes them (mirrors
    `Shard` in `torch/distributed/tensor/placement_types.py`)."""
    first, sizes = [0] * tensor.ndim, list(tensor.shape)
    coordinates = tensor.device_mesh.get_coordinate()
    if coordinates is None:
        raise _unknown(tensor, name)
    for axis, placement in enumerate(tensor.placements):
        kind = type(placement).__name__
        if kind == "Replicate":
            continue
        if kind != "Shard":
            raise _unknown(tensor, name)
        dim = placement.dim % tensor.ndim
        chunk = -(-sizes[dim] // tensor.device_mesh.size(axis))
        start = min(chunk * coordinates[axis], sizes[dim])
        first[dim] += start
        sizes[dim] = min(chunk, sizes[dim] - start)
    return tuple(slice(start, start + size) for start, size in zip(first, sizes, strict=True))


def _unknown(tensor: Any, name: str) -> UnsupportedLayout:
    return UnsupportedLayout(
        f"how {name} is spread over ranks is not understood",
        found=", ".join(map(str, tensor.placements)),
        remedy="load into the module before it is sharded",
    )
