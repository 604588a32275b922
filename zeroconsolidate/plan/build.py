"""Catalog and options -> the plan of the weights: names, ties, dtypes and shards, before a byte is read."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..archive.model_files import WEIGHTS
from ..errors import BadOption
from .congruent import Congruent, Sharing, congruent
from .fragment import FragmentPlan
from .layout import FilePlan, TensorPlan, index_of, lay_out, split
from .sources import Source, padding_bytes, placed, sources
from .whole_file import WholeFilePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from .witness import Witnesses

__all__ = [
    "Cost",
    "ModelPlan",
    "Selection",
    "Source",
    "build",
    "padding_bytes",
    "placed",
    "refuse_empty",
    "select",
    "sources",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What will be written, by output name, and the names that will not. Each step of planning makes a new one:
    ties are dropped, names filtered and changed, adapters merged; then the rest is laid out."""

    named: Mapping[str, Source]
    left_out: tuple[str, ...]

    def only(self, wanted: Callable[[str, Source], bool]) -> Selection:
        """Without the tensors that are not `wanted(name, source)`."""
        kept = {name: source for name, source in self.named.items() if wanted(name, source)}
        return Selection(named=kept, left_out=(*self.left_out, *(name for name in self.named if name not in kept)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a conversion would read, write and need.

    :func:`zeroconsolidate.estimate` returns it.

    Attributes
    ----------
    input_bytes : int
        Tensor data that is read. What is cloned is not, unless it is compared with the master weights first.
    output_bytes : int
        Size of the weights, with what the optimizer keeps of them if that is asked for: all files, and the index.
    cloned_bytes : int
        Those of `output_bytes` that are not copied: they will share the blocks of the checkpoint's files on the disk.
        Of copies in 16 bits, those that equal the master weights will.
    peak_memory_bytes : int
        An upper bound for the memory that copying allocates. Python itself takes 30 MB more.
    files : int
        Files of weights, the index included.
    tensors : int
        Tensors that are written.

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.estimate("tests/fixtures/z3_bf16/checkpoint", names="stored").tensors
    19
    """

    input_bytes: int
    output_bytes: int
    cloned_bytes: int
    peak_memory_bytes: int
    files: int
    tensors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Every byte of the weights to be written, and where it comes from."""

    files: tuple[FilePlan, ...]
    index: bytes | None
    """Content of the index, for a model in several shards."""
    left_out: tuple[str, ...]
    """Names that the checkpoint has and the output has not: dropped ties, excluded tensors."""
    padding_bytes: int
    """Bytes of flat groups that belong to no parameter."""
    name: str = WEIGHTS
    """Of the model's file, whether or not it is split."""
    sharing: Sharing | None = None
    """What the layout goes by, if it is one in which blocks can be shared."""
    cloned_bytes: int = 0
    """Bytes that can share the blocks of input files."""
    compared_bytes: int = 0
    """Those of them that are read anyway, to be compared with the masters."""
    optimizer: tuple[FilePlan, ...] = ()
    """What the optimizer keeps of the weights."""

    @property
    def all_files(self) -> tuple[FilePlan, ...]:
        """Every file of tensors."""
        return (*self.files, *self.optimizer)

    @property
    def index_name(self) -> str:
        """What the index is called: as the model's file would be."""
        return f"{self.name}.index.json"

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every file, with the index."""
        index = {} if self.index is None else {self.index_name: len(self.index)}
        return {file.name: file.size_bytes for file in self.all_files} | index

    def tensors(self) -> Iterator[TensorPlan]:
        """The weights, file by file."""
        for file in self.files:
            yield from file.tensors

    def cost(self, block_bytes: int, workers: int = 1) -> Cost:
        """The plan's cost when it is executed with blocks of `block_bytes` by so many threads."""
        files = self.all_files
        tensors = [tensor for file in files for tensor in file.tensors]
        copied = all(tensor.is_copy for tensor in tensors)
        # A fragment has a checksum, for which its bytes are read wherever they lie.
        checked_bytes = sum(file.shared_bytes for file in files if isinstance(file, FragmentPlan))
        return Cost(
            input_bytes=sum(tensor.input_bytes for tensor in tensors)
            - (self.cloned_bytes - self.compared_bytes)
            + checked_bytes,
            output_bytes=sum(self.sizes.values()),
            cloned_bytes=self.cloned_bytes,
            peak_memory_bytes=sum(len(file.header) for file in files)
            + workers * ((0 if copied else 8 * block_bytes) + max(tensor.recipe.memory_bytes for tensor in tensors)),
            files=len(files) + (self.index is not None),
            tensors=sum(len(file.tensors) for file in files if not isinstance(file, WholeFilePlan)),
        )


def select(
    catalog: Catalog, stored: Mapping[str, Source], *, copy_ties: bool, wanted: Callable[[str, Source], bool]
) -> Selection:
    """Choose the names to write, of those that are `wanted(name, source)`: a tied parameter under all of its names,
    or under the first in the order of the module, which is the one transformers keeps."""
    kept: dict[str, str] = {}
    named: dict[str, Source] = {}
    left_out: list[str] = []
    for name in catalog.order:
        owner = catalog.ties.get(name, name)
        if owner not in stored:
            continue
        # Asked before a name is kept: who excludes the first name of a tied parameter still gets the second.
        if wanted(name, stored[owner]) and (copy_ties or kept.setdefault(owner, name) == name):
            named[name] = stored[owner]
        else:
            left_out.append(name)
    return Selection(named=named, left_out=tuple(left_out))


def build(
    selection: Selection,
    *,
    dtype: DType | None,
    max_shard_bytes: int | None,
    padding_bytes: int,
    folders: Mapping[str, Mapping[str, Source]] = MappingProxyType({}),
    name: str = WEIGHTS,
    sharing: Sharing | None = None,
    witnesses: Witnesses = MappingProxyType({}),
) -> ModelPlan:
    """Plan the output.

    `dtype`: what floating-point parameters are cast to, None to keep each as it is stored. `folders`: tensors of parts
    of the model that lie in folders of their own, one file each. `name`: of the model's own file. `sharing`: what the
    disk can share, None to copy everything. `witnesses`: copies that may be shared in place of what is cast. Raises
    BadOption if there is nothing to write.
    """
    if not folders:
        refuse_empty(selection)
    files: tuple[FilePlan, ...] = ()
    shared: Congruent | None = None
    if selection.named:
        if sharing is not None:
            tensors = tensor_plans(selection.named, dtype, witnesses)
            shared = congruent(tensors, max_shard_bytes, sharing, name=name)
        if shared is not None:
            files = shared.files
        else:
            files = tuple(split(tensor_plans(selection.named, dtype), max_shard_bytes, name=name))
    index = index_of(files) if files else None
    files += tuple(lay_out(f"{folder}/{WEIGHTS}", tensor_plans(named, dtype)) for folder, named in folders.items())
    return ModelPlan(
        files=files,
        index=index,
        left_out=selection.left_out,
        padding_bytes=padding_bytes,
        name=name,
        sharing=sharing if shared is not None else None,
        cloned_bytes=shared.shared_bytes if shared is not None else 0,
        compared_bytes=shared.compared_bytes if shared is not None else 0,
    )


def refuse_empty(selection: Selection) -> None:
    """Refuse a selection without tensors. Raises BadOption."""
    if not selection.named:
        raise BadOption("nothing is left to write: the options exclude every tensor of the checkpoint")


def tensor_plans(
    named: Mapping[str, Source], dtype: DType | None, witnesses: Witnesses = MappingProxyType({})
) -> list[TensorPlan]:
    """The tensors of the output, floating-point parameters as `dtype`. Those that are cast get their witness, if that
    is of this dtype and they are nothing but what it is the copy of."""
    tensors = []
    for name, source in named.items():
        is_parameter = source.role != "buffer"
        castable = is_parameter and not source.keeps_dtype and source.recipe.dtype.kind in ("float", "float8")
        written = dtype if castable and dtype is not None else source.recipe.dtype
        masters, copy = witnesses.get(source.name, (None, None))
        is_witnessed = copy is not None and masters is source.recipe and copy.dtype is written is not masters.dtype
        tensors.append(
            TensorPlan(
                name=name,
                dtype=written,
                shape=source.shape,
                recipe=source.recipe,
                is_parameter=is_parameter,
                witness=copy if is_witnessed else None,
            )
        )
    return tensors
