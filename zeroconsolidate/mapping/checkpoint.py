"""A checkpoint that is open -> a mapping from names to tensors that are read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..archive.phrases import counted, listed
from ..errors import MissingFiles, NoSuchTensor, UnsupportedLayout
from ..options import element_type
from ..outputs.named import in_storage_order, nearest, written_names
from ..plan.states import MASTERS, states
from ..run.files import Files
from .client_state import client_state
from .views import TensorView

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from typing_extensions import Self

    from ..dtypes import DType
    from ..opening.info import CheckpointInfo
    from ..opening.losses import Loss
    from ..opening.opened import Opened
    from ..options import Path
    from ..plan.sources import Source
    from ..run.storage import Readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Where the tensors of a mapping are."""

    opened: Opened
    tensors: Mapping[str, Source]
    """By their names in the mapping, second names of tied weights included."""
    files: Readable
    """What reads them."""


class Checkpoint(Mapping[str, TensorView]):
    """A mapping from names to tensors that are read when they are asked for.

    It has all names of the module's state dict, second names of tied weights included, in the module's order.
    :func:`zeroconsolidate.open_checkpoint` returns it. Any number of threads may read from it at a time. Files stay
    open until `close()`, or until the end of a `with` block; whoever reads later opens them again.

    Attributes
    ----------
    names : str
        `stored` for the names of the checkpoint; `hub` or `in-memory` for those that `consolidate` writes.
    ties : Mapping[str, str]
        Second names of tied weights: second name to the name that the weight is stored under.
    contents : Contents
        Where the tensors are, for the functions of this package.
    losses : tuple[Loss, ...]
        What is lost of each tensor, in a checkpoint that was opened with `rescue`; those that are whole are in the
        mapping.
    info
    step
    param_groups
    client_state

    Examples
    --------
    >>> import zeroconsolidate
    >>> with zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint") as checkpoint:
    ...     state_dict = {name: tensor.load() for name, tensor in checkpoint.items()}
    ...     moments = checkpoint.optimizer_state("embed.weight")
    >>> state_dict["embed.weight"].shape, list(moments)
    (torch.Size([13, 7]), ['exp_avg', 'exp_avg_sq'])
    """

    def __init__(
        self,
        opened: Opened,
        tensors: Mapping[str, Source],
        *,
        info: CheckpointInfo,
        names: str,
        ties: Mapping[str, str],
        base: Path | None = None,
        losses: tuple[Loss, ...] = (),
        files: Readable | None = None,
    ) -> None:
        self.names = names
        self.ties = ties
        self.losses = losses
        self._info = info
        self._base = base
        self._local = Files(known=opened.looks)
        self.contents = Contents(opened=opened, tensors=tensors, files=self._local if files is None else files)

    @property
    def info(self) -> CheckpointInfo:
        """What :func:`zeroconsolidate.inspect` returns of this checkpoint."""
        return self._info

    @property
    def step(self) -> int | None:
        """The training step, None if the checkpoint does not say."""
        return self._info.step

    @property
    def param_groups(self) -> tuple[Mapping[str, object], ...]:
        """Settings of each of the optimizer's groups, such as `lr`."""
        return self._info.param_groups

    @property
    def client_state(self) -> dict[str, Any]:
        """What the training program gave to `save_checkpoint` as `client_state`.

        Plain values are as they were. In place of a tensor there is a TensorView, and in place of an object of some
        class one that does nothing and shows the class's name.
        """
        return client_state(self.contents.opened.catalog, self.contents.files)

    def optimizer_state(self, name: str) -> dict[str, TensorView]:
        """What the optimizer keeps of a parameter, in the parameter's shape.

        Parameters
        ----------
        name : str
            The parameter, as this mapping calls it.

        Returns
        -------
        dict
            Name, such as `exp_avg`, to tensor; empty for frozen parameters and buffers.

        Raises
        ------
        NoSuchTensor
            If there is no such parameter.
        MissingFiles
            If files are missing.
        UnsupportedLayout
            If the optimizer's state is not laid out like the parameters, or the tensor is made of several.
        """
        source = self._source(name)
        if source.role != "trainable":
            return {}
        stored = self.contents.opened.stored.get(source.name)
        if stored is None or stored.recipe is not source.recipe:
            raise UnsupportedLayout(
                f"{name} is made of several tensors of the checkpoint, or is merged",
                consequence="the optimizer has no state of it",
                remedy='open it under the names of the checkpoint: names="stored"',
            )
        found = {state: held[source.name] for state, held in self._states.items() if source.name in held}
        if not found and (self.contents.opened.catalog.unplaced or self._info.optimizer_state):
            raise UnsupportedLayout(
                f"where the optimizer's state of {name} lies is not known",
                consequence=f"the checkpoint has {', '.join(self._info.optimizer_state) or 'one of another layout'}",
                address=(self._info.tag,),
            )
        return {state: TensorView(f"{name} ({state})", each, self.contents.files) for state, each in found.items()}

    def stream(self, dtype: torch.dtype | str | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Read all tensors one after the other, in the order in which they lie in the files.

        Memory is bounded by the largest tensor, if the caller keeps none. A tied weight comes under each of its names,
        as one tensor.

        Parameters
        ----------
        dtype : torch.dtype or str, optional
            Cast floating-point parameters to it, such as "bf16"; "auto" is the dtype of training. Buffers keep their
            own, and so do all tensors if it is left out.

        Yields
        ------
        tuple of str and torch.Tensor
            Name and tensor, on the CPU.

        Raises
        ------
        DamagedFile
            If a file cannot be read any more.
        BadOption
            If there is no such dtype.
        """
        wanted = self._element_type(dtype)
        alike: dict[int, list[str]] = {}
        for name in in_storage_order(self.contents.tensors, self.contents.opened.catalog.files):
            alike.setdefault(id(self.contents.tensors[name].recipe), []).append(name)
        for names in alike.values():
            tensor = self._load(names[0], wanted)
            for name in names:
                yield name, tensor
            del tensor

    def close(self) -> None:
        """Close the files that are open. Tensors can still be read: then they are opened again."""
        self._local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __getitem__(self, name: str) -> TensorView:
        return TensorView(name, self._source(name), self.contents.files)

    def __contains__(self, name: object) -> bool:
        return name in self.contents.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents.tensors)

    def __len__(self) -> int:
        return len(self.contents.tensors)

    def __repr__(self) -> str:
        info = self._info
        return f"<Checkpoint {info.root} {info.tag}: stage {info.stage}, {info.world_size} ranks, {len(self)} tensors>"

    @cached_property
    def _states(self) -> dict[str, dict[str, Source]]:
        return {state: held for state, held in states(self.contents.opened.catalog).items() if state != MASTERS}

    def _source(self, name: str) -> Source:
        try:
            return self.contents.tensors[name]
        except KeyError:
            pass
        owner = self.contents.opened.catalog.ties.get(name, name)
        lost = next((loss for loss in self.losses if loss.name == owner and loss.lost_numel), None)
        if lost is not None:
            raise MissingFiles(
                f"{name} is {lost.fate}",
                files=self._info.missing_files,
                consequence=f"{counted(lost.lost_numel, 'element')} of {lost.numel} were in files that are missing",
            )
        raise self._no_such_tensor(name)

    def _no_such_tensor(self, name: str) -> NoSuchTensor:
        """The error for a name that is not here, with those that may be meant."""
        written = written_names(self.contents.opened, self._base)
        if self.names == "stored" and name in written:
            return NoSuchTensor(
                f"the checkpoint has no tensor {name!r}",
                consequence=f"that is what {written[name]!r} is called when it is written",
                remedy='open it under the names that are written: open_checkpoint(..., names="hub")',
            )
        calls: dict[str, str] = {}
        for new, stored in written.items():
            if stored not in written:
                calls.setdefault(stored, new)
        here = (
            f"here it is {calls[name]!r}" if self.names != "stored" and calls.get(name) in self.contents.tensors else ""
        )
        near = [
            f"{each!r}" + (f" (written as {calls[each]!r})" if self.names == "stored" and each in calls else "")
            for each in nearest(name, self.contents.tensors)
        ]
        return NoSuchTensor(
            f"the checkpoint has no tensor {name!r}",
            consequence=here or (f"the nearest names are {listed(near, 3)}" if near else None),
            remedy=None if here or near else "list(checkpoint) has all names",
        )

    def _element_type(self, dtype: torch.dtype | str | None) -> DType | None:
        if dtype is None:
            return None
        return self.contents.opened.catalog.origin.training_dtype if dtype == "auto" else element_type(dtype)

    def _load(self, name: str, dtype: DType | None) -> torch.Tensor:
        """A tensor, floating-point parameters as `dtype`."""
        source = self.contents.tensors[name]
        castable = source.role != "buffer" and source.recipe.dtype.kind in ("float", "float8")
        return self[name].load(dtype.torch_name if dtype is not None and castable else None)
