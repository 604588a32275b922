"""DeepSpeed's `deepspeed.utils.zero_to_fp32`, under the same names: change the import, and the same code goes on.

    from zeroconsolidate.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    python -m zeroconsolidate.zero_to_fp32 checkpoint-500 my-model --safe_serialization

Functions take the same arguments in the same order, and return what DeepSpeed's return, in the same order of names.
They need no DeepSpeed, run no pickled code, and hold one tensor in memory at a time where a dict was not asked for.
Where DeepSpeed fails or is wrong they are right; docs/zero-to-fp32.md lists each difference. New code is better served
by `zeroconsolidate.consolidate`, which also writes config and tokenizer under the names that a loader expects.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from .errors import MissingPackage
from .integrations.packages import need_torch

try:
    need_torch("DeepSpeed's converter, which speaks of torch's dtypes,")
except MissingPackage as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"zeroconsolidate: {missing}")

import torch

from .api.deepspeed_command import parsed
from .api.deepspeed_helpers import (
    OUTPUT_DTYPE_NAMES,
    LazyTensor,
    atoi,
    device,
    get_checkpoint_files,
    get_model_state_file,
    get_model_state_files,
    get_optim_files,
    natural_keys,
    parse_model_states,
    parse_optim_states,
    resolve_output_dtype,
    to_torch_tensor,
    zero3_partitioned_param_info,
    zero_model_state,
)
from .api.loading import load_into
from .archive.phrases import listed
from .errors import BadOption, WrongNames, ZeroConsolidateError
from .opening.open import open_catalog
from .options import element_type, in_python, parse_size
from .outputs.state_dict_files import in_deepspeeds_order, older_weights, plan_files, write_files
from .plan.sources import sources
from .run.files import Files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from .plan.sources import Source

__all__ = [
    "OUTPUT_DTYPE_NAMES",
    "atoi",
    "convert_zero_checkpoint_to_fp32_state_dict",
    "convert_zero_checkpoint_to_state_dict",
    "device",
    "get_checkpoint_files",
    "get_fp32_state_dict_from_zero_checkpoint",
    "get_model_state_file",
    "get_model_state_files",
    "get_optim_files",
    "load_state_dict_from_zero_checkpoint",
    "natural_keys",
    "parse_model_states",
    "parse_optim_states",
    "to_torch_tensor",
    "zero3_partitioned_param_info",
    "zero_model_state",
]

debug = 0
_FILES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors")
"""An output that ends so is one file, as it was before DeepSpeed 0.15.3."""
_resolve_output_dtype = resolve_output_dtype
GatheredTensor = LazyTensor
_log = logging.getLogger("zeroconsolidate")


def get_fp32_state_dict_from_zero_checkpoint(
    checkpoint_dir: str | PathLike[str],
    tag: str | None = None,
    exclude_frozen_parameters: bool = False,
    lazy_mode: bool = False,
) -> dict[str, Any]:
    """Read the float32 weights of a checkpoint into a dict, for `load_state_dict`.

    Parameters
    ----------
    checkpoint_dir : str or os.PathLike
        The checkpoint: the directory with `latest` in it, or the tag's own folder.
    tag : str, optional
        Which save to read; without it, the one that `latest` names.
    exclude_frozen_parameters : bool, default False
        Leave out parameters that were not trained.
    lazy_mode : bool, default False
        Leave the tensors unread: each is then an object with `shape`, `dtype` and `contiguous()`, which reads it.

    Returns
    -------
    dict[str, Any]
        Name to tensor: buffers, frozen parameters, trained parameters, second names of tied weights.

    Raises
    ------
    ZeroConsolidateError
        What `zeroconsolidate.open_checkpoint` raises.

    Examples
    --------
    >>> from zeroconsolidate.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    >>> weights = get_fp32_state_dict_from_zero_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weights["embed.weight"].shape, weights["head.weight"] is weights["embed.weight"]
    (torch.Size([13, 7]), True)
    """
    lazy = _lazy(*_named(checkpoint_dir, tag, exclude_frozen_parameters))
    return lazy if lazy_mode else to_torch_tensor(lazy, dtype=torch.float32)


def _get_fp32_state_dict_from_zero_checkpoint(
    ds_checkpoint_dir: str | PathLike[str], exclude_frozen_parameters: bool
) -> dict[str, Any]:
    """The weights in the tag's own folder, each in the dtype it is stored in. It is private in DeepSpeed, but people
    call it, and give what it returns to `load_state_dict`."""
    return to_torch_tensor(_lazy(*_named(ds_checkpoint_dir, None, exclude_frozen_parameters)))


def convert_zero_checkpoint_to_state_dict(
    checkpoint_dir: str | PathLike[str],
    output_dir: str | PathLike[str] | None = None,
    dtype: str | torch.dtype = torch.float32,
    max_shard_size: str | int | None = "5GB",
    safe_serialization: bool = False,
    tag: str | None = None,
    exclude_frozen_parameters: bool = False,
    *,
    output_file: str | PathLike[str] | None = None,
) -> None:
    """Write the weights of a checkpoint as `pytorch_model.bin`, or as safetensors, in shards with an index.

    Parameters
    ----------
    checkpoint_dir : str or os.PathLike
        The checkpoint: the directory with `latest` in it, or the tag's own folder.
    output_dir : str or os.PathLike
        The directory to write into; other files in it stay. If it ends in .bin, .pt, .pth, .ckpt or .safetensors, one
        file, as before DeepSpeed 0.15.3.
    dtype : str or torch.dtype, default torch.float32
        What floating-point tensors are cast to: float32, float16 or bfloat16.
    max_shard_size : str or int, optional, default "5GB"
        Split the weights into files of at most this size; None writes one.
    safe_serialization : bool, default False
        Write safetensors, in which a tied weight is written once.
    tag : str, optional
        Which save to read; without it, the one that `latest` names.
    exclude_frozen_parameters : bool, default False
        Leave out parameters that were not trained.
    output_file : str or os.PathLike, optional
        What `output_dir` was called before DeepSpeed 0.15.3.

    Raises
    ------
    BadOption
        If the dtype or the size is none, or no output is given.
    OutputFailed
        If the output cannot be written.
    ZeroConsolidateError
        What `zeroconsolidate.open_checkpoint` raises.

    Examples
    --------
    >>> import os, tempfile
    >>> from zeroconsolidate.zero_to_fp32 import convert_zero_checkpoint_to_state_dict
    >>> with tempfile.TemporaryDirectory() as out:
    ...     convert_zero_checkpoint_to_state_dict("tests/fixtures/z3_bf16/checkpoint", out, dtype="bf16")
    ...     print(os.listdir(out))
    ['pytorch_model.bin']
    """
    output = output_dir if output_dir is not None else output_file
    if output is None:
        raise BadOption("there is no output to write to", expected="output_dir")
    directory, name = _split(os.fspath(output))
    named, known = _named(checkpoint_dir, tag, exclude_frozen_parameters)
    planned = plan_files(
        named,
        element_type(resolve_output_dtype(dtype)),
        max_shard_bytes=None if max_shard_size is None or name is not None else parse_size(max_shard_size),
        safe=safe_serialization if name is None else name.endswith(".safetensors"),
        name=name,
    )
    write_files(directory, planned, known=known)
    older = older_weights(directory, planned)
    if older:
        _log.warning("%s was there before: remove it, or a loader may take it for the model", listed(older, 3))
    for alias, owner in planned.left_out.items():
        _log.info("%s is written once, as %s: a safetensors file has no tied weights", alias, owner)


def convert_zero_checkpoint_to_fp32_state_dict(
    checkpoint_dir: str | PathLike[str],
    output_dir: str | PathLike[str] | None = None,
    max_shard_size: str | int | None = "5GB",
    safe_serialization: bool = False,
    tag: str | None = None,
    exclude_frozen_parameters: bool = False,
    *,
    output_file: str | PathLike[str] | None = None,
) -> None:
    """Write the float32 weights of a checkpoint.

    It is `convert_zero_checkpoint_to_state_dict` without `dtype`, whose other parameters and errors it has.

    Examples
    --------
    >>> import os, tempfile
    >>> from zeroconsolidate.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict
    >>> with tempfile.TemporaryDirectory() as out:
    ...     convert_zero_checkpoint_to_fp32_state_dict("tests/fixtures/z3_bf16/checkpoint", out, "2KB", True)
    ...     print(sorted(os.listdir(out))[-1])
    model.safetensors.index.json
    """
    convert_zero_checkpoint_to_state_dict(
        checkpoint_dir,
        output_dir,
        torch.float32,
        max_shard_size,
        safe_serialization,
        tag,
        exclude_frozen_parameters,
        output_file=output_file,
    )


def load_state_dict_from_zero_checkpoint(
    model: torch.nn.Module, checkpoint_dir: str | PathLike[str], tag: str | None = None
) -> torch.nn.Module:
    """Load the weights of a checkpoint into a module, after moving it to the CPU.

    DeepSpeed loads what has the same name and says nothing of the rest. Here the rest is logged as a warning, names
    are found with and without the prefix of a wrapper, and it is an error if no name fits.

    Parameters
    ----------
    model : torch.nn.Module
        The module.
    checkpoint_dir : str or os.PathLike
        The checkpoint: the directory with `latest` in it, or the tag's own folder.
    tag : str, optional
        Which save to read; without it, the one that `latest` names.

    Returns
    -------
    torch.nn.Module
        The module that was given.

    Raises
    ------
    WrongNames
        If no tensor of the checkpoint has a name of the module, or one has another shape.
    ZeroConsolidateError
        What `zeroconsolidate.open_checkpoint` raises.

    Examples
    --------
    >>> import torch
    >>> from zeroconsolidate.zero_to_fp32 import load_state_dict_from_zero_checkpoint
    >>> model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(13, 7)})
    >>> load_state_dict_from_zero_checkpoint(model, "tests/fixtures/z3_bf16/checkpoint") is model
    True
    """
    model = model.cpu()
    report = load_into(model, checkpoint_dir, strict=False, tag=tag)
    if not report.loaded:
        raise WrongNames(
            "no tensor of the checkpoint has a name of the module", missing=report.missing, unexpected=report.unexpected
        )
    for names, what in ((report.missing, "missing in the checkpoint"), (report.unexpected, "unknown to the module")):
        if names:
            _log.warning("%d names are %s, such as %s", len(names), what, names[0])
    return model


def _named(
    checkpoint_dir: str | PathLike[str], tag: str | None, exclude_frozen: bool
) -> tuple[dict[str, Source], Mapping[str, Mapping[str, int | str]]]:
    """The tensors, and what their files looked like before they were read."""
    with in_python():
        catalog = open_catalog(checkpoint_dir, tag)
    return in_deepspeeds_order(catalog, sources(catalog), frozen=not exclude_frozen), catalog.looks


def _lazy(named: dict[str, Source], known: Mapping[str, Mapping[str, int | str]]) -> OrderedDict[str, LazyTensor]:
    """A tied weight is one object."""
    files, made = Files(known=known), dict[int, LazyTensor]()
    return OrderedDict(
        (name, made.setdefault(id(source.recipe), LazyTensor(name, source, files))) for name, source in named.items()
    )


def _split(output: str) -> tuple[str, str | None]:
    """The directory to write into, and the name of the file if the output is one."""
    if output.endswith(_FILES) and not os.path.isdir(output):
        _log.warning("%s is written as one file, as DeepSpeed did before 0.15.3", output)
        return os.path.split(output)
    return output, None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, with the arguments of DeepSpeed's `zero_to_fp32.py` and `zero_to_torch.py`."""
    given = parsed(argv)
    logging.basicConfig(level=logging.DEBUG if given.debug else logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        convert_zero_checkpoint_to_state_dict(
            given.checkpoint_dir,
            given.output_dir,
            dtype=given.dtype,
            max_shard_size=given.max_shard_size,
            safe_serialization=given.safe_serialization,
            tag=given.tag,
            exclude_frozen_parameters=given.exclude_frozen_parameters,
        )
    except ZeroConsolidateError as error:
        sys.stderr.write(f"zeroconsolidate: {error}\n")
        return 1
    sys.stderr.write(f"zeroconsolidate: wrote {given.output_dir}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
