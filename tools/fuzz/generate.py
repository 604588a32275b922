"""Raw checkpoints made of choices: the shape of real ones, with any part replaced by what does not belong there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zeroconsolidate.archive import names
from zeroconsolidate.archive.inert import Inert, PlainDict
from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor
from zeroconsolidate.archive.raw import CheckpointFiles, RawFile
from zeroconsolidate.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from draw import Draw

    from zeroconsolidate.archive.names import FileKind

_NAMES = ["a.weight", "b.weight", "b.bias", "c", "d.running", "../x", "é", "", "a\n", "__metadata__"]
_DTYPES = [DType.F32, DType.BF16, DType.F16, DType.I64, DType.U8, DType.BOOL]


def checkpoint(draw: Draw) -> tuple[CheckpointFiles, Callable[[CheckpointFiles, FileKind], Iterable[RawFile]]]:
    """The files of a tag and a `load` that yields their generated contents."""
    striped = bool(draw.below(2))
    world_size = 1 + draw.below(3)
    shapes = [_shapes(draw) for _ in range(1 + draw.below(2))]
    present = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(world_size)]
    if striped:
        present += [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(world_size)]
    else:
        present.append("mp_rank_00_model_states.pt")
    if draw.below(8) == 7:
        present.pop(draw.below(len(present)))
    if draw.below(8) == 7:
        present.append(draw.one_of(["layer_00-model_states.pt", "zero_pp_rank_9_mp_rank_00_optim_states.pt",
                                    "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"]))  # fmt: skip
    by_kind: dict[FileKind, list[names.FileName]] = {}
    for name in present:
        parsed = names.parse(name)
        if parsed:
            by_kind.setdefault(parsed[0], []).append(parsed[1])
    files = CheckpointFiles(
        root="c", tag="t", directory="c/t", tags=("t",), latest="t",
        files={kind: tuple(sorted(found)) for kind, found in by_kind.items()},
    )  # fmt: skip

    def load(_: CheckpointFiles, kind: FileKind) -> Iterable[RawFile]:
        for name in files.of(kind):
            content = (
                _optimizer(draw, shapes, world_size, striped=striped)
                if kind is names.FileKind.OPTIMIZER
                else _model(draw, shapes, world_size, striped=striped)
            )
            yield RawFile(
                kind=kind, name=name, path=files.path(name), container="torch zip", content=_spoilt(draw, content)
            )

    return files, load


def _shapes(draw: Draw) -> dict[str, tuple[int, ...]]:
    found = {}
    for _ in range(draw.below(4)):
        shape = tuple(1 + draw.below(5) for _ in range(draw.below(3)))
        found[_NAMES[draw.below(5)]] = shape
    return found


def _numel(shape: tuple[int, ...]) -> int:
    numel = 1
    for n in shape:
        numel *= n
    return numel


def _tensor(draw: Draw, shape: tuple[int, ...], dtype: DType | None = None) -> LocatedTensor:
    if draw.below(16) == 15:
        shape = tuple(abs(draw.integer()) for _ in range(draw.below(4)))
    stride, step = [], 1
    for n in reversed(shape):
        stride.insert(0, step)
        step *= n
    if draw.below(16) == 15 and len(shape) == 2:
        stride.reverse()
    offset = draw.below(3)
    storage = LocatedStorage(
        file=draw.one_of(["c/t/rank0.pt", "c/t/rank1.pt"]), key=str(draw.below(4)), start=64 * draw.below(9),
        numel=draw.one_of([step + offset, step + offset, 64, 0]), dtype=dtype or draw.one_of(_DTYPES),
        big_endian=draw.below(16) == 15,
    )  # fmt: skip
    return LocatedTensor(storage, offset, shape, tuple(stride), 3 if shape == () else None)


def _model(draw: Draw, shapes: list[dict[str, Any]], world_size: int, *, striped: bool) -> dict[str, Any]:
    module = {
        name: _tensor(draw, (0,) if striped else shape, DType.BF16) for group in shapes for name, shape in group.items()
    }
    frozen = {}
    for _ in range(draw.below(3)):
        frozen[draw.one_of(["f.weight", "f.bias"])] = (1 + draw.below(4),)
    for name in ["d.running", "e.alias"][: draw.below(3)]:
        module[name] = _tensor(draw, (2,))
    fragments = {
        name: _tensor(draw, (-(-_numel(shape) // world_size),) if striped else shape, DType.BF16)
        for name, shape in frozen.items()
    }
    return {
        "module": PlainDict(module | ({} if striped else fragments)),
        "buffer_names": ["d.running"][: draw.below(2)],
        "param_shapes": [dict(group) for group in shapes],
        "frozen_param_shapes": frozen if draw.below(4) else None,
        "frozen_param_fragments": fragments,
        "shared_params": {"e.alias": draw.one_of(_NAMES)} if draw.below(3) == 2 else {},
        "global_steps": 3,
        "dp_world_size": world_size,
        "ds_version": "0.19.8",
        "ds_config": {"optimizer": {"type": "AdamW"}},
    }


def _optimizer(draw: Draw, shapes: list[dict[str, Any]], world_size: int, *, striped: bool) -> dict[str, Any]:
    numels = [[_numel(shape) for shape in group.values()] for group in shapes]
    held = [sum(-(-n // world_size) for n in group) if striped else -(-sum(group) // world_size) for group in numels]
    flat = [_tensor(draw, (n,), DType.F32) for n in held]
    state = {
        index: {"step": _tensor(draw, ()), "exp_avg": _tensor(draw, (held[index],))} for index in range(len(shapes))
    }
    base = {"state": state, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95), "params": [0]}]}
    if draw.below(4) == 3:
        base = _odd(draw)
    return {
        "optimizer_state_dict": {
            "fp32_flat_groups" if striped else "single_partition_of_fp32_groups": flat,
            "optimizer_state_dict" if striped else "base_optimizer_state": base,
            "zero_stage": Inert("ZeroStageEnum", (3 if striped else 2,)),
            "partition_count": world_size if striped else [world_size] * len(shapes),
            "param_alignment_paddings": None if draw.below(2) else [[0] * len(group) for group in shapes],
            "param_slice_mappings": [{"a": Inert("fragment_address", ())}],
        },
        "ds_version": "0.19.8",
    }


def _odd(draw: Draw) -> Any:
    """Something that does not belong where it is put: also what contains itself, or itself many times over."""
    kind = draw.below(14)
    if kind == 0:
        endless: list[Any] = []
        endless.append(endless)
        return endless
    if kind == 1:
        many: Any = []
        for _ in range(60):
            many = [many, many]
        return many
    if kind == 2:
        knot: dict[Any, Any] = {}
        knot["state"] = knot["param_groups"] = [knot, {"lr": knot}]
        return knot
    if kind == 3:
        return {draw.one_of(_NAMES): _tensor(draw, (2,)), draw.integer(): draw.integer()}
    if kind == 4:
        return {"state": {0: {"step": draw.integer()}}, "param_groups": [{"lr": draw.integer(), "betas": [[[]]]}]}
    if kind == 5:
        return [draw.integer() for _ in range(draw.below(4))]
    if kind == 6:
        return [{draw.one_of(_NAMES): (draw.integer(), draw.integer())}]
    return [draw.integer(), draw.text(), None, True, 0.5, Inert("x.Y", (draw.integer(),)), b"bytes"][kind - 7]


def _spoilt(draw: Draw, content: dict[str, Any]) -> dict[str, Any]:
    """Up to three entries, on any level, replaced, taken away or added."""
    for _ in range(draw.below(4)):
        target: Any = content
        while draw.below(2) and isinstance(target, (dict, list)) and target:
            inner = list(target.values()) if isinstance(target, dict) else target
            following = inner[draw.below(len(inner))]
            if not isinstance(following, (dict, list)):
                break
            target = following
        if isinstance(target, dict) and target:
            key = list(target)[draw.below(min(len(target), 256))]
            if draw.below(4) == 3:
                del target[key]
            else:
                target[key if draw.below(4) else draw.one_of([*_NAMES, 3])] = _odd(draw)
        elif isinstance(target, list) and target:
            target[draw.below(min(len(target), 256))] = _odd(draw)
    return content
