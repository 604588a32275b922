"""A tensor of a checkpoint that is read, whole or in part, when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..dtypes import DType
from ..errors import BadOption
from ..integrations.packages import need_torch
from ..options import element_type
from ..plan.index import box
from ..run.inputs import Inputs

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..plan.index import Key
    from ..plan.sources import Source
    from ..run.storage import Readable

_TENSOR = "a tensor of torch, which numpy() gives as an array,"


class TensorView:
    """A tensor of a checkpoint that has not been read yet.

    Its name, shape and dtype are known from metadata. :meth:`load` reads all of it, and `view[2:10, ..., 0]` the
    elements that are named, with ints, slices of steps above 0 and `...` as in numpy: of the files, no more than the
    pages these elements are on.

    Attributes
    ----------
    name : str
        Its name in the mapping.
    shape
    ndim
    role
    numel
    nbytes
    dtype

    Examples
    --------
    >>> import zeroconsolidate
    >>> checkpoint = zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weight = checkpoint["embed.weight"]
    >>> weight
    TensorView('embed.weight', [13, 7], float32, trainable)
    >>> weight[2:4, ::3].shape
    torch.Size([2, 3])
    """

    def __init__(self, name: str, source: Source, files: Readable | None = None) -> None:
        self.name = name
        self._source = source
        self._files = files

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor, whatever the number of ranks."""
        return self._source.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def role(self) -> str:
        """`trainable`, `frozen` or `buffer`."""
        return self._source.role

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self._source.recipe.numel

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in memory."""
        return self.numel * self._source.recipe.dtype.itemsize

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it is stored in: torch.float32 for master weights. Imports torch, or raises MissingPackage."""
        need_torch("a dtype of torch")
        import torch

        dtype: torch.dtype = getattr(torch, self._source.recipe.dtype.torch_name)
        return dtype

    def load(self, dtype: torch.dtype | str | None = None) -> torch.Tensor:
        """Read the tensor into memory.

        Parameters
        ----------
        dtype : torch.dtype or str, optional
            Cast the tensor to it, such as `torch.bfloat16` or "bf16". Left out, the tensor keeps the dtype it is stored
            in.

        Returns
        -------
        torch.Tensor
            The whole tensor, contiguous, on the CPU.

        Raises
        ------
        DamagedFile
            If a file cannot be read any more, or was changed since the checkpoint was opened.
        BadOption
            If there is no such dtype.
        MissingPackage
            If torch is not installed. `numpy()` does without.

        Notes
        -----
        Memory: the tensor itself, and a second one while it is cast.
        """
        need_torch(_TENSOR)
        from ..run.elements import read_all
        from ..run.tensors import to_torch

        recipe = self._source.recipe
        wanted = None if dtype is None else _torch_dtype(dtype)
        with Inputs(self._files) as inputs:
            tensor = to_torch(read_all(recipe, inputs), recipe.dtype).reshape(self.shape)
        return tensor if wanted is None else tensor.to(wanted)

    def __getitem__(self, key: Key) -> torch.Tensor:
        """The elements that `key` names, contiguous, on the CPU. Raises BadIndex, and what `load` raises."""
        need_torch(_TENSOR)
        from ..run.boxes import read_box
        from ..run.tensors import to_torch

        recipe, chosen = self._source.recipe, box(key, self.shape)
        with Inputs(self._files) as inputs:
            elements = read_box(recipe, chosen, inputs)
        return to_torch(elements.reshape(-1), recipe.dtype).reshape(chosen.result_shape)

    def numpy(self, dtype: torch.dtype | str | None = None) -> NDArray[np.generic]:
        """Read the tensor into memory as an array, without torch.

        Parameters
        ----------
        dtype : torch.dtype or str, optional
            Cast floating-point elements to it, such as "fp32". Needed for bfloat16 and float8, which numpy does not
            have.

        Returns
        -------
        numpy.ndarray
            The whole tensor.

        Raises
        ------
        BadOption
            If numpy has no such dtype. The bits are in `load().view(torch.uint16).numpy()`.
        DamagedFile
            If a file cannot be read any more, or was changed since the checkpoint was opened.
        """
        import numpy as np

        from ..run.cast import as_dtype
        from ..run.elements import read_all

        recipe = self._source.recipe
        wanted = recipe.dtype if dtype is None else element_type(dtype)
        if wanted is not recipe.dtype and not (wanted.is_floating and recipe.dtype.kind in ("float", "float8")):
            raise BadOption(
                f"{recipe.dtype.torch_name} is not cast to {wanted.torch_name} here", remedy="cast what numpy() returns"
            )
        if wanted is DType.BF16 or wanted.kind == "float8":
            raise BadOption(
                f"numpy has no {wanted.torch_name}",
                remedy=(
                    'the same numbers in a dtype that it has: numpy(dtype="fp32")',
                    "the bits: load().view(torch.uint16).numpy()",
                ),
            )
        with Inputs(self._files) as inputs:
            elements = as_dtype(read_all(recipe, inputs), recipe.dtype, wanted)
        array: NDArray[np.generic] = elements.view(np.dtype(wanted.torch_name)).reshape(self.shape)
        return array

    def __repr__(self) -> str:
        return f"TensorView({self.name!r}, {list(self.shape)}, {self._source.recipe.dtype.torch_name}, {self.role})"


def _torch_dtype(given: object) -> Any:
    import torch

    return getattr(torch, element_type(given).torch_name)
