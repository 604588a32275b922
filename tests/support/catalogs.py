"""Catalogs of what files would say, from plain dicts: no files, no IO. What the tests of catalog/ and plan/ share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor
from zeroconsolidate.archive.names import FileKind, FileName, parse
from zeroconsolidate.archive.raw import CheckpointFiles, RawFile
from zeroconsolidate.catalog.read import read
from zeroconsolidate.dtypes import DType
from zeroconsolidate.opening.incomplete import read_incomplete
from zeroconsolidate.plan.pieces import Copy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from zeroconsolidate.archive.raw import SwapFile
    from zeroconsolidate.catalog.facts import Catalog


def tensor(
    *shape: int, dtype: DType = DType.F32, key: str = "0", stride: tuple[int, ...] | None = None, item: Any = None
) -> LocatedTensor:
    """A tensor that lies somewhere; nobody will read it."""
    contiguous: list[int] = []
    step = 1
    for n in reversed(shape):
        contiguous.insert(0, step)
        step *= max(n, 1)
    storage = LocatedStorage(file="dir/f.pt", key=key, start=64, numel=1 << 20, dtype=dtype, big_endian=False)
    return LocatedTensor(storage, 0, shape, tuple(contiguous) if stride is None else stride, item)


BF16 = DType.BF16
UNSET: Any = object()


def half(*shape: int, key: str = "0") -> LocatedTensor:
    return tensor(*shape, dtype=BF16, key=key)


def model(rank: int = 0, **changes: Any) -> dict[str, Any]:
    """A model file of two ranks at stage 2: two parameters, a buffer."""
    content = {
        "module": {
            "a": tensor(3, 2, dtype=BF16, key="a"),
            "b": tensor(3, dtype=BF16, key="b"),
            "n": tensor(2, key="n"),
        },
        "buffer_names": ["n"],
        "param_shapes": [{"a": (3, 2), "b": (3,)}],
        "frozen_param_shapes": {},
        "frozen_param_fragments": {},
        "shared_params": {},
        "global_steps": 5,
        "dp_world_size": 2,
        "mp_world_size": 1,
        "ds_version": "0.19.8",
        "ds_config": {"optimizer": {"type": "AdamW"}},
    }
    return {key: value for key, value in (content | changes).items() if value is not UNSET}


def optimizer(rank: int = 0, *, top: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    state = {
        "single_partition_of_fp32_groups": [tensor(6) if rank == 0 else tensor(3)],
        "zero_stage": Inert("ZeroStageEnum", (2,)),
        "partition_count": [2],
        "base_optimizer_state": {
            "state": {0: {"step": tensor(item=5.0), "exp_avg": tensor(6), "flag": 3}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0], "decoupled": None, "w": tensor(1)}],
        },
    }
    state = {key: value for key, value in (state | changes).items() if value is not UNSET}
    return {"optimizer_state_dict": state, "ds_version": "0.19.8", "ds_config": {}} | (top or {})


def stage3(rank: int = 0, **changes: Any) -> dict[str, Any]:
    """A model file at stage 3; `a` has a stripe of 3, `b` of 2."""
    placeholders = {"a": tensor(0, dtype=BF16), "b": tensor(0, dtype=BF16), "n": tensor(2, key="n")}
    return model(rank, **({"module": placeholders} | changes))


def optimizer3(rank: int = 0, **changes: Any) -> dict[str, Any]:
    return optimizer(
        rank,
        **{
            "single_partition_of_fp32_groups": UNSET,
            "base_optimizer_state": UNSET,
            "fp32_flat_groups": [tensor(5)],
            "partition_count": 2,
            "zero_stage": 3,
        }
        | changes,
    )


def catalog(
    models: list[dict[str, Any]],
    optimizers: list[dict[str, Any]],
    *,
    stage: int = 2,
    incomplete: bool = False,
    ranks: tuple[int, ...] | None = None,
    model_ranks: tuple[int, ...] | None = None,
    swaps: tuple[SwapFile, ...] = (),
) -> Catalog:
    """Read these contents as the files of ranks 0, 1, …"""
    contents: dict[str, dict[str, Any]] = {}
    for rank, content in zip(model_ranks or range(len(models)), models, strict=True):
        prefix = f"zero_pp_rank_{rank}_mp_rank_00" if stage == 3 else f"mp_rank_{rank:02d}"
        contents[f"{prefix}_model_states.pt"] = content
    for rank, content in zip(ranks or range(len(optimizers)), optimizers, strict=True):
        contents[f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"] = content
    return of_files(contents, incomplete=incomplete, swaps=swaps)


def of_files(
    contents: Mapping[str, dict[str, Any]], *, incomplete: bool = False, swaps: tuple[SwapFile, ...] = ()
) -> Catalog:
    """Read these contents by the names of their files. A parameter of a universal checkpoint is `zero/NAME/fp32.pt`."""
    kinds: dict[FileKind, list[FileName]] = {}
    for name in contents:
        kind, parsed = _universal(name) if "/" in name else parse(name) or (None, None)
        assert kind is not None and parsed is not None, name
        kinds.setdefault(kind, []).append(parsed)
    files = CheckpointFiles(
        root="dir",
        tag="t",
        directory="dir/t",
        tags=("t",),
        latest=None,
        files={kind: tuple(sorted(names)) for kind, names in kinds.items()},
        swaps=swaps,
    )

    def load(_: CheckpointFiles, kind: FileKind) -> Iterable[RawFile]:
        for name in files.of(kind):
            content = contents[name.name]
            yield RawFile(kind=kind, name=name, path=f"dir/t/{name.name}", content=content, container="torch zip")

    return read_incomplete(files, load, {}).catalog if incomplete else read(files, load)


def _universal(name: str) -> tuple[FileKind, FileName]:
    kind = FileKind.UNIVERSAL if name.endswith("fp32.pt") else FileKind.UNIVERSAL_STATE
    return kind, FileName(name=name)


def stage2(**changes: Any) -> Catalog:
    """A stage-2 checkpoint whose model file is changed so."""
    return catalog([model(**changes)], [optimizer(0), optimizer(1)])


def tied() -> Catalog:
    """Stage 2 with a tie `t` of `a`, a frozen `f`, a buffer `n`; the alias comes last."""
    module = model()["module"] | {"f": half(2, key="f"), "t": half(3, 2, key="a")}
    return stage2(module=module, shared_params={"t": "a"}, frozen_param_shapes=None)


class Claimed:
    """A recipe that claims these copies."""

    dtype, is_plain, file = DType.F32, False, "f"

    def __init__(self, numel: int, *copies: tuple[int, int, int, int]) -> None:
        self.numel = numel
        self._copies = copies

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        for at, run_numel, count, step in self._copies:
            yield Copy(file=self.file, file_start=0, dtype=DType.F32, big_endian=False, start=at, run_numel=run_numel,
                       count=count, file_step=9, step=step)  # fmt: skip
