"""Questions that only values answer: which master is which, which names are one tensor, what ranks hold copies of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from catalogs import model, of_files, optimizer

from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor, row_major
from zeroconsolidate.catalog.rules import Concatenated, Rule
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import UnsupportedLayout, WitnessMismatch
from zeroconsolidate.opening.unnamed import answer
from zeroconsolidate.plan.sources import sources
from zeroconsolidate.run.elements import read_all
from zeroconsolidate.run.inputs import Inputs

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.catalog.facts import Catalog

DTYPES = {torch.float32: DType.F32, torch.bfloat16: DType.BF16, torch.float16: DType.F16, torch.int64: DType.I64}


class Disk:
    """Tensors in one file, each with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "values"
        self._path.write_bytes(b"")

    def hold(self, tensor: torch.Tensor) -> LocatedTensor:
        start = self._path.stat().st_size
        with self._path.open("ab") as file:
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        storage = LocatedStorage(
            file=str(self._path),
            key=str(start),
            start=start,
            numel=tensor.numel(),
            dtype=DTYPES[tensor.dtype],
            big_endian=False,
        )
        return LocatedTensor(storage, 0, tuple(tensor.shape), row_major(tuple(tensor.shape)))

    def module(self, values: dict[str, torch.Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, LocatedTensor]:
        return {name: self.hold(value.to(dtype)) for name, value in values.items()}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def answered(catalog: Catalog) -> Catalog:
    with Inputs() as inputs:
        found = answer(catalog, inputs)
    assert (found.unnamed, found.maybe_ties, found.doubts) == ((), (), ())
    return found


def values(catalog: Catalog, role: str = "trainable") -> dict[str, list[Any]]:
    """The float32 elements of every tensor of a role."""
    with Inputs() as inputs:
        return {
            name: read_all(source.recipe, inputs).tolist()
            for name, source in sources(catalog).items()
            if source.role == role
        }


# --- masters without names --------------------------------------------------------------------------------------------


def stage0(
    module: dict[str, LocatedTensor], *groups: list[LocatedTensor], fused: bool = False, experts: bool = False
) -> Catalog:
    """`experts`: files of experts are there, and every name has a storage of its own."""
    key = "fp32_groups_flat" if fused else "fp32_groups"
    held = [group[0] for group in groups] if fused else list(groups)
    wrapped = {"state": {}, "param_groups": [{"lr": 0.1} for _ in groups]}
    told = {"module": module, "buffer_names": [], "param_shapes": None, "frozen_param_shapes": None, "ds_config": {}}
    state = {key: held, "optimizer_state_dict": wrapped} if groups else {"state": {}, "param_groups": []}
    files = {"mp_rank_00_model_states.pt": model(**told, optimizer=state, dp_world_size=1)}
    return of_files(files | ({"layer_0_expert_0_mp_rank_00_model_states.pt": {}} if experts else {}))


def test_each_master_gets_the_name_of_its_copy_and_the_rest_is_frozen(disk: Disk):
    trained = {"a": randn(3, 2, seed=1), "b": randn(3, 2, seed=2), "c": randn(4, seed=3)}
    module = disk.module(trained | {"f": randn(5, seed=4)})
    found = answered(stage0(module, [disk.hold(trained["c"])], [disk.hold(trained["b"]), disk.hold(trained["a"])]))
    assert values(found) == {name: value.flatten().tolist() for name, value in trained.items()}
    assert list(found.frozen) == ["f"]


def test_copies_of_several_dtypes(disk: Disk):
    """A module may keep some of its parameters in float32."""
    wide, narrow = randn(3, seed=1), randn(3, seed=2)
    module = disk.module({"n": narrow}) | disk.module({"w": wide}, torch.float32)
    found = answered(stage0(module, [disk.hold(wide), disk.hold(narrow)]))
    assert values(found) == {"n": narrow.tolist(), "w": wide.tolist()}


def test_tensors_that_differ_in_the_middle_only_are_read_in_full(disk: Disk):
    """A sample of both ends does not tell them apart, nor does the order: the group has them the other way round."""
    first, second = torch.ones(3000), torch.ones(3000)
    first[1500], second[1500] = 2, 3
    known = {"x": randn(3, seed=1), "p": first, "q": second, "y": randn(3, seed=2)}
    order = ["y", "x", "q", "p"]
    found = answered(stage0(disk.module(known), [disk.hold(known[name]) for name in order]))
    assert values(found) == {name: value.tolist() for name, value in known.items()}


def test_a_second_name_with_a_storage_of_its_own_takes_no_master(disk: Disk):
    """Checkpoints of mixtures of experts give every name its own storage; the head still is the embedding."""
    weight = randn(5, 8, seed=1)
    module = disk.module({"embed": weight, "frozen": randn(5, 8, seed=2), "head": weight})
    found = answered(stage0(module, [disk.hold(weight)], experts=True))
    assert (found.ties, list(found.frozen)) == ({"head": "embed"}, ["frozen"])
    assert list(values(found)) == ["embed"]


def test_two_parameters_with_masters_of_their_own_are_two(disk: Disk):
    """However alike they are: both were trained."""
    weight = randn(5, 8, seed=1)
    masters = [disk.hold(weight), disk.hold(weight + 1e-5)]
    found = answered(stage0(disk.module({"embed": weight, "head": weight}), masters, experts=True))
    assert found.ties == {}
    assert sorted(values(found)) == ["embed", "head"]


def test_without_masters_the_first_of_two_names_owns_the_values(disk: Disk):
    """Stage 0 in fp32: the module is the truth."""
    weight = randn(5, 8, seed=1)
    module = disk.module({"embed": weight, "head": weight, "e": torch.empty(0), "f": torch.empty(0)}, torch.float32)
    found = answered(stage0(module, experts=True))
    assert found.ties == {"head": "embed"}
    assert list(values(found)) == ["embed", "e", "f"]


def test_a_flat_master_is_cut_into_the_copies_it_rounds_to(disk: Disk):
    trained = {"a": randn(3, 2, seed=1), "b": randn(9, seed=2), "c": randn(4, seed=3)}
    module = disk.module({"a": trained["a"], "f": randn(9, seed=9), "b": trained["b"], "c": trained["c"]})
    flat = [torch.cat([trained["a"].flatten(), trained["c"]]), trained["b"]]
    found = answered(stage0(module, *([disk.hold(one)] for one in flat), fused=True))
    assert values(found) == {name: value.flatten().tolist() for name, value in trained.items()}
    assert sources(found)["a"].shape == (3, 2)


def test_a_flat_masters_copies_are_compared_to_their_ends(disk: Disk):
    """The first elements only choose what is worth comparing."""
    value, other = randn(300, seed=1), randn(300, seed=1)
    other[-1] += 1
    found = answered(stage0(disk.module({"p": other, "q": value}), [disk.hold(value)], fused=True))
    assert list(values(found)) == ["q"]
    with pytest.raises(WitnessMismatch, match="the flat master does not round to copies"):
        answered(stage0(disk.module({"p": other}), [disk.hold(value)], fused=True))


# --- ties that only values show ---------------------------------------------------------------------------------------


def stage2(disk: Disk, values: dict[str, torch.Tensor], trained: list[str], **changes: Any) -> Catalog:
    """`trained` in one flat group of one rank; the other names of `values` are listed nowhere."""
    flat = torch.cat([values[name].flatten() for name in trained])
    shapes = [{name: tuple(values[name].shape) for name in trained}]
    told = {"module": disk.module(values), "buffer_names": [], "param_shapes": shapes, "dp_world_size": 1}
    state = optimizer(single_partition_of_fp32_groups=[disk.hold(flat)], partition_count=[1])
    contents = {
        "mp_rank_00_model_states.pt": model(**(told | changes)),
        "zero_pp_rank_0_mp_rank_00_optim_states.pt": state,
    }
    if not changes:
        # Frozen parameters are listed nowhere at stage 1; files of experts show that storages are not shared.
        contents["mp_rank_00_model_states.pt"] |= {"frozen_param_shapes": None}
        contents["layer_0_expert_0_mp_rank_00_model_states.pt"] = {}
    return of_files(contents)


def test_what_equals_a_trained_parameter_is_its_second_name(disk: Disk):
    weight = randn(6, 5, seed=1)
    found = answered(stage2(disk, {"embed": weight, "head": weight}, ["embed"]))
    assert found.ties == {"head": "embed"}
    assert list(sources(found)) == ["embed"]


@pytest.mark.parametrize("element", [0, 29])
def test_what_differs_in_one_element_is_a_parameter_of_its_own(disk: Disk, element: int):
    weight = randn(6, 5, seed=1)
    other = weight.clone()
    other.view(-1)[element] += 1
    found = answered(stage2(disk, {"embed": weight, "head": other}, ["embed"]))
    assert (found.ties, list(found.frozen)) == ({}, ["head"])


def test_equal_constants_are_no_ties(disk: Disk):
    """Fifteen different values may be chance; so may be two norms that are all ones."""
    few = torch.arange(15.0).repeat(2)
    found = answered(stage2(disk, {"a": few, "b": few, "n": torch.ones(9), "m": torch.ones(9)}, ["a", "n"]))
    assert (found.ties, sorted(found.frozen)) == ({}, ["b", "m"])


def test_a_float_that_nothing_lists_is_kept_and_said(disk: Disk):
    found = answered(stage2(disk, {"a": randn(30, seed=1), "q": randn(30, seed=2)}, ["a"], ds_version="0.19.8"))
    assert found.notes == (
        "q was not given to the optimizer, so it has no master; its value is that of the forward pass",
    )
    assert list(found.frozen) == ["q"]


# --- tensors of tensor-parallel ranks that no list has ----------------------------------------------------------------


def ranks(disk: Disk, **parts: tuple[torch.Tensor, torch.Tensor]) -> Catalog:
    """Two tensor-parallel ranks whose lists are of a version that does not name all replicated tensors."""
    contents: dict[str, Any] = {}
    for mp in (0, 1):
        held = {name: pair[mp] for name, pair in parts.items()}
        contents[f"mp_rank_{mp:02d}_model_states.pt"] = model(
            module=disk.module(held),
            buffer_names=[],
            param_shapes=[{name: tuple(value.shape) for name, value in held.items()}],
            dp_world_size=1,
            mp_world_size=2,
            universal_checkpoint_info={"universal_checkpoint_version": 0.2},
        )
        flat = torch.cat([value.flatten() for value in held.values()])
        contents[f"zero_pp_rank_0_mp_rank_{mp:02d}_optim_states.pt"] = optimizer(
            single_partition_of_fp32_groups=[disk.hold(flat)], partition_count=[1]
        )
    return of_files(contents)


def rules(catalog: Catalog) -> dict[str, object]:
    return {name: join.rule for name, join in catalog.joins.items()}


def test_equal_parts_are_copies_and_others_are_cut(disk: Disk):
    same = randn(4, 5, seed=1)
    found = answered(ranks(disk, norm=(same, same), weight=(randn(4, 5, seed=2), randn(4, 5, seed=3))))
    assert rules(found) == {"norm": Rule.REPLICATED, "weight": Concatenated(0)}
    assert found.notes == ("1 tensors that no list has are equal on all ranks and were taken for copies",)
    assert {name: source.shape for name, source in sources(found).items()} == {"norm": (4, 5), "weight": (8, 5)}


def test_parts_of_different_shapes_are_cut(disk: Disk):
    assert rules(answered(ranks(disk, w=(randn(4, 5), randn(3, 5))))) == {"w": Concatenated(0)}


def test_a_constant_bias_goes_the_way_of_its_weight(disk: Disk):
    """Zeros are equal on all ranks whether they are copies or not."""
    zeros = (torch.zeros(4), torch.zeros(4))
    cut = {"up.weight": (randn(4, 5, seed=1), randn(4, 5, seed=2)), "up.bias": zeros}
    same = randn(4, 5, seed=3)
    copied = {"down.weight": (same, same), "down.bias": zeros, "norm.scale": (torch.ones(4), torch.ones(4))}
    found = answered(ranks(disk, **cut, **copied))
    assert rules(found) == {
        "up.weight": Concatenated(0),
        "up.bias": Concatenated(0),
        "down.weight": Rule.REPLICATED,
        "down.bias": Rule.REPLICATED,
        "norm.scale": Rule.REPLICATED,
    }


def test_a_constant_matrix_may_be_either(disk: Disk):
    with pytest.raises(UnsupportedLayout, match=r"nothing says whether each has a part of it or a copy \(at w\)"):
        answered(ranks(disk, w=(torch.ones(4, 5), torch.ones(4, 5))))
