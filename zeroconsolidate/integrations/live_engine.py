"""A live DeepSpeed engine -> its parameters by name, and where their values and all else that it counts are put.

`live_optimizers` has what is the optimizer's. Nothing is imported before an engine is there.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import BadOption, Disagreement, RankFailed, UnsupportedLayout
from .live_optimizers import live_optimizer
from .packages import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from .live_optimizers import LiveOptimizer


class LiveEngine:
    """A `DeepSpeedEngine`, as it is on this rank.

    Raises BadOption if it is none, MissingPackage without DeepSpeed, UnsupportedLayout for one that spreads a model
    over ranks otherwise than ZeRO does.
    """

    def __init__(self, engine: Any) -> None:
        _refuse(engine)
        self._engine = engine
        self.names: dict[str, str] = {}
        """Every name of a parameter -> its first name."""
        self.parameters: dict[str, torch.nn.Parameter] = {}
        """By first name."""
        first: dict[int, str] = {}
        for name, parameter in engine.module.named_parameters(remove_duplicate=False):
            self.names[name] = first.setdefault(id(parameter), name)
            self.parameters.setdefault(self.names[name], parameter)
        self.buffers: dict[str, torch.Tensor] = dict(_persistent_buffers(engine.module))
        self.optimizer: LiveOptimizer | None = None
        if engine.optimizer is not None and type(engine.optimizer).__name__ not in _WITHOUT_OPTIMIZER:
            self.optimizer = live_optimizer(engine, first)
        self.trained = {held for master in (self.optimizer.masters if self.optimizer else ()) for held in master.names}

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a parameter, whole, or of a buffer."""
        if name in self.buffers:
            return tuple(self.buffers[name].shape)
        parameter: Any = self.parameters[name]
        return tuple(getattr(parameter, "ds_shape", parameter.shape))

    def stripe(self, name: str) -> tuple[int, int]:
        """Elements `[start, stop)` that this rank has of a parameter that is not trained, or of a buffer."""
        import torch.distributed as dist

        parameter: Any = self.parameters.get(name)
        if not hasattr(parameter, "ds_tensor"):
            return 0, self.buffers.get(name, parameter).numel()
        numel = parameter.ds_tensor.numel()
        start = min(numel * dist.get_rank(group=parameter.ds_process_group), parameter.ds_numel)
        return start, min(start + numel, parameter.ds_numel)

    def put(self, name: str, values: torch.Tensor) -> None:
        """Put the values, flat, of this rank's stripe of a parameter that is not trained, or of a buffer."""
        if name in self.buffers:
            self.buffers[name].data.copy_(values.view(self.buffers[name].shape))
            return
        parameter: Any = self.parameters[name]
        if hasattr(parameter, "ds_tensor"):
            if not parameter.ds_tensor.is_floating_point():
                raise UnsupportedLayout(
                    f"the engine holds {name} as {parameter.ds_tensor.dtype}",
                    consequence="what is not trained is quantized ('zero_quantized_nontrainable_weights')",
                )
            parameter.ds_tensor.data.view(-1)[: values.numel()].copy_(values)
        else:
            parameter.data.copy_(values.view(parameter.shape))

    def begin(self) -> None:
        """Before values are put: at stage 3 all parameters are partitioned, and nothing is kept whole."""
        if hasattr(self._engine.optimizer, "checkpoint_event_prologue"):
            self._engine.optimizer.checkpoint_event_prologue()

    def refresh(self) -> None:
        """After values were put: parameters follow their masters. A collective."""
        if self.optimizer is not None:
            self.optimizer.refresh()
        if hasattr(self._engine.optimizer, "checkpoint_event_epilogue"):
            self._engine.optimizer.checkpoint_event_epilogue()

    def set_counters(self, *, global_steps: int, skipped_steps: int, global_samples: int | None) -> None:
        """As `_load_checkpoint` in `deepspeed/runtime/engine.py`; and the next micro-step begins an accumulation."""
        engine = self._engine
        engine.global_steps, engine.skipped_steps = global_steps, skipped_steps
        engine.global_samples = global_steps * engine.train_batch_size() if global_samples is None else global_samples
        engine.micro_steps = global_steps * engine.gradient_accumulation_steps()

    @property
    def has_scheduler(self) -> bool:
        """Whether the engine steps a scheduler of learning rates."""
        return self._engine.lr_scheduler is not None

    def set_scheduler(self, state: Mapping[str, object]) -> None:
        """Give the scheduler what one like it had saved."""
        self._engine.lr_scheduler.load_state_dict(dict(state))

    def set_scaler(self, name: str, attributes: Mapping[str, object]) -> bool:
        """Give the loss scaler what one of the class `name` had; False if the engine's is of another kind. Values
        named `torch.float16` and the like are dtypes."""
        import torch

        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        restored = {
            key: getattr(torch, value.removeprefix("torch.")) if key == "dtype" and isinstance(value, str) else value
            for key, value in attributes.items()
        }
        if type(scaler).__name__ != name or getattr(scaler, "dtype", None) != restored.get("dtype"):
            return False
        for key, value in restored.items():
            setattr(scaler, key, value)
        return True

    @contextmanager
    def together(self) -> Iterator[list[object]]:
        """What is done inside is done on all ranks or is an error on all of them. A collective.

        What each rank adds to the list must be the same. Raises RankFailed where another rank raised, Disagreement
        where ranks differ.
        """
        said: list[object] = []
        failed: BaseException | None = None
        try:
            yield said
        except BaseException as error:
            failed = error
            raise
        finally:
            self._tell_each_other(said, failed)

    def _tell_each_other(self, said: list[object], failed: BaseException | None) -> None:
        import torch.distributed as dist

        every: list[Any] = [None] * dist.get_world_size()
        own = None if failed is None else f"{type(failed).__name__}: {failed}"
        dist.all_gather_object(every, (own, said))
        if failed is not None:
            return
        for rank, (error, _) in enumerate(every):
            if error is not None:
                raise RankFailed(f"rank {rank} could not load its part, so no rank does", consequence=error)
        for rank, (_, others) in enumerate(every):
            if others != every[0][1]:
                raise Disagreement(
                    "the ranks do not see the same checkpoint",
                    expected=f"{every[0][1]} as on rank 0",
                    found=f"{others} on rank {rank}",
                )


_WITHOUT_OPTIMIZER = ("DummyOptim", "DeepSpeedZeRoOffload")
"""What stands in an engine that does not train."""


def _refuse(engine: Any) -> None:
    if find_spec("deepspeed") is None:
        raise missing("loading into an engine", "deepspeed", extra="deepspeed")
    from deepspeed import DeepSpeedEngine
    from deepspeed.runtime.pipe.engine import PipelineEngine

    if not isinstance(engine, DeepSpeedEngine):
        raise BadOption(
            "this is no engine of DeepSpeed",
            expected="what deepspeed.initialize or accelerator.prepare returned first",
            found=type(engine).__name__,
        )
    spread = {
        "over pipeline stages": isinstance(engine, PipelineEngine),
        "over tensor-parallel ranks": engine.mp_world_size > 1,
        "over expert-parallel ranks": engine.has_moe_layers,
    }
    for how, is_so in spread.items():
        if is_so:
            raise UnsupportedLayout(
                f"the engine spreads its model {how}", consequence="values cannot be put into it yet"
            )


def _persistent_buffers(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, child in module.named_modules(remove_duplicate=False):
        for name, buffer in child.named_buffers(recurse=False):
            if name not in child._non_persistent_buffers_set:  # noqa: SLF001  (as DeepSpeed's `_get_buffer_names`)
                yield f"{prefix}.{name}" if prefix else name, buffer
