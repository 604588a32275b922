"""A checkpoint -> a module or an engine with its values, or a dict of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, cast, overload

from ..options import LoadingOptions, Opening, StateDictOptions, in_python, takes

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..loading.engine_report import EngineReport
    from ..loading.report import LoadReport
    from ..mapping.checkpoint import Checkpoint
    from ..mapping.views import TensorView
    from ..options import Roots

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
    @overload
    def __call__(
        self, src: Roots | Checkpoint, lazy: bool, *args: P.args, **kwargs: P.kwargs
    ) -> dict[str, torch.Tensor] | dict[str, TensorView]: ...


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
        If the module or the checkpoint has names that the other does not have, or other shapes; if tensors would be
        left on the meta device; or if the module has one tensor for two that differ. Its `missing` and `unexpected`
        list names.
    UnsupportedLayout
        If the parameters of the module are held by an engine, sharded in a way that is not understood, or integers, as
        in a quantized module, where the checkpoint has fractions.
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
    MissingPackage
        If torch is not installed.
    ZeroConsolidateError
        What `open_checkpoint` raises.

    Examples
    --------
    >>> import zeroconsolidate
    >>> weights = zeroconsolidate.state_dict("tests/fixtures/z3_bf16/checkpoint", dtype="bf16")
    >>> weights["embed.weight"].shape, weights["embed.weight"].dtype
    (torch.Size([13, 7]), torch.bfloat16)
    """
    from ..integrations.packages import need_torch
    from ..loading.whole import state_dict_of

    if not lazy:
        need_torch("a dict of torch's tensors")
    return state_dict_of(src, options, lazy=lazy)


@in_python()
def load_into_engine(
    engine: Any,
    src: Roots,
    *,
    optimizer: bool = True,
    strict: bool = True,
    tag: str | None = None,
    checkpoint: str | int | None = None,
) -> EngineReport:
    """Load a checkpoint into a live DeepSpeed engine, whatever the stages and numbers of ranks of both.

    Call it on every rank, as `engine.load_checkpoint`. Each rank reads only the elements that it holds. Afterwards the
    engine has the checkpoint's master weights, all that its optimizer keeps of them, frozen parameters and buffers,
    steps, settings of param groups, loss scale, counters and scheduler, and its 16-bit parameters follow the masters.

    Parameters
    ----------
    engine : deepspeed.DeepSpeedEngine
        What `deepspeed.initialize` or accelerate's `prepare` returned, of the same model, at stage 0, 1, 2 or 3. It
        may be new, or have trained.
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks. All ranks must be able
        to read all of it.
    optimizer : bool, default True
        False loads weights alone: parameters and buffers, and nothing that is counted or scheduled.
    strict : bool, default True
        False loads what both have. Names that only one of them has are in the report.
    tag : str, optional
        Which save to read, as everywhere: a tag, or `last-complete`.
    checkpoint : str or int, optional
        Which save of a run directory to read, as everywhere: `last-complete`, `last`, `best` or a step.

    Returns
    -------
    EngineReport
        What was loaded, what had no counterpart, and the client state.

    Raises
    ------
    MissingPackage
        If deepspeed is not installed.
    BadOption
        If `engine` is not one of its engines.
    WrongNames
        If names or what was trained differ, and `strict` is True.
    Disagreement
        If a shape differs, or what the engine keeps together was trained with different steps or settings.
    UnsupportedLayout
        If the engine swaps to NVMe, or spreads its model over tensor-parallel, pipeline or expert-parallel ranks, or
        the optimizer's state in the checkpoint is not laid out like the parameters.
    RankFailed
        On the other ranks, if one rank fails. No rank is left waiting, and none goes on. Parameters that were loaded
        before that keep their new values: load again, or make a new engine.
    ZeroConsolidateError
        What `open_checkpoint` raises.

    Notes
    -----
    Memory: what a rank holds of one parameter, at a time. Nothing is written, and no pickled code is run: objects of
    classes in the client state are left out, and named in the notes.

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.load_into_engine("no engine", "tests/fixtures/z3_bf16/checkpoint")
    Traceback (most recent call last):
        ...
    zeroconsolidate.errors.request.BadOption: this is no engine of DeepSpeed; expected what deepspeed.initialize or \
accelerator.prepare returned first, got str
    """
    from ..integrations.live_engine import LiveEngine
    from ..loading.engine import put_into_engine

    live = LiveEngine(engine)
    return put_into_engine(live, src, Opening(tag=tag, checkpoint=checkpoint), optimizer=optimizer, strict=strict)


@in_python()
def to_torch_optimizer(
    model: torch.nn.Module,
    src: Roots,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    strict: bool = True,
    tag: str | None = None,
    checkpoint: str | int | None = None,
) -> dict[str, Any]:
    """Read what an optimizer kept, as the state dict of one of torch's optimizers: to train on without DeepSpeed.

    `optimizer.load_state_dict` takes it. It numbers parameters by their position, so they are matched by name with
    those of the model here, and put in the order in which the optimizer has them.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is trained on, with the names of the training run or those of its files on the hub. It is only
        asked for names and shapes; `load_into` or `from_pretrained` gives it its weights.
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Or a model directory that was written with `--optimizer`.
    optimizer : torch.optim.Optimizer, optional
        The optimizer that will take the state dict. Left out, there is a param group for each of the checkpoint's, in
        their order, with their parameters in the order of the model.
    strict : bool, default True
        False takes what both have. The other parameters begin without state.
    tag : str, optional
        Which save to read, as everywhere: a tag, or `last-complete`.
    checkpoint : str or int, optional
        Which save of a run directory to read, as everywhere: `last-complete`, `last`, `best` or a step.

    Returns
    -------
    dict[str, Any]
        `state` and `param_groups`. States are whole tensors on the CPU, as they were stored; `step` is a tensor of
        float32, as torch counts.

    Raises
    ------
    WrongNames
        If parameters of the model or optimizer have no state, or states no parameter, and `strict` is True.
    Disagreement
        If a shape differs, or a param group of the optimizer has parameters that were trained with different settings.
    BadOption
        If the optimizer keeps something else than the checkpoint has, or has parameters that are not the model's.
    UnsupportedLayout
        If the optimizer's state is not laid out like the parameters, as that of 8-bit optimizers.
    ZeroConsolidateError
        What `open_checkpoint` raises.

    Notes
    -----
    `load_state_dict` casts states to the dtype of their parameters: with a model in bfloat16 they lose precision.
    Settings that say how an optimizer computes (`foreach`, `fused`, `capturable`, `differentiable`) stay as they are.

    Examples
    --------
    >>> import torch, zeroconsolidate
    >>> model = torch.nn.Module()
    >>> model.embed = torch.nn.Embedding(13, 7)
    >>> state_dict = zeroconsolidate.to_torch_optimizer(model, "tests/fixtures/z2_fp32/checkpoint", strict=False)
    >>> state_dict["state"][0]["exp_avg"].shape, state_dict["state"][0]["step"]
    (torch.Size([13, 7]), tensor(2.))
    """
    from ..loading import trained
    from ..loading.torch_optimizer import state_dict_of as optimizers_state_dict
    from ..loading.training_state import training_state
    from ..loading.written_state import written_state
    from ..mapping.open import opened_mapping
    from ..options import ReadingOptions
    from ..saves.target import settled

    state = written_state(src)
    if state is not None:
        found = trained.of_output(model, state)
    else:
        opened = opened_mapping(*settled(src, ReadingOptions(tag=tag, checkpoint=checkpoint)))
        state = training_state(opened.contents.opened, optimizer=True, remedy=None)
        found = trained.of_checkpoint(model, opened, state)
    return optimizers_state_dict(state, found, optimizer, strict=strict)
