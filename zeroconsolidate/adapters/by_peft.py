"""A module and its adapter -> the merged tensors, computed by PEFT in a process of its own."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import DType
from ..errors import PlanBroken, UnsupportedLayout, at
from ..integrations import apart
from ..run.cast import STORAGE
from ..run.elements import read_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..run.inputs import Inputs
    from .recipes import ModuleJob, OfModule


class Peft:
    """A running process. It ends with :meth:`close`."""

    def __init__(self, job: ModuleJob) -> None:
        self.setting = job.setting
        self._process = subprocess.Popen(  # noqa: S603  (our own module, no shell)
            apart.command("-m", "zeroconsolidate.integrations.peft_modules", *job.setting),
            env=apart.environment(with_us=True),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def merge(self, job: ModuleJob, inputs: Inputs) -> dict[str, NDArray[np.generic]]:
        """The module's own tensors, flat, by name."""
        return self._asked(job, inputs, {})

    def answers(self, job: ModuleJob, inputs: Inputs, most: int) -> dict[str, NDArray[np.generic]]:
        """`answers`: the unmerged module's outputs for at most so many unit vectors, minus its output for zeros; and
        `rows` or `columns`: which rows or columns of its weight these are. Empty for a module that is not linear."""
        return self._asked(job, inputs, {"vectors": most})

    def _asked(self, job: ModuleJob, inputs: Inputs, more: dict[str, int]) -> dict[str, NDArray[np.generic]]:
        listed = [[t.name, t.factor.recipe.dtype.torch_name, list(t.factor.shape)] for t in job.tensors]
        if self._process.stdin is None:
            raise PlanBroken("the process was started without a pipe")
        try:
            self._process.stdin.write(json.dumps({"module": job.module, "tensors": listed, **more}).encode() + b"\n")
            for tensor in job.tensors:
                elements = read_all(tensor.factor.recipe, inputs)
                self._process.stdin.write(elements.view("u1").data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise UnsupportedLayout("PEFT could not merge the module: its process has ended") from None
        return self._answer()

    def close(self) -> None:
        """End the process. Calling this again does no harm."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self) -> dict[str, NDArray[np.generic]]:
        if self._process.stdout is None:
            raise PlanBroken("the process was started without a pipe")
        line = self._process.stdout.readline()
        header: dict[str, Any] = json.loads(line) if line else {"error": "its process has ended"}
        if "error" in header:
            raise UnsupportedLayout(f"PEFT could not merge the module: {header['error']}")
        found = {}
        for name, dtype, shape in header["tensors"]:
            elements = np.empty(int(np.prod(shape, dtype=np.int64)), STORAGE[DType.of(dtype)])
            self._process.stdout.readinto(elements.view("u1").data)  # type: ignore[attr-defined]
            found[name] = elements
        return found


class OfModuleReader:
    """Reads one tensor of a module that PEFT merges."""

    block_numel = None

    def __init__(self, recipe: OfModule, inputs: Inputs) -> None:
        with at(recipe.job.module):
            name = f"base_layer.{recipe.tensor}"
            merged = inputs.resource(_Merges, _Merges).merged(recipe.job, inputs)
            if name not in merged or len(merged[name]) != recipe.numel:
                raise UnsupportedLayout(f"PEFT returned {', '.join(merged)}", expected=f"{name} of {recipe.numel}")
            self._elements = merged[name]

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        block[: stop - start] = self._elements[start:stop]


class _Merges:
    """What a run keeps of its merges: the process, and the tensors of the last module, since weight and bias are
    written one by one."""

    def __init__(self) -> None:
        self._peft: Peft | None = None
        self._last: tuple[ModuleJob, dict[str, NDArray[np.generic]]] | None = None

    def merged(self, job: ModuleJob, inputs: Inputs) -> dict[str, NDArray[np.generic]]:
        """The tensors of a module, by name."""
        if self._last is not None and self._last[0] is job:
            return self._last[1]
        self._last = None
        if self._peft is None or self._peft.setting != job.setting:
            if self._peft is not None:
                self._peft.close()
            self._peft = Peft(job)
        merged = self._peft.merge(job, inputs)
        self._last = (job, merged)
        return merged

    def close(self) -> None:
        """End the process. Calling this again does no harm."""
        self._last = None
        if self._peft is not None:
            self._peft.close()
