"""A catalog -> a mapping from names to tensors that are read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..opening.info import CheckpointInfo, describe
from ..plan.build import Source, sources
from ..run.inputs import Inputs

if TYPE_CHECKING:
    import torch

    from ..catalog.facts import Catalog


class TensorView:
    """A tensor of a checkpoint that has not been read yet.

    Its name, shape and dtype are known from metadata. :meth:`load` reads the values.

    Attributes
    ----------
    name : str
        Its name in the checkpoint.
    shape
    role
    numel
    dtype

    Examples
    --------
    >>> import zeroconsolidate
    >>> checkpoint = zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> checkpoint["embed.weight"]
    TensorView('embed.weight', [13, 7], float32, trainable)
    """

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self._source = source

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor, whatever the number of ranks."""
        return self._source.shape

    @property
    def role(self) -> str:
        """`trainable`, `frozen` or `buffer`."""
        return self._source.role

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self._source.recipe.numel

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it is stored in: torch.float32 for master weights. Imports torch."""
        import torch

        dtype: torch.dtype = getattr(torch, self._source.recipe.dtype.torch_name)
        return dtype

    def load(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Read the tensor into memory.

        Parameters
        ----------
        dtype : torch.dtype, optional
            Cast the tensor to it. Left out, the tensor keeps the dtype it is stored in.

        Returns
        -------
        torch.Tensor
            The whole tensor, contiguous, on the CPU.

        Raises
        ------
        DamagedFile
            If a file cannot be read any more, or has become shorter since the checkpoint was opened.

        Notes
        -----
        Memory: the tensor itself, and a second one while it is cast.
        """
        from ..run.elements import read_all
        from ..run.tensors import to_torch

        recipe = self._source.recipe
        with Inputs() as inputs:
            tensor = to_torch(read_all(recipe, inputs), recipe.dtype).reshape(self.shape)
        return tensor if dtype is None else tensor.to(dtype)

    def __repr__(self) -> str:
        return f"TensorView({self.name!r}, {list(self.shape)}, {self._source.recipe.dtype.torch_name}, {self.role})"


class Checkpoint(Mapping[str, TensorView]):
    """A mapping from names to tensors that are read when they are asked for.

    It has all names of the module's state dict, second names of tied weights included, in the module's order.
    :func:`zeroconsolidate.open_checkpoint` returns it.

    Attributes
    ----------
    info
    ties : Mapping[str, str]
        Second names of tied weights: second name to the name that the weight is stored under.

    Examples
    --------
    >>> import zeroconsolidate
    >>> checkpoint = zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> state_dict = {name: tensor.load() for name, tensor in checkpoint.items()}
    >>> state_dict["embed.weight"].shape
    torch.Size([13, 7])
    """

    def __init__(self, catalog: Catalog) -> None:
        stored = sources(catalog)
        self._info = describe(catalog)
        self._sources = {
            name: stored[owner] for name in catalog.order if (owner := catalog.ties.get(name, name)) in stored
        }
        self.ties: Mapping[str, str] = dict(catalog.ties)

    @property
    def info(self) -> CheckpointInfo:
        """What :func:`zeroconsolidate.inspect` returns of this checkpoint."""
        return self._info

    def __getitem__(self, name: str) -> TensorView:
        return TensorView(name, self._sources[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __repr__(self) -> str:
        info = self._info
        return f"<Checkpoint {info.root} {info.tag}: stage {info.stage}, {info.world_size} ranks, {len(self)} tensors>"
