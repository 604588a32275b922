"""A staged file -> an error if the safetensors library does not read in it what was planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.safetensors import read_file
from ..errors import OutputFailed, PlanBroken, at

if TYPE_CHECKING:
    from ..plan.layout import FilePlan


def check(path: str, plan: FilePlan) -> None:
    """The file must be readable by safetensors and hold the planned names, dtypes and shapes. Raises PlanBroken."""
    from safetensors import SafetensorError

    with at(plan.name):
        try:
            written = _tensors(path)
        except SafetensorError as error:
            raise PlanBroken(f"the file cannot be opened by safetensors: {error}") from None
        except OSError as error:
            if isinstance(error, OutputFailed):
                raise
            raise OutputFailed(f"the staged file cannot be read back: {error}", errno=error.errno) from None
        if written.keys() != {tensor.name for tensor in plan.tensors}:
            raise PlanBroken("the file does not hold the planned tensors")
        for tensor in plan.tensors:
            if written[tensor.name] != (tensor.dtype.code, tensor.shape):
                with at(tensor.name):
                    raise PlanBroken(
                        "the tensor was written wrongly",
                        expected=f"{tensor.dtype.code} {tensor.shape}",
                        found=written[tensor.name],
                    )


def _tensors(path: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name -> (dtype, shape), as the safetensors library reads them."""
    from safetensors import safe_open

    try:
        # "np" keeps torch out; no tensor is read, so numpy's lack of bfloat16 does not matter.
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is not a mapping)
            return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except MemoryError:
        # It maps the whole file, for which a limit on the address space (`ulimit -v`) may leave no room. Our own
        # reader of headers checks what its reader does.
        return {name: (tensor.dtype.code, tensor.shape) for name, tensor in read_file(path).tensors.items()}
