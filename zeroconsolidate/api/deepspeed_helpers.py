"""What others import from DeepSpeed's zero_to_fp32 besides its functions: how files are found and what is in them.

`zeroconsolidate.zero_to_fp32` has them under DeepSpeed's names.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..archive.load import load_file
from ..archive.names import parse
from ..errors import BadOption, DamagedFile, NotACheckpoint
from ..mapping.views import TensorView
from ..plan.pieces import View
from ..plan.sources import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from ..archive.located import LocatedTensor
    from ..run.storage import Readable

device = torch.device("cpu")
OUTPUT_DTYPE_NAMES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


class LazyTensor:
    """A tensor that is read by `contiguous()`. Whatever else a tensor has is asked of the tensor, which is read for it.

    Attributes
    ----------
    shape : torch.Size
        Of the whole tensor.
    dtype : torch.dtype
        The dtype it is stored in.
    """

    def __init__(self, name: str, source: Source, files: Readable) -> None:
        self._view = TensorView(name, source, files)
        self.shape = torch.Size(self._view.shape)
        self.dtype = self._view.dtype

    def contiguous(self) -> torch.Tensor:
        """The tensor, read each time it is asked for."""
        return self._view.load()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.contiguous(), name)

    def __repr__(self) -> str:
        return f"LazyTensor({list(self.shape)}, {self.dtype})"


@dataclass
class zero_model_state:  # noqa: N801  (DeepSpeed's name)
    """What `parse_model_states` says of a file."""

    buffers: dict[str, torch.Tensor]
    param_shapes: list[dict[str, torch.Size]]
    shared_params: list[list[str]]
    ds_version: str | None
    frozen_param_shapes: dict[str, torch.Size] | None
    frozen_param_fragments: dict[str, torch.Tensor] | None


def resolve_output_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """float32, float16 or bfloat16 by one of its names. Raises BadOption."""
    found = OUTPUT_DTYPE_NAMES.get(str(dtype).removeprefix("torch.").lower())
    if found is None:
        supported = ", ".join(sorted(OUTPUT_DTYPE_NAMES))
        raise BadOption(f"Unsupported output dtype {dtype!r}. Choose one of: {supported}")
    return found


def to_torch_tensor(
    state_dict: Mapping[str, Any], return_empty_tensor: bool = False, dtype: str | torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, read, floating-point ones as `dtype`. What is one object stays one."""
    wanted = None if dtype is None else resolve_output_dtype(dtype)
    found: dict[str, torch.Tensor] = {}
    made: dict[int, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        if id(tensor) not in made:
            target = wanted if wanted is not None and tensor.dtype.is_floating_point else tensor.dtype
            made[id(tensor)] = (
                torch.empty(tensor.shape, dtype=target) if return_empty_tensor else tensor.contiguous().to(target)
            )
        found[name] = made[id(tensor)]
    return found


def atoi(text: str) -> int | str:
    """A number if the text is one."""
    return int(text) if text.isdigit() else text


def natural_keys(text: str) -> list[int | str]:
    """A key for sorting in which numbers in a text count as numbers."""
    return [atoi(part) for part in re.split(r"(\d+)", text)]


def get_checkpoint_files(checkpoint_dir: str | PathLike[str], glob_pattern: str) -> list[str]:
    """The files in a tag's folder that match the pattern, in natural order. Raises NotACheckpoint if none does."""
    from fnmatch import fnmatchcase

    try:
        entries = os.listdir(checkpoint_dir)
    except OSError:
        entries = []
    found = [os.path.join(checkpoint_dir, entry) for entry in entries if fnmatchcase(entry, glob_pattern)]
    if not found:
        raise NotACheckpoint(f"can't find {glob_pattern} files in directory '{os.fspath(checkpoint_dir)}'")
    return sorted(found, key=natural_keys)


def get_optim_files(checkpoint_dir: str | PathLike[str]) -> list[str]:
    """The optimizer files in a tag's folder, in the order of ranks. Raises NotACheckpoint if there are none."""
    return get_checkpoint_files(checkpoint_dir, "*_optim_states.pt")


def get_model_state_files(checkpoint_dir: str | PathLike[str]) -> list[str]:
    """The model files in a tag's folder, in the order of ranks. Raises NotACheckpoint if there are none."""
    return get_checkpoint_files(checkpoint_dir, "*_model_states.pt")


def get_model_state_file(checkpoint_dir: str | PathLike[str], zero_stage: int) -> str:
    """The first rank's model file in a tag's folder. Raises NotACheckpoint if it is not there."""
    if not os.path.isdir(checkpoint_dir):
        raise NotACheckpoint(f"Directory '{os.fspath(checkpoint_dir)}' doesn't exist")
    names = ("zero_pp_rank_0_mp_rank_00_model_states.pt", "mp_rank_00_model_states.pt")
    file = os.path.join(checkpoint_dir, names[zero_stage <= 2])
    if not os.path.exists(file):
        raise NotACheckpoint(f"can't find model states file at '{file}'")
    return file


def parse_model_states(files: Sequence[str]) -> list[zero_model_state]:
    """What each model file says of buffers, shapes and frozen parameters. No pickled code is run.

    Raises DamagedFile for a file that is no model file.
    """
    return [_model_state(file) for file in files]


def parse_optim_states(
    files: Sequence[str], ds_checkpoint_dir: str | PathLike[str]
) -> tuple[int, int, list[list[torch.Tensor]], list[list[int]] | None]:
    """Stage, number of ranks, and by rank the flat groups of master weights, all in memory; paddings, if there are any.

    Raises DamagedFile if there are not as many files as there were ranks.
    """
    contents = [_content(file).get("optimizer_state_dict", {}) for file in files]
    first = contents[0]
    if "zero_stage" not in first:
        raise DamagedFile(f"{files[0]} is not a zero checkpoint")
    stage, ranks = first["zero_stage"], first["partition_count"]
    stage = stage if isinstance(stage, int) else stage.args[0]
    ranks = max(ranks) if isinstance(ranks, list) else ranks
    if ranks != len(files):
        raise DamagedFile(
            f"Expected {ranks} of '*_optim_states.pt' under '{os.fspath(ds_checkpoint_dir)}' but found {len(files)} "
            "files."
        )
    key = "single_partition_of_fp32_groups" if stage <= 2 else "fp32_flat_groups"
    groups = [[_read(tensor) for tensor in content[key]] for content in contents]
    return stage, ranks, groups, first.get("param_alignment_paddings")


def zero3_partitioned_param_info(unpartitioned_numel: int, world_size: int) -> tuple[int, int]:
    """Elements of a parameter that each rank has at stage 3, and how many of the last are padding."""
    partitioned = -(-unpartitioned_numel // world_size)
    return partitioned, -unpartitioned_numel % world_size


def _model_state(file: str) -> zero_model_state:
    content = _content(file)
    if "buffer_names" not in content:
        raise DamagedFile(f"{file} is not a model state checkpoint")
    names = set(content["buffer_names"])
    buffers = {name: _read(tensor) for name, tensor in content["module"].items() if name in names}
    frozen, fragments = content.get("frozen_param_shapes"), content.get("frozen_param_fragments")
    return zero_model_state(
        buffers={name: each.float() if each.is_floating_point() else each for name, each in buffers.items()},
        param_shapes=[_sizes(group) for group in content["param_shapes"]],
        shared_params=[[alias, owner] for alias, owner in content["shared_params"].items()],
        ds_version=content.get("ds_version"),
        frozen_param_shapes=None if frozen is None else _sizes(frozen),
        frozen_param_fragments=None
        if fragments is None
        else {name: _read(tensor) for name, tensor in fragments.items()},
    )


def _sizes(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Size]:
    return OrderedDict((name, torch.Size(shape)) for name, shape in shapes.items())


def _content(file: str) -> dict[str, Any]:
    parsed = parse(os.path.basename(file))
    if parsed is None:
        raise DamagedFile(f"{file} is not a file of a checkpoint")
    return load_file(os.fspath(file), *parsed).content


def _read(tensor: LocatedTensor) -> torch.Tensor:
    source = Source(name="", shape=tensor.shape, recipe=View(tensor), role="buffer")
    return TensorView("", source).load()
