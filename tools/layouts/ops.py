"""DeepSpeed's compiled CPU operators in Python, so that no case depends on a compiler or on libaio."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from typing import Any

import torch


class Adam:
    """The operator behind `DeepSpeedCPUAdam`: one update of one flat tensor, in the tensors' own dtypes."""

    def create_adam(self, opt_id: int, *_hyper: Any) -> None:
        self.decoupled = bool(_hyper[5])

    def destroy_adam(self, _opt_id: int) -> None: ...

    def adam_update(
        self,
        _opt_id: int,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        bias_correction: bool,
        parameter: torch.Tensor,
        gradient: torch.Tensor,
        exp_avg: torch.Tensor,
        exp_avg_sq: torch.Tensor,
    ) -> None:
        value, slope = parameter.float(), gradient.float()
        if not self.decoupled:
            slope = slope + weight_decay * value
        first = exp_avg.float() * beta1 + slope * (1 - beta1)
        second = exp_avg_sq.float() * beta2 + slope.square() * (1 - beta2)
        correction1 = 1 - beta1**step if bias_correction else 1.0
        correction2 = 1 - beta2**step if bias_correction else 1.0
        if self.decoupled:
            value = value * (1 - lr * weight_decay)
        value = value - lr / correction1 * first / (second.sqrt() / math.sqrt(correction2) + eps)
        for target, result in ((parameter, value), (exp_avg, first), (exp_avg_sq, second)):
            target.copy_(result)


class FileHandle:
    """The asynchronous file handle of `async_io`, synchronously: same names, same bytes."""

    def __init__(self, *_args: Any, intra_op_parallelism: int = 1, **_kwargs: Any) -> None:
        self.done = 0
        self.alignment = 512 * intra_op_parallelism
        self.pinned: list[tuple[int, int]] = []

    def new_cpu_locked_tensor(self, numel: int, example: torch.Tensor) -> torch.Tensor:
        tensor = torch.zeros(numel, dtype=example.dtype)
        self.pinned.append((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes))
        return tensor

    def free_cpu_locked_tensor(self, _tensor: torch.Tensor) -> bool:
        return True

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return any(start <= tensor.data_ptr() < stop for start, stop in self.pinned)

    def get_alignment(self) -> int:
        return self.alignment

    def async_pwrite(self, buffer: torch.Tensor, file: str | int, offset: int) -> int:
        content = buffer.detach().contiguous().view(torch.uint8).numpy().tobytes()
        if isinstance(file, int):
            # The file is open for direct access, which takes memory that begins on a page.
            pages = mmap.mmap(-1, len(content))
            pages.write(content)
            os.pwrite(file, pages, offset)
        elif offset:
            raise ValueError("swap files are written from their start")
        else:
            Path(file).write_bytes(content)
        self.done += 1
        return 0

    def async_pread(self, buffer: torch.Tensor, path: str, offset: int) -> int:
        content = bytearray(Path(path).read_bytes()[offset : offset + buffer.nbytes])
        buffer.copy_(torch.frombuffer(content, dtype=buffer.dtype))
        self.done += 1
        return 0

    def wait(self) -> int:
        done, self.done = self.done, 0
        return done


class AsyncIO:
    """The `async_io` extension."""

    aio_handle = FileHandle


class Utilities:
    """The `utils` extension, of which writers use one function."""

    @staticmethod
    def cast_to_byte_tensor(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.detach().reshape(-1).view(torch.uint8) for tensor in tensors]


def install() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder, UtilsBuilder

    CPUAdamBuilder.load = lambda self, verbose=True: Adam()
    AsyncIOBuilder.load = lambda self, verbose=True: AsyncIO()
    AsyncIOBuilder.is_compatible = lambda self, verbose=False: True
    UtilsBuilder.load = lambda self, verbose=True: Utilities()
