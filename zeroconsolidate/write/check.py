"""Opens what was written with the safetensors library and compares it with the plan, before it gets its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import OutputFailed, PlanBroken, at

if TYPE_CHECKING:
    from ..plan.layout import FilePlan


def check(path: str, plan: FilePlan) -> None:
    """The file must be readable by safetensors and hold the planned names, dtypes and shapes. Raises PlanBroken."""
    from safetensors import SafetensorError, safe_open

    with at(plan.name):
        try:
            # "np" keeps torch out; no tensor is read, so numpy's lack of bfloat16 does not matter.
            with safe_open(path, framework="np") as file:
                names = set(file.keys())
                if names != {tensor.name for tensor in plan.tensors}:
                    raise PlanBroken("the file does not hold the planned tensors")
                for tensor in plan.tensors:
                    written = file.get_slice(tensor.name)
                    got = (written.get_dtype(), tuple(written.get_shape()))
                    if got != (tensor.dtype.code, tensor.shape):
                        with at(tensor.name):
                            raise PlanBroken(
                                f"the tensor was written wrongly; expected {tensor.dtype.code} {tensor.shape}, "
                                f"got {got}"
                            )
        except SafetensorError as error:
            raise PlanBroken(f"the file cannot be opened by safetensors: {error}") from None
        except OSError as error:
            if isinstance(error, OutputFailed):
                raise
            raise OutputFailed(f"the staged file cannot be read back: {error}", errno=error.errno) from None
