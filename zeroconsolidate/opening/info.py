"""A catalog -> what `inspect` returns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..dtypes import DType
from ..errors import at
from ..naming.several import parts_of
from ..plan.joins import whole_shape
from .losses import Loss, losses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Catalog
    from ..naming.several import Part
    from .resume import Resume


_WRAPPERS = {"none": "no DeepSpeed optimizer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes
    ----------
    name : str
        Its name in the checkpoint.
    shape : tuple[int, ...]
        Shape of the whole tensor, whatever the number of ranks.
    dtype : str
        The dtype it is stored in, as torch spells it: float32 for master weights.
    role : str
        `trainable`, `frozen`, `buffer` or `tie`.
    tied_to : str | None
        For a tie, the name that its parameter is stored under.
    numel

    Examples
    --------
    >>> import zeroconsolidate
    >>> tensor = zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint").tensors[0]
    >>> tensor.name, tensor.shape, tensor.role
    ('embed.weight', (13, 7), 'trainable')
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    tied_to: str | None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint holds, from metadata alone.

    :func:`zeroconsolidate.inspect` returns it. Sizes are bytes, counts are elements.

    Attributes
    ----------
    root : str
        The checkpoint's directory.
    tag : str
        The folder in it that was read, such as `global_step500`.
    tags : tuple[str, ...]
        All tags of the checkpoint.
    complete : Mapping[str, bool]
        Whether every file of a tag is there and agrees with the others, by tag. Of many tags only the newest are
        checked.
    latest : str | None
        The tag that the file `latest` names.
    stage : int
        The ZeRO stage.
    layout : str
        Stage, degrees of parallelism and DeepSpeed's optimizer class, in words.
    world_size : int
        Data-parallel ranks.
    degrees : Mapping[str, int]
        Ranks along each axis of parallelism: `dp`, `tp`, `pp` and `ep`.
    wrapper : str
        DeepSpeed's class around the optimizer, recognised by what it saves.
    writer : str
        The file format, such as `torch zip`.
    files : tuple[str, ...]
        Names of the files that were read; of a universal checkpoint each name once.
    missing_files : tuple[str, ...]
        Files of ranks that are missing or cannot be used; empty for a complete checkpoint.
    reasons : Mapping[str, str]
        Why each of the missing files cannot be used, by file.
    losses : tuple[Loss, ...]
        What is lost of each tensor with the missing files; empty for a complete checkpoint.
    step : int | None
        The training step, None if the checkpoint does not say.
    ds_version : str | None
        The release of DeepSpeed that saved it.
    training_dtype : str
        The dtype of the forward pass, as torch spells it.
    optimizer : str | None
        The optimizer that DeepSpeed built, None if the training script made it.
    optimizer_state : tuple[str, ...]
        Names of what the optimizer keeps for each element, such as `exp_avg`.
    param_groups : tuple[Mapping[str, object], ...]
        Settings of each of the optimizer's groups, such as `lr`.
    flat_groups : tuple[int, ...]
        Elements of the parameters in each flat group.
    parameters : Mapping[str, int]
        Elements by role: `trainable`, `frozen` and `buffer`.
    counts : Mapping[str, int]
        Number of tensors by role: `trainable`, `frozen`, `buffer` and `tie`.
    output_bytes : Mapping[str, int]
        Estimated size of the weights, by dtype.
    tensors : tuple[TensorInfo, ...]
        Every tensor, in the order of the module.
    modules : tuple[Part, ...]
        Modules next to each other that have layers of their own: several models, or the towers of one. Empty for a
        single model.
    not_saved : Mapping[str, str]
        Why no file has the values of a parameter, by its name, for parameters that were not saved.
    notes : tuple[str, ...]
        What is unusual.
    resume : Resume | None
        Whether a training can resume, and from which save: this one, another tag, or another checkpoint of the run.

    Examples
    --------
    >>> import zeroconsolidate
    >>> info = zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> info.tag, info.step, info.optimizer_state
    ('global_step2', 2, ('exp_avg', 'exp_avg_sq'))
    """

    root: str
    tag: str
    tags: tuple[str, ...]
    complete: Mapping[str, bool]
    latest: str | None
    stage: int
    layout: str
    world_size: int
    degrees: Mapping[str, int]
    wrapper: str
    writer: str
    files: tuple[str, ...]
    missing_files: tuple[str, ...]
    reasons: Mapping[str, str]
    losses: tuple[Loss, ...]
    step: int | None
    ds_version: str | None
    training_dtype: str
    optimizer: str | None
    optimizer_state: tuple[str, ...]
    param_groups: tuple[Mapping[str, object], ...]
    flat_groups: tuple[int, ...]
    parameters: Mapping[str, int]
    counts: Mapping[str, int]
    output_bytes: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    modules: tuple[Part, ...]
    not_saved: Mapping[str, str]
    notes: tuple[str, ...]
    resume: Resume | None

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        resume = asdict(self.resume) | {"text": self.resume.text} if self.resume else None
        return asdict(self) | {"resume": resume}


def describe(
    catalog: Catalog,
    reasons: Mapping[str, str] | None = None,
    complete: Mapping[str, bool] | None = None,
    resume: Resume | None = None,
) -> CheckpointInfo:
    """What `inspect` returns of a catalog. `reasons`: why each of its missing files cannot be used. `complete`: by tag,
    for other tags than the catalog's, whether they are complete."""
    origin = catalog.origin
    tensors = _tensors(catalog)
    counts = dict.fromkeys(("trainable", "frozen", "buffer", "tie"), 0)
    numels = dict.fromkeys(("trainable", "frozen", "buffer"), 0)
    buffer_bytes = sum(b.numel * b.dtype.itemsize for b in catalog.buffers.values())
    for tensor in tensors:
        counts[tensor.role] += 1
        if tensor.role != "tie":
            numels[tensor.role] += tensor.numel
    parameters = numels["trainable"] + numels["frozen"]
    return CheckpointInfo(
        root=origin.root,
        tag=origin.tag,
        tags=origin.tags,
        complete={**(complete or {}), origin.tag: not catalog.missing},
        latest=origin.latest,
        stage=origin.stage,
        layout=f"ZeRO stage {origin.stage}, {origin.degrees}, {_WRAPPERS.get(origin.wrapper, origin.wrapper)}",
        world_size=origin.world_size,
        degrees=asdict(origin.degrees),
        wrapper=origin.wrapper,
        writer=origin.writer,
        files=tuple(dict.fromkeys(path.rpartition("/")[2] for path in catalog.files)),
        missing_files=catalog.missing,
        reasons=dict(reasons or {}),
        losses=losses(catalog) if catalog.missing else (),
        step=origin.step,
        ds_version=origin.ds_version,
        training_dtype=origin.training_dtype.torch_name,
        optimizer=origin.optimizer,
        optimizer_state=origin.optimizer_state,
        param_groups=origin.param_groups,
        flat_groups=tuple(sum(member.numel for member in group.members) for group in catalog.groups),
        parameters=numels,
        counts=counts,
        output_bytes={"float32": 4 * parameters + buffer_bytes, "bfloat16": 2 * parameters + buffer_bytes},
        tensors=tensors,
        modules=parts_of({t.name: t.shape for t in tensors if t.role in ("trainable", "frozen")}),
        not_saved={name: why.value for name, why in catalog.unsaved.items()},
        notes=(*catalog.notes, *_not_saved(catalog)),
        resume=resume,
    )


def _not_saved(catalog: Catalog) -> list[str]:
    """What is said of the parameters whose values no file has: one note for each reason."""
    reasons = dict.fromkeys(catalog.unsaved.values())
    counts = {why: sum(reason is why for reason in catalog.unsaved.values()) for why in reasons}
    return [
        f"{counted(count, 'parameter')} without values here: {why.value}; a conversion needs the model that training "
        "began with (--base)"
        for why, count in counts.items()
    ]


def _tensors(catalog: Catalog) -> tuple[TensorInfo, ...]:
    found = []
    facts = _facts(catalog)
    for name in catalog.order:
        owner = catalog.ties.get(name)
        shape, dtype, role = facts[owner or name]
        found.append(TensorInfo(name=name, shape=shape, dtype=dtype, role="tie" if owner else role, tied_to=owner))
    return tuple(found)


def _facts(catalog: Catalog) -> dict[str, tuple[tuple[int, ...], str, str]]:
    """Name -> shape of the whole, dtype as stored, role."""
    parts: dict[str, list[tuple[tuple[int, ...], str, str]]] = {}
    for part in catalog.parts:
        held: dict[str, tuple[tuple[int, ...], str, str]] = {}
        for group in part.groups:
            dtype = group.partitions[0].dtype.torch_name if group.partitions else DType.F32.torch_name
            held |= {member.name: (member.shape, dtype, "trainable") for member in group.members}
        for masters in part.masters:
            held |= {name: (m.shape, m.dtype.torch_name, "trainable") for name, m in masters.items()}
        held |= {name: (f.shape, f.dtype.torch_name, "frozen") for name, f in part.frozen.items()}
        held |= {name: (b.shape, b.dtype.torch_name, "buffer") for name, b in part.buffers.items()}
        for name, fact in held.items():
            parts.setdefault(name, []).append(fact)
    facts = {}
    for name, held_by in parts.items():
        shape, dtype, role = held_by[0]
        if role != "buffer":
            with at(name):
                shape = whole_shape(catalog.joins.get(name), [fact[0] for fact in held_by])
        facts[name] = (shape, dtype, role)
    return facts
