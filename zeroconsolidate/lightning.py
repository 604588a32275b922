"""Lightning's `lightning.pytorch.utilities.deepspeed`, under the same names: change the import, and the code goes on.

    from zeroconsolidate.lightning import convert_zero_checkpoint_to_fp32_state_dict

It needs neither Lightning nor DeepSpeed, runs no pickled code, and holds one tensor in memory at a time. The result
loads with `load_from_checkpoint`, also with `weights_only=True`, which is torch's default.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from .archive.located import LocatedTensor
from .dtypes import DType
from .errors import NotACheckpoint
from .integrations.packages import need_torch
from .mapping.client_state import first_model_file
from .opening.open import find, open_catalog
from .options import in_python
from .outputs.named import ties_of
from .outputs.state_dict_files import in_deepspeeds_order, state_dict_content, tensor_plan, write_file
from .plan.pieces import View
from .plan.sources import Source, sources
from .plan.torch_file import stored, torch_file
from .run.inputs import Inputs

if TYPE_CHECKING:
    from os import PathLike

    from .plan.layout import TensorPlan

_LEFT_OUT = frozenset(
    "module optimizer lr_scheduler csr_tensor_module_names sparse_tensor_module_names skipped_steps global_steps "
    "dp_world_size mp_world_size frozen_param_fragments".split()
)
"""What Lightning leaves out of a model file (`deepspeed_states` there), and the frozen weights, which are in the state
dict."""
_PREFIX = "_forward_module."
"""Of names saved by Lightning before 2.1."""
_log = logging.getLogger("zeroconsolidate")


def ds_checkpoint_dir(checkpoint_dir: str | PathLike[str], tag: str | None = None) -> str:
    """Find the folder of a tag.

    Parameters
    ----------
    checkpoint_dir : str or os.PathLike
        The checkpoint: what Lightning saved, the directory with `latest` in it.
    tag : str, optional
        Which save to read; without it, the one that `latest` names.

    Returns
    -------
    str
        Its path.

    Raises
    ------
    NotACheckpoint
        If there is no such folder.

    Examples
    --------
    >>> from zeroconsolidate.lightning import ds_checkpoint_dir
    >>> ds_checkpoint_dir("tests/fixtures/z3_bf16/checkpoint")
    'tests/fixtures/z3_bf16/checkpoint/global_step2'
    """
    with in_python():
        return find(checkpoint_dir, tag).directory


def convert_zero_checkpoint_to_fp32_state_dict(
    checkpoint_dir: str | PathLike[str], output_file: str | PathLike[str], tag: str | None = None
) -> dict[str, Any]:
    """Write one file with the float32 weights and what Lightning saved with them, for `load_from_checkpoint`.

    Parameters
    ----------
    checkpoint_dir : str or os.PathLike
        The checkpoint: what Lightning saved, the directory with `latest` in it.
    output_file : str or os.PathLike
        The file to write, such as `model.ckpt`.
    tag : str, optional
        Which save to read; without it, the one that `latest` names.

    Returns
    -------
    dict[str, Any]
        What is in the file: `state_dict`, `hyper_parameters`, `callbacks` and so on. Tensors are mapped from the file.

    Raises
    ------
    OutputFailed
        If the file cannot be written.
    ZeroConsolidateError
        What `zeroconsolidate.open_checkpoint` raises.

    Notes
    -----
    Values of classes that are neither plain nor tensors are left out, with a warning: no code is run to read them.

    Examples
    --------
    >>> import tempfile
    >>> from zeroconsolidate.lightning import convert_zero_checkpoint_to_fp32_state_dict
    >>> checkpoint = "tests/fixtures/z2_client_state/checkpoint"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     content = convert_zero_checkpoint_to_fp32_state_dict(checkpoint, f"{out}/model.ckpt")
    >>> content["epoch"], content["state_dict"]["embed.weight"].dtype
    (3, torch.float32)
    """
    need_torch("Lightning's converter, which returns tensors,")
    import torch

    with in_python():
        catalog = open_catalog(checkpoint_dir, tag)
    raw = first_model_file(catalog)
    if raw is None:
        raise NotACheckpoint("the checkpoint has no model file", address=(os.fspath(checkpoint_dir),))
    found = in_deepspeeds_order(catalog, sources(catalog), frozen=True)
    named = {name.removeprefix(_PREFIX): source for name, source in found.items()}
    ties = ties_of(named)
    tensors = [tensor_plan(name, source, DType.F32) for name, source in named.items() if name not in ties]
    weights = state_dict_content(tensors, named, ties)
    kept = _Kept(tensors)
    client = {key: kept.of(value, str(key)) for key, value in raw.content.items() if key not in _LEFT_OUT}
    content = {key: value for key, value in client.items() if value is not kept.nothing}
    if kept.left_out:
        _log.warning("left out, because they are of classes: %s", ", ".join(kept.left_out))
    path = os.fspath(output_file)
    plan = torch_file(os.path.basename(path), {**content, "state_dict": weights}, tensors)
    with Inputs(known=catalog.looks) as inputs:
        write_file(path, plan, inputs)
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return loaded


class _Kept:
    """What of the client state can be written: plain values, and tensors, which are added to `tensors`."""

    def __init__(self, tensors: list[TensorPlan]) -> None:
        self.nothing = object()
        self.left_out: list[str] = []
        self._tensors = tensors

    def of(self, value: object, name: str) -> object:
        """`value` as it can be written; `nothing` if it cannot."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, LocatedTensor):
            source = Source(name=name, shape=value.shape, recipe=View(value), role="buffer")
            self._tensors.append(tensor_plan(name, source, None))
            return stored(len(self._tensors) - 1, self._tensors[-1])
        if isinstance(value, dict):
            held = {key: self.of(each, f"{name}.{key}") for key, each in value.items() if _is_key(key)}
            return {key: each for key, each in held.items() if each is not self.nothing}
        if isinstance(value, (list, tuple)):
            several = [self.of(each, f"{name}.{number}") for number, each in enumerate(value)]
            whole = several if isinstance(value, list) else tuple(several)
            return self.nothing if self.nothing in several else whole
        self.left_out.append(name)
        return self.nothing


def _is_key(key: object) -> bool:
    return key is None or isinstance(key, (bool, int, float, str))
