"""A checkpoint -> a module with its values, or a dict of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, cast, overload

from ..options import LoadingOptions, StateDictOptions, takes

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..loading.report import LoadReport
    from ..options import Roots
    from ..outputs.mapping import Checkpoint
    from ..outputs.views import TensorView

P = ParamSpec("P")


class Dicts(Protocol[P]):
    """A function that gives a dict of tensors, or with `lazy` one of tensors that have not been read."""

    @overload
    def __call__(
        self, src: Roots | Checkpoint, lazy: Literal[False] = False, *args: P.args, **kwargs: P.kwargs
    ) -> dict[str, torch.Tensor]: ...
    @overload
    def __call__(
        self, src: Roots | Checkpoint, lazy: Literal[True], *args: P.args, **kwargs: P.kwargs
    ) -> dict[str, TensorView]: ...


def takes_lazily(kind: Callable[P, Any]) -> Callable[[Callable[..., Any]], Dicts[P]]:
    """`takes`, for a function whose result has another type with `lazy`."""
    return cast("Callable[[Callable[..., Any]], Dicts[P]]", takes(kind))


@takes(LoadingOptions)
def load_into(model: torch.nn.Module, src: Roots | Checkpoint, options: LoadingOptions) -> LoadReport:
    """Load the weights of a checkpoint into a module, one tensor after the other.

    Memory: the module, and one tensor more; none more where the module has the dtype that is stored. Names and shapes
    are compared before anything is written. The module may be plain, on the meta device, or inside of
    DistributedDataParallel, torch.compile, FSDP2 or PEFT.

    Parameters
    ----------
    model : torch.nn.Module
        The module. Tied weights, buffers and parameters that were frozen are loaded like all others.
    src : str, os.PathLike, sequence of these, or Checkpoint
        The checkpoint, a model directory that was converted from one, or what `open_checkpoint` returned.

    Returns
    -------
    LoadReport
        How many tensors were loaded, and the names that only one side has.

    Raises
    ------
    WrongNames
        If the module or the checkpoint has names that the other does not have, or other shapes; or if tensors would be
        left on the meta device. Its `missing` and `unexpected` list them.
    UnsupportedLayout
        If the parameters of the module are held by an engine, or sharded in a way that is not understood.
    BadOption
        If a keyword is unknown, or its value makes no sense.
    ZeroConsolidateError
        What `open_checkpoint` raises.

    Examples
    --------
    >>> import torch, zeroconsolidate
    >>> with torch.device("meta"):
    ...     head = torch.nn.ModuleDict({"embed": torch.nn.Embedding(13, 7)})
    >>> report = zeroconsolidate.load_into(head, "tests/fixtures/z3_bf16/checkpoint", strict=False)
    >>> report.loaded, report.missing, head["embed"].weight.dtype
    (1, (), torch.float32)
    """
    from ..loading.into import loaded_into

    return loaded_into(model, src, options)


@takes_lazily(StateDictOptions)
def state_dict(src: Roots | Checkpoint, lazy: bool = False, *, options: StateDictOptions) -> dict[str, Any]:
    """Read all weights of a checkpoint into a dict, for `load_state_dict`.

    Memory: all of them. `load_into` does with one tensor more than the module.

    Parameters
    ----------
    src : str, os.PathLike, sequence of these, or Checkpoint
        The checkpoint, a model directory that was converted from one, or what `open_checkpoint` returned.
    lazy : bool, default False
        Whether to leave the tensors unread: the dict then has a TensorView for each, which has `load()`.

    Returns
    -------
    dict[str, Any]
        Name to torch.Tensor, or with `lazy` to TensorView. Tied weights are one tensor.

    Raises
    ------
    BadOption
        If a keyword is unknown, or its value makes no sense.
    ZeroConsolidateError
        What `open_checkpoint` raises.

    Examples
    --------
    >>> import zeroconsolidate
    >>> weights = zeroconsolidate.state_dict("tests/fixtures/z3_bf16/checkpoint", dtype="bf16")
    >>> weights["embed.weight"].shape, weights["embed.weight"].dtype
    (torch.Size([13, 7]), torch.bfloat16)
    """
    from ..loading.whole import state_dict_of

    return state_dict_of(src, options, lazy=lazy)
