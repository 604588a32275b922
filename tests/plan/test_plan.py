"""The arithmetic of plans, by hand and against brute force: no files, no IO."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from catalogs import BF16, Claimed, catalog, half, model, optimizer, optimizer3, stage2, stage3, tensor, tied
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor
from zeroconsolidate.catalog.facts import Cut, FlatGroup, Member
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import BadOption, DamagedFile, Disagreement, MissingFiles, PlanBroken
from zeroconsolidate.plan import layout, zero3, zero12
from zeroconsolidate.plan.build import Selection, build, padding_bytes, select
from zeroconsolidate.plan.computed import Computed
from zeroconsolidate.plan.congruent import Sharing
from zeroconsolidate.plan.joined import Mean, Section
from zeroconsolidate.plan.layout import index_of
from zeroconsolidate.plan.patched import Patched, Zeros
from zeroconsolidate.plan.pieces import ZEROS, Copy, Rows, View, covers_once
from zeroconsolidate.plan.sources import Source, sources
from zeroconsolidate.plan.witness import SAMPLED_NUMEL, SAMPLED_TENSORS, comparisons

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zeroconsolidate.plan.pieces import Recipe


def partition(numel: int, *, file: str, start: int = 0, dtype: DType = DType.F32) -> LocatedTensor:
    storage = LocatedStorage(file=file, key="0", start=start, numel=numel, dtype=dtype, big_endian=False)
    return LocatedTensor(storage, 0, (numel,), (1,))


def group(cut: Cut, members: list[Member], numels: list[int]) -> FlatGroup:
    """A flat group of which rank r has `numels[r]` elements, from byte 1000 of the file `r<rank>`."""
    parts = tuple(partition(numel, file=f"r{rank}", start=1000) for rank, numel in enumerate(numels))
    return replace(stage2().groups[0], cut=cut, members=tuple(members), partitions=parts)


def extents(recipe: Recipe, *interval: int) -> list[tuple[str, int, int, int]]:
    """(file, element of its partition, element of the tensor, elements)."""
    return [(c.file, (c.file_start - 1000) // 4, c.start, c.run_numel) for c in recipe.copies(*interval)]


# --- the pictures in zero12.py and zero3.py --------------------------------------------------------------------------


def test_the_example_of_zero12():
    members = [Member("embed.weight", (3, 4)), Member("norm.bias", (3,), 1), Member("head.weight", (2, 3))]
    placed = zero12.place(group(Cut.CONTIGUOUS, members, [8, 8, 6]))
    assert extents(placed["embed.weight"]) == [("r0", 0, 0, 8), ("r1", 0, 8, 4)]
    assert extents(placed["norm.bias"]) == [("r1", 4, 0, 3)]
    assert extents(placed["head.weight"]) == [("r2", 0, 0, 6)]
    assert extents(placed["embed.weight"], 6, 10) == [("r0", 6, 6, 2), ("r1", 0, 8, 2)]
    assert extents(placed["embed.weight"], 3, 3) == []
    assert (placed["norm.bias"].dtype, placed["norm.bias"].is_plain) == (DType.F32, True)


def test_the_example_of_zero3():
    members = [Member("embed.weight", (3, 5)), Member("norm.bias", (2,))]
    placed = zero3.place(group(Cut.STRIPED, members, [6, 6, 6]))
    assert extents(placed["embed.weight"]) == [("r0", 0, 0, 5), ("r1", 0, 5, 5), ("r2", 0, 10, 5)]
    assert extents(placed["norm.bias"]) == [("r0", 5, 0, 1), ("r1", 5, 1, 1)]
    assert extents(placed["embed.weight"], 4, 11) == [("r0", 4, 4, 1), ("r1", 0, 5, 5), ("r2", 0, 10, 1)]
    assert (placed["norm.bias"].dtype, placed["norm.bias"].is_plain) == (DType.F32, True)


def test_ranks_without_an_element_are_passed_over():
    """Tiny groups: the padding of the last ranks is all they had, and it was stripped."""
    members = [Member("a", (3,)), Member("e", (0,)), Member("b", (1,))]
    placed = zero12.place(group(Cut.CONTIGUOUS, members, [2, 0, 2, 0]))
    assert extents(placed["a"]) == [("r0", 0, 0, 2), ("r2", 0, 2, 1)]
    assert extents(placed["e"]) == []
    assert extents(placed["b"]) == [("r2", 1, 0, 1)]


@pytest.mark.parametrize("held", [[7, 7], [7, 10], [6, 8]])
def test_a_tail_of_less_than_twice_the_ranks_is_padding(held: list[int]):
    placed = zero12.place(group(Cut.CONTIGUOUS, [Member("a", (14,))], held))
    assert sum(copy.numel for copy in placed["a"].copies()) == 14


@pytest.mark.parametrize(
    ("members", "held", "message"),
    [
        ([Member("a", (14,))], [9, 9], r"expected 18 elements as the 2 ranks hold together \(up to 3 .* got 14"),
        ([Member("a", (14,))], [7, 6], r"a would end at element 14; expected at most 13, .* all 2 ranks"),
        ([Member("a", (3,), 2), Member("b", (9,))], [7, 6], r"b would end at element 14; expected at most 13"),
    ],
)
def test_shapes_that_do_not_add_up_at_stages_1_and_2(members: list[Member], held: list[int], message: str):
    with pytest.raises(Disagreement, match=rf"the shapes in 'param_shapes' do not add up.*{message}.*at group 0"):
        zero12.place(group(Cut.CONTIGUOUS, members, held))


def test_padding_behind_the_last_member_may_have_been_stripped():
    assert zero12.place(group(Cut.CONTIGUOUS, [Member("a", (14,), 2)], [7, 7]))["a"].numel == 14


@pytest.mark.parametrize("held", [[3, 3], [3, 2], [5, 4]])
def test_shapes_that_do_not_add_up_at_stage_3(held: list[int]):
    with pytest.raises(Disagreement, match=r"add up; expected 4 elements in the rank's partition, got .*> rank "):
        zero3.place(group(Cut.STRIPED, [Member("a", (5,)), Member("b", (1,))], held))


@pytest.mark.parametrize("cut", [Cut.CONTIGUOUS, Cut.STRIPED])
def test_partitions_of_several_dtypes(cut: Cut):
    mixed = group(cut, [Member("a", (4,))], [2, 2])
    first, second = mixed.partitions
    mixed = replace(mixed, partitions=(first, replace(second, storage=replace(second.storage, dtype=BF16))))
    with pytest.raises(DamagedFile, match=r"partitions differ in dtype; got \['BF16', 'F32'\]"):
        (zero12 if cut is Cut.CONTIGUOUS else zero3).place(mixed)


def test_recipes_are_small_and_can_be_sent_to_another_process():
    placed = zero3.place(group(Cut.STRIPED, [Member("a", (5,)), Member("b", (1,))], [4, 4]))
    assert placed.keys() == {"a", "b"}
    for recipe in placed.values():
        assert list(pickle.loads(pickle.dumps(recipe)).copies()) == list(recipe.copies())


def test_copies_know_their_sizes():
    copy = Copy(
        file="f", file_start=0, dtype=BF16, big_endian=False, start=0, run_numel=3, count=4, file_step=9, step=3
    )
    assert (copy.numel, copy.nbytes) == (12, 24)


# --- views of storages, against numpy ------------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> LocatedTensor:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    stride = tuple(draw(st.integers(0, 6)) for _ in shape)
    storage = LocatedStorage(file="f", key="0", start=8, numel=200, dtype=DType.F32, big_endian=False)
    return LocatedTensor(storage, draw(st.integers(0, 20)), shape, stride)


def elements(recipe: Recipe, *interval: int) -> list[tuple[int, int]]:
    """(element of the tensor, element of the storage) of every element copied."""
    return [
        (c.start + run * c.step + i, (c.file_start - 8) // 4 + run * c.file_step + i)
        for c in recipe.copies(*interval)
        for run in range(c.count)
        for i in range(c.run_numel)
    ]


@given(views(), st.data())
def test_a_view_is_what_numpy_says(view: LocatedTensor, data: st.DataObject):
    storage = np.arange(200)
    strides = tuple(8 * n for n in view.stride)
    truth = np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).reshape(-1).tolist()
    assert elements(View(view)) == list(enumerate(truth))
    covers_once(View(view))
    start = data.draw(st.integers(0, view.numel))
    stop = data.draw(st.integers(start, view.numel))
    assert elements(View(view), start, stop) == list(enumerate(truth))[start:stop]
    assert View(view).is_plain == (truth == list(range(view.offset, view.offset + len(truth))) or not truth) or any(
        n == 1 for n in view.shape
    )


# --- the proof that a recipe covers its tensor ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        Claimed(0),
        Claimed(4, (0, 4, 1, 0)),
        Claimed(4, (0, 1, 1, 0), (1, 3, 1, 0)),
        Claimed(4, (0, 2, 2, 2)),
        Claimed(4, (0, 1, 2, 2), (1, 1, 2, 2)),
        Claimed(6, (0, 2, 1, 0), (2, 1, 2, 2), (3, 1, 2, 2)),
    ],
)
def test_recipes_that_cover_once(recipe: Claimed):
    covers_once(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        Claimed(1),
        Claimed(4, (0, 3, 1, 0)),
        Claimed(4, (0, 5, 1, 0)),
        Claimed(4, (1, 3, 1, 0)),
        Claimed(4, (0, 2, 1, 0), (1, 3, 1, 0)),
        Claimed(4, (0, 2, 1, 0), (3, 1, 1, 0)),
        Claimed(4, (0, 1, 2, 2)),
        Claimed(4, (0, 1, 2, 2), (0, 1, 2, 2)),
        Claimed(4, (0, 1, 2, 2), (1, 1, 3, 2)),
        Claimed(4, (0, 1, 2, 2), (1, 1, 2, 2), (3, 1, 1, 0)),
    ],
)
def test_recipes_that_do_not(recipe: Claimed):
    with pytest.raises(PlanBroken):
        covers_once(recipe)


def test_a_frozen_parameter_is_joined_from_its_stripes():
    frozen = {"frozen_param_shapes": {"f": (3, 1)}, "frozen_param_fragments": {"f": half(2)}}
    found = catalog([stage3(0, **frozen), stage3(1, **frozen)], [optimizer3(0), optimizer3(1)], stage=3)
    recipe = sources(found)["f"].recipe
    covers_once(recipe)
    assert (recipe.numel, recipe.dtype, recipe.is_plain) == (3, BF16, True)
    copies = [(c.file.rpartition("/")[2][:14], c.file_start, c.start, c.run_numel) for c in recipe.copies()]
    assert copies == [("zero_pp_rank_0", 64, 0, 2), ("zero_pp_rank_1", 64, 2, 1)]
    assert [(c.file_start, c.start, c.run_numel) for c in recipe.copies(1, 3)] == [(66, 1, 1), (64, 2, 1)]


def test_a_catalog_that_lists_what_nobody_holds():
    with pytest.raises(PlanBroken, match="the catalog lists ghost without saying where it is"):
        sources(replace(stage2(), order=("a", "b", "n", "ghost")))


def test_of_an_incomplete_checkpoint_nothing_is_placed_unasked():
    found = catalog([model()], [optimizer(0)], incomplete=True)
    with pytest.raises(MissingFiles, match="1 of 2 ranks is incomplete") as caught:
        sources(found)
    assert caught.value.files == ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",)


# --- rows of other tensors -------------------------------------------------------------------------------------------


def test_runs_of_rows_are_laid_end_to_end():
    """Rows 1-2 of one matrix, row 0 of another, row 0 of the first again; two elements a row."""
    first, second = (View(partition(8, file=f"r{n}", start=1000)) for n in (0, 1))
    rows = Rows((first, second), 2, ((0, 1, 2), (1, 0, 1), (0, 0, 1)))
    assert (rows.numel, rows.dtype, rows.is_plain) == (8, DType.F32, True)
    assert extents(rows) == [("r0", 2, 0, 4), ("r1", 0, 4, 2), ("r0", 0, 6, 2)]
    assert extents(rows, 3, 5) == [("r0", 5, 3, 1), ("r1", 0, 4, 1)]
    assert extents(rows, 6, 8) == [("r0", 0, 6, 2)]
    covers_once(rows)
    strided = View(tensor(4, 2, stride=(1, 4)))
    assert not Rows((first, strided), 2, ((0, 0, 1),)).is_plain
    half = View(tensor(4, 2, dtype=DType.BF16))
    mixed = Rows((half, first), 2, ((0, 0, 1), (1, 1, 1)))
    assert (mixed.dtype, mixed.is_plain, [copy.dtype for copy in mixed.copies()]) == (
        DType.F32, False, [DType.BF16, DType.F32]
    )  # fmt: skip


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_name_that_safetensors_keeps_for_itself():
    named = {"__metadata__": sources(stage2())["a"]}
    with pytest.raises(BadOption, match="a tensor cannot be called '__metadata__' in a safetensors file"):
        planned(Selection(named=named, left_out=()))


def test_a_header_that_readers_would_not_take(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layout, "MAX_HEADER_BYTES", 64)
    with pytest.raises(BadOption, match=r"the header of model\.safetensors would be too long .*--max-shard-size"):
        planned(Selection(named=dict(sources(stage2())), left_out=()))


def test_tensors_without_elements_stay_together_and_large_ones_alone():
    found = of_sizes({"a": 4, "e": 0, "large": 40, "b": 4, "f": 0, "c": 4})
    plan = planned(Selection(named=dict(sources(found)), left_out=()), max_shard_bytes=32)
    assert [sorted(tensor.name for tensor in file.tensors) for file in plan.files] == [
        ["large"],
        ["a", "b", "e", "f"],
        ["c"],
    ]
    assert [file.name for file in plan.files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def test_a_single_tensor_larger_than_a_shard_is_the_one_file():
    plan = planned(Selection(named=dict(sources(of_sizes({"large": 40}))), left_out=()), max_shard_bytes=32)
    assert [file.name for file in plan.files] == ["model.safetensors"]


# --- holes and what stands in for them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((), [("whole", 0, 2), ("patch", 2, 4), ("whole", 4, 6), ("patch", 6, 9), ("whole", 9, 10)]),
        ((3, 7), [("patch", 3, 4), ("whole", 4, 6), ("patch", 6, 7)]),
        ((4, 6), [("whole", 4, 6)]),  # behind the first hole, before the second
        ((6, 9), [("patch", 6, 9)]),
        ((0, 1), [("whole", 0, 1)]),
    ],
)
def test_holes_are_patched(interval: tuple[int, ...], expected: list[tuple[str, int, int]]):
    patched = Patched(Named("whole"), Named("patch"), ((2, 4), (6, 9)))
    assert [(c.file, c.start, c.start + c.run_numel) for c in patched.copies(*interval)] == expected
    covers_once(patched)


class Named(Claimed):
    """10 elements of the file `name`, wherever they are asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(10)
        self.file = name

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        end = 10 if stop is None else stop
        yield Copy(file=self.file, file_start=0, dtype=DType.F32, big_endian=False, start=start, run_numel=end - start)


def test_zeros_are_of_a_file_that_has_no_end():
    zeros = Zeros(10, BF16)
    assert [(c.file, c.start, c.run_numel, c.nbytes) for c in zeros.copies(3)] == [(ZEROS, 3, 7, 14)]
    assert list(zeros.copies(4, 4)) == []
    assert not zeros.is_plain
    covers_once(zeros)


# --- selections, plans, costs -----------------------------------------------------------------------------------------


def selected(found: Any, *, copy_ties: bool = False, without: str = "") -> Selection:
    return select(found, sources(found), copy_ties=copy_ties, wanted=lambda name, _: name not in without.split())


def test_a_tied_parameter_is_written_once_under_its_first_name():
    assert list(selected(tied()).named) == ["a", "b", "n", "f"]
    assert selected(tied()).left_out == ("t",)
    assert list(selected(tied(), copy_ties=True).named) == ["a", "b", "n", "f", "t"]
    assert selected(tied(), copy_ties=True).left_out == ()


def test_who_excludes_the_first_name_of_a_tied_parameter_gets_the_second():
    selection = selected(tied(), without="a")
    assert list(selection.named) == ["b", "n", "f", "t"]
    assert selection.named["t"].name == "a"
    assert selection.left_out == ("a",)


def test_selections_can_be_narrowed():
    selection = selected(tied()).only(lambda _, source: source.role == "trainable")
    assert list(selection.named) == ["a", "b"]
    assert selection.left_out == ("t", "n", "f")


def planned(selection: Selection, *, dtype: DType | None = None, max_shard_bytes: int | None = None) -> Any:
    return build(selection, dtype=dtype, max_shard_bytes=max_shard_bytes, padding_bytes=0)


def test_parameters_are_cast_and_buffers_are_not():
    dtypes = {t.name: t.dtype for t in planned(selected(tied()), dtype=DType.F32).tensors()}
    assert dtypes == {"a": DType.F32, "b": DType.F32, "n": DType.F32, "f": DType.F32}
    dtypes = {t.name: t.dtype for t in planned(selected(tied()), dtype=DType.F16).tensors()}
    assert dtypes == {"a": DType.F16, "b": DType.F16, "n": DType.F32, "f": DType.F16}
    dtypes = {t.name: t.dtype for t in planned(selected(tied())).tensors()}
    assert dtypes == {"a": DType.F32, "b": DType.F32, "n": DType.F32, "f": BF16}


@pytest.mark.parametrize(
    ("stored", "written"),
    [(DType.F64, BF16), (DType.F8_E4M3, BF16), (DType.I8, DType.I8), (DType.BOOL, DType.BOOL), (DType.C64, DType.C64)],
)
def test_only_floating_point_parameters_are_cast(stored: DType, written: DType):
    source = replace(sources(tied())["f"], recipe=View(tensor(2, dtype=stored)))
    plan = planned(Selection(named={"f": source}, left_out=()), dtype=BF16)
    assert [t.dtype for t in plan.tensors()] == [written]


def test_an_empty_selection_is_refused():
    with pytest.raises(BadOption, match="nothing is left to write"):
        planned(Selection(named={}, left_out=("a",)))


def test_the_cost_of_a_copy_and_of_a_cast():
    copied = planned(selected(tied(), without="f")).cost(1 << 20)
    assert copied.input_bytes == 4 * (6 + 3 + 2)
    assert copied.tensors == 3
    assert copied.files == 1
    assert copied.peak_memory_bytes < 1 << 20
    cast = planned(selected(tied()), dtype=BF16).cost(1 << 20)
    assert cast.peak_memory_bytes > 1 << 20
    assert cast.input_bytes == 4 * (6 + 3 + 2) + 2 * 2


def test_the_cost_of_several_files_counts_the_index():
    plan = planned(selected(tied()), max_shard_bytes=24)
    cost = plan.cost(1 << 20)
    assert cost.files == len(plan.files) + 1
    assert cost.output_bytes == sum(file.size_bytes for file in plan.files) + len(plan.index)


def test_the_index_counts_a_copied_tie_once():
    """As transformers' `num_parameters` does."""
    plan = planned(selected(tied(), copy_ties=True), max_shard_bytes=24)
    metadata = json.loads(plan.index)["metadata"]
    assert metadata == {"total_parameters": 6 + 3 + 2, "total_size": 4 * (6 + 6 + 3 + 2) + 2 * 2}


def test_one_file_has_no_index():
    assert index_of(planned(selected(tied())).files) is None


def test_padding_is_what_no_parameter_uses():
    states = [optimizer(0), optimizer(1, single_partition_of_fp32_groups=[tensor(5)])]
    assert padding_bytes(catalog([model()], states)) == 4 * 2
    found = catalog([stage3(0), stage3(1)], [optimizer3(0), optimizer3(1)], stage=3)
    assert padding_bytes(found) == 4 * 1


# --- witnesses and what inspect tells ---------------------------------------------------------------------------------


def of_sizes(numels: dict[str, int]) -> Any:
    """Stage 2 with 1-D parameters of these sizes."""
    shapes = [{name: (numel,) for name, numel in numels.items()}]
    module = {name: half(numel, key=name) for name, numel in numels.items()}
    held = [tensor(sum(numels.values())), tensor(0)]
    states = [optimizer(rank, single_partition_of_fp32_groups=[held[rank]]) for rank in (0, 1)]
    return catalog([model(module=module, buffer_names=[], param_shapes=shapes)], states)


def test_the_sample_looks_at_both_ends():
    numel = 2 * SAMPLED_NUMEL + 5
    found = of_sizes({"w": numel, "e": 0, "small": 2 * SAMPLED_NUMEL})
    sampled = {c.name: c.intervals for c in comparisons(found, sources(found), everything=False)}
    ends = ((0, SAMPLED_NUMEL), (numel - SAMPLED_NUMEL, numel))
    assert sampled == {"w": ends, "small": ((0, 2 * SAMPLED_NUMEL),)}
    whole = {c.name: c.intervals for c in comparisons(found, sources(found), everything=True)}
    assert whole == {"w": ((0, numel),), "small": ((0, 2 * SAMPLED_NUMEL),)}


def test_the_sample_is_spread_over_many_tensors():
    found = of_sizes({f"p{i}": 1 for i in range(3 * SAMPLED_TENSORS)})
    sampled = [c.name for c in comparisons(found, sources(found), everything=False)]
    assert sampled == [f"p{i}" for i in range(0, 3 * SAMPLED_TENSORS, 3)]
    assert len(comparisons(found, sources(found), everything=True)) == 3 * SAMPLED_TENSORS


def test_experts_of_a_stack_are_witnessed_one_by_one():
    found = of_sizes({"w": 6})
    copies = (half(3, key="expert 0"), half(3, key="expert 1"))
    stacked = replace(found, stacked={"w": copies}, parts=(replace(found.parts[0], module={}),))
    seen = comparisons(stacked, sources(stacked), everything=True)
    assert [(c.name, [(copy.start, copy.numel) for copy in c.master.copies()]) for c in seen] == [
        ("w[0]", [(0, 3)]),
        ("w[1]", [(0, 3)]),
    ]
    # What is not written (a rescue may leave it out) is not compared.
    assert comparisons(stacked, {}, everything=True) == []


def test_ties_are_witnessed_too():
    found = tied()
    names = {c.name for c in comparisons(found, sources(found), everything=True)}
    assert names == {"a", "b", "t"}


class Doubled(Computed):
    """Twice another tensor, which takes a megabyte of memory."""

    def __init__(self, base: Recipe) -> None:
        self.base = base

    @property
    def dtype(self) -> DType:
        return self.base.dtype

    @property
    def input_bytes(self) -> int:
        return self.base.input_bytes

    @property
    def memory_bytes(self) -> int:
        return 1 << 20


def test_what_is_computed_tells_its_memory_through_what_is_made_of_it() -> None:
    doubled = Doubled(View(tensor(4, 3)))
    assert doubled.memory_bytes == 1 << 20
    assert Section(doubled, 0, 6).memory_bytes == 1 << 20
    assert Mean((doubled, doubled)).memory_bytes == 2 << 20
    assert Rows((doubled, doubled), 3, ((0, 0, 4), (1, 0, 4))).memory_bytes == 2 << 20
    with pytest.raises(PlanBroken, match="computed"):
        list(doubled.copies())


def test_rows_take_their_share_of_each_tensor() -> None:
    first, second = (View(partition(8, file=f"r{n}", start=1000)) for n in (0, 1))
    rows = Rows((first, second), 2, ((0, 1, 2), (1, 0, 1), (0, 0, 1)))
    assert (rows.is_copied, rows.input_bytes) == (True, 4 * 8)
    assert not Rows((first, Doubled(second)), 2, ((0, 0, 1), (1, 0, 1))).is_copied


def test_a_name_whose_tensor_is_not_stored_is_not_chosen() -> None:
    found = tied()
    stored = {name: source for name, source in sources(found).items() if name != "a"}
    chosen = select(found, stored, copy_ties=True, wanted=lambda *_: True)
    assert list(chosen.named) == ["b", "n", "f"]
    assert chosen.left_out == ()


def test_only_tensors_in_folders() -> None:
    """A model whose own file would be empty."""
    nothing = Selection(named={}, left_out=())
    plan = build(nothing, dtype=None, max_shard_bytes=None, padding_bytes=0, folders={"2_Dense": sources(stage2())})
    assert [file.name for file in plan.files] == ["2_Dense/model.safetensors"]
    assert plan.index is None


@pytest.mark.parametrize("insisted", [True, False])
def test_a_plan_with_what_can_share_blocks(insisted: bool) -> None:
    """Only if it is insisted on: it is little."""
    named = {
        name: replace(source, recipe=View(partition(source.recipe.numel, file="f", start=4100)))
        for name, source in sources(stage2()).items()
    }
    selection = Selection(named=named, left_out=())
    usual = planned(selection)
    sharing = Sharing(block_bytes=8, apart=frozenset(), insisted=insisted)
    plan = build(selection, dtype=None, max_shard_bytes=None, padding_bytes=0, sharing=sharing)
    if insisted:
        assert (plan.sharing, plan.cloned_bytes > 0, plan.files == usual.files) == (sharing, True, False)
    else:
        assert plan == usual


def test_what_is_computed_says_what_it_reads() -> None:
    doubled = Doubled(View(tensor(4, 3)))
    assert (doubled.numel, doubled.is_plain, doubled.block_ends) == (12, False, (12,))
    assert Section(doubled, 0, 6).input_bytes == 24
    assert Mean((doubled, doubled)).input_bytes == 96


def test_rows_with_padding_between_them() -> None:
    """Three columns of a matrix of five: a copy for each row."""
    found = list(View(tensor(2, 3, stride=(5, 1))).copies(1))
    assert [(copy.file_start, copy.start, copy.run_numel) for copy in found] == [(68, 1, 2), (84, 3, 3)]


def test_a_tensor_of_another_model_was_not_trained() -> None:
    found = Source.of_model("a", tensor(2, 3))
    assert (found.name, found.shape, found.role, found.recipe) == ("a", (2, 3), "frozen", View(tensor(2, 3)))
