"""A staged file -> an error if its reader (the safetensors library, or ours of torch's files) finds anything but what
was planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.container import ZipContainer
from ..archive.located import LocatedTensor
from ..archive.safetensors import read_file
from ..archive.unpickle import unpickle_placeless
from ..errors import DamagedFile, OutputFailed, PlanBroken, at
from ..plan.fragment import FragmentPlan
from ..plan.whole_file import WholeFilePlan

if TYPE_CHECKING:
    from ..plan.layout import FilePlan


def check(path: str, plan: FilePlan) -> None:
    """The file must be readable and hold the planned names, dtypes and shapes. Raises PlanBroken."""
    if isinstance(plan, FragmentPlan):
        _check_fragment(path, plan)
        return
    if isinstance(plan, WholeFilePlan):
        return  # it is as good as the file that it is a copy of
    from safetensors import SafetensorError

    with at(plan.name):
        try:
            written = _tensors(path)
        except SafetensorError as error:
            raise PlanBroken(f"the file cannot be opened by safetensors: {error}") from None
        except OSError as error:
            raise _unreadable(error) from None
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


def _check_fragment(path: str, plan: FragmentPlan) -> None:
    """A file of torch must have the planned tensor where its bytes were copied to."""
    with at(plan.name):
        try:
            with ZipContainer(path) as container:
                content, _ = unpickle_placeless(container.read_pickle(), container)
        except DamagedFile as error:
            raise PlanBroken(f"the file cannot be read again: {error}") from None
        except OSError as error:
            raise _unreadable(error) from None
        found = content.get("param") if isinstance(content, dict) else content
        wanted = [(tensor.dtype.code, tensor.shape, len(plan.header)) for tensor in plan.tensors]
        there = [(found.dtype.code, found.shape, found.start)] if isinstance(found, LocatedTensor) else []
        if plan.data_bytes and there != wanted:
            raise PlanBroken("the tensor was written wrongly", expected=wanted, found=there)


def _unreadable(error: OSError) -> OutputFailed:
    """A file that we have just written and that cannot be read: whatever is wrong is wrong with the disk."""
    if isinstance(error, OutputFailed):
        return error
    return OutputFailed(f"the staged file cannot be read back: {error}", errno=error.errno)
