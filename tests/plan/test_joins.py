"""Tensors cut apart by torch are put together by boxes: the whole, any interval, and the proof that boxes tile it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor, row_major
from zeroconsolidate.catalog.rules import Affine, AffinePiece, Concatenated, Join, Rule
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, Disagreement, UnsupportedLayout
from zeroconsolidate.plan.boxes import Axis, Box, boxes_of, tile
from zeroconsolidate.plan.joined import Joined, Mean, Section
from zeroconsolidate.plan.joins import Held, put_together, whole_shape
from zeroconsolidate.plan.pieces import View, covers_once
from zeroconsolidate.run.elements import read_all
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.reader import reader


class Disk:
    """Tensors in one file, each contiguous or transposed, as parts that ranks hold."""

    def __init__(self, folder: str) -> None:
        self.path = str(Path(folder) / "parts")
        self._bytes = b""

    def hold(self, tensor: torch.Tensor, *, transposed: bool = False, dtype: DType = DType.F32) -> Held:
        stored = tensor.t().contiguous() if transposed else tensor.contiguous()
        start = len(self._bytes)
        self._bytes += stored.numpy().tobytes()
        Path(self.path).write_bytes(self._bytes)
        storage = LocatedStorage(
            file=self.path, key="0", start=start, numel=tensor.numel(), dtype=dtype, big_endian=False
        )
        stride = tuple(reversed(row_major(tuple(stored.shape)))) if transposed else row_major(tuple(tensor.shape))
        located = LocatedTensor(storage, 0, tuple(tensor.shape), stride)
        return Held(shape=tuple(tensor.shape), recipe=View(located), role="trainable", holder=f"at byte {start}")


def numbered(*shape: int) -> torch.Tensor:
    numel = int(np.prod(shape))
    return torch.arange(numel, dtype=torch.float32).reshape(shape)


@st.composite
def cuts(draw: st.DrawFn):
    """A tensor, and how some ranks hold it along a dimension, in sub-parameters of uneven widths."""
    ndim = draw(st.integers(1, 3))
    dim = draw(st.integers(0, ndim - 1))
    ranks = draw(st.integers(1, 4))
    widths = tuple(tuple(draw(st.integers(0, 4)) for _ in range(ranks)) for _ in range(draw(st.integers(1, 3))))
    shape = [draw(st.integers(1, 5)) for _ in range(ndim)]
    shape[dim] = sum(map(sum, widths))
    return tuple(shape), dim, widths


def cut(whole: torch.Tensor, dim: int, widths: tuple[tuple[int, ...], ...]) -> list[torch.Tensor]:
    subs = whole.split([sum(of_ranks) for of_ranks in widths], dim)
    pieces = [sub.split(list(of_ranks), dim) for sub, of_ranks in zip(subs, widths, strict=True)]
    return [torch.cat([piece[rank] for piece in pieces], dim) for rank in range(len(widths[0]))]


@given(cuts(), st.booleans(), st.data())
@settings(max_examples=150)
def test_what_was_cut_is_joined(case, transposed: bool, data: st.DataObject):
    shape, dim, widths = case
    whole = numbered(*shape)
    with tempfile.TemporaryDirectory() as folder, Inputs() as inputs:
        disk = Disk(folder)
        parts = [disk.hold(part, transposed=transposed and part.ndim == 2) for part in cut(whole, dim, widths)]
        rule = Concatenated(dim, widths)
        joined = put_together("w", Join(rule=rule), parts)
        assert joined.shape == tuple(whole.shape) == whole_shape(Join(rule=rule), [part.shape for part in parts])
        assert joined.replicas == ()
        covers_once(joined.recipe)
        assert read_all(joined.recipe, inputs).tobytes() == whole.numpy().tobytes()
        start = data.draw(st.integers(0, whole.numel()))
        stop = data.draw(st.integers(start, whole.numel()))
        block = np.empty(stop - start, np.float32)
        reader(joined.recipe, inputs).fill(start, stop, block)
        assert block.tobytes() == whole.reshape(-1)[start:stop].numpy().tobytes()
        if joined.recipe.is_plain:
            position = 0
            for copy in joined.recipe.copies():
                assert (copy.start, copy.count) == (position, 1)
                position += copy.numel


def test_columns_of_parts_that_lie_transposed(tmp_path: Path):
    """Each part is as wide as the rows it fills, and its own elements are apart from one another."""
    whole = numbered(4, 4)
    disk = Disk(str(tmp_path))
    parts = [disk.hold(part, transposed=True) for part in whole.split(2, 1)]
    joined = put_together("w", Join(rule=Concatenated(1)), parts)
    covers_once(joined.recipe)
    assert not joined.recipe.is_plain
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == whole.numpy().tobytes()


def test_columns_of_sub_parameters_that_lie_transposed(tmp_path: Path):
    """Rows of two columns, a part's width apart in it, and each column elsewhere in the file."""
    whole = numbered(4, 8)
    widths = ((2, 2), (2, 2))
    disk = Disk(str(tmp_path))
    parts = [disk.hold(part, transposed=True) for part in cut(whole, 1, widths)]
    joined = put_together("w", Join(rule=Concatenated(1, widths)), parts)
    covers_once(joined.recipe)
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == whole.numpy().tobytes()


def test_a_view_of_more_dimensions_is_folded_back(tmp_path: Path):
    """A fused weight [heads * 3 * 2, 5] that is cut by heads: the view counts heads, q/k/v and rows apart."""
    whole = numbered(4, 3, 2, 5)
    disk = Disk(str(tmp_path))
    parts = [disk.hold(part.reshape(-1, 5)) for part in whole.split(2, 0)]
    rule = Concatenated(0, ((2, 2),), (4, 3, -1, 5))
    joined = put_together("w", Join(rule=rule), parts)
    assert joined.shape == (24, 5)
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == whole.numpy().tobytes()


def test_an_affine_map_says_it_all(tmp_path: Path):
    """Columns to two ranks, the last row held by both: what two ranks hold becomes a replica to compare."""
    whole = numbered(3, 4)
    parts = [torch.cat([whole[:2, 2 * r : 2 * r + 2].reshape(-1), whole[2]]) for r in range(2)]
    disk = Disk(str(tmp_path))
    held = [disk.hold(part) for part in parts]
    pieces = tuple(
        (
            AffinePiece((2, 2), (2 * r, (4, 1)), (0, (2, 1))),
            AffinePiece((4,), (8, (1,)), (4, (1,))),
        )
        for r in range(2)
    )
    joined = put_together("w", Join(rule=Affine((3, 4), pieces)), held)
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == whole.numpy().tobytes()
        (replica,) = joined.replicas
        assert read_all(replica.first, inputs).tobytes() == read_all(replica.other, inputs).tobytes()
    assert replica.holders == ("at byte 0", "at byte 32")


def test_interleaved_rows(tmp_path: Path):
    """Rank 0 has the even rows, rank 1 the odd ones, and in each the columns are stored last first."""
    whole = numbered(4, 3)
    disk = Disk(str(tmp_path))
    held = [disk.hold(whole[r::2].t().contiguous()) for r in range(2)]
    pieces = tuple((AffinePiece((2, 3), (3 * r, (6, 1)), (0, (1, 2))),) for r in range(2))
    joined = put_together("w", Join(rule=Affine((4, 3), pieces)), held)
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == whole.numpy().tobytes()


def test_replicas_are_the_first_and_to_be_compared(tmp_path: Path):
    disk = Disk(str(tmp_path))
    held = [disk.hold(numbered(2, 3)) for _ in range(3)]
    joined = put_together("w", None, held)
    assert joined.recipe is held[0].recipe
    assert [replica.holders[1] for replica in joined.replicas] == ["at byte 24", "at byte 48"]


def test_averages_are_summed_in_order_and_divided(tmp_path: Path):
    parts = [torch.randn(5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    disk = Disk(str(tmp_path))
    joined = put_together("w", Join(rule=Rule.AVERAGED), [disk.hold(part) for part in parts])
    assert isinstance(joined.recipe, Mean)
    assert not joined.recipe.is_plain
    assert joined.recipe.numel == 5
    assert sum(copy.numel for copy in joined.recipe.copies()) == 15
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == (sum(parts) / 3).numpy().tobytes()


def test_a_mean_of_16_bit_elements_is_refused(tmp_path: Path):
    disk = Disk(str(tmp_path))
    held = [disk.hold(torch.ones(2, dtype=torch.float16), dtype=DType.F16) for _ in range(2)]
    with pytest.raises(UnsupportedLayout, match="a mean of F16 elements would not be exact"):
        put_together("w", Join(rule=Rule.AVERAGED), held)


def test_a_padded_vocabulary_is_cut(tmp_path: Path):
    whole = numbered(8, 3)
    disk = Disk(str(tmp_path))
    held = [disk.hold(part) for part in whole.split(4)]
    joined = put_together("w", Join(rule=Concatenated(0), rows=5), held)
    assert joined.shape == (5, 3)
    assert isinstance(joined.recipe, Section)
    assert joined.recipe.is_plain
    assert joined.recipe.dtype is DType.F32
    covers_once(joined.recipe)
    with Inputs() as inputs:
        assert read_all(joined.recipe, inputs).tobytes() == whole[:5].numpy().tobytes()
    with pytest.raises(Disagreement, match="the vocabulary is larger than the tensor"):
        put_together("w", Join(rule=Concatenated(0), rows=9), held)


@pytest.mark.parametrize(
    ("rule", "shapes", "message"),
    [
        (Rule.REPLICATED, [(2,), (3,)], "copies of a replicated tensor differ in shape"),
        (Concatenated(1), [(2,), (2,)], "a part has no dimension 1"),
        (Concatenated(0), [(2, 3), (2, 4)], "a part does not fit the others"),
        (Concatenated(0, ((2, 2, 2),)), [(2,), (2,)], "the widths are those of 3 ranks; expected 2"),
        (Concatenated(0, ((1, 1),)), [(2,), (2,)], "a part does not fit the others"),
        (Concatenated(0, ((2, 2),), (4, -1, -1)), [(2, 4), (2, 4)], "the sub-parameters' shape does not fit"),
        (Concatenated(0, ((2, 2),), (4, 2, 2)), [(2, 4), (2, 4)], "does not fit the parts'"),
        (Affine((4,), (((AffinePiece((4,), (0, (1,)), (0, (1,)))),),)), [(4,), (4,)], "the affine map is of 1 ranks"),
        (Affine((4,), ((AffinePiece((4,), (0, (1,)), (0, (1,))),),)), [(2,)], "needs 4 elements of a part of 2"),
        (Affine((4,), ((AffinePiece((2,), (0, (1,)), (0, (1,))),),)), [(2,)], "the parts do not add up"),
        (Affine((4,), ((AffinePiece((4,), (1, (1,)), (0, (1,))),),)), [(4,)], "reaches past the tensor"),
        (Affine((4,), ((AffinePiece((2, 2), (0, (1, 1)), (0, (2, 1))),),)), [(4,)], "overlaps itself"),
        (
            Affine((6,), ((AffinePiece((3,), (0, (1,)), (0, (1,))), AffinePiece((3,), (1, (1,)), (3, (1,)))),)),
            [(6,)],
            "two parts hold the same elements",
        ),
        (
            Affine((6,), ((AffinePiece((2,), (0, (3,)), (0, (1,))), AffinePiece((2, 2), (1, (2, 1)), (2, (2, 1)))),)),
            [(6,)],
            "cut in a way that is not understood",
        ),
    ],
)
def test_parts_that_make_no_whole(rule, shapes, message: str, tmp_path: Path):
    disk = Disk(str(tmp_path))
    held = [disk.hold(numbered(*shape)) for shape in shapes]
    with pytest.raises(Disagreement, match=message):
        put_together("w", Join(rule=rule), held)


def test_parts_of_several_dtypes(tmp_path: Path):
    disk = Disk(str(tmp_path))
    held = [disk.hold(numbered(2)), disk.hold(torch.ones(2, dtype=torch.float16), dtype=DType.F16)]
    with pytest.raises(DamagedFile, match="the parts differ in dtype; got F32, F16"):
        put_together("w", Join(rule=Concatenated(0)), held)


def test_tensors_without_elements(tmp_path: Path):
    disk = Disk(str(tmp_path))
    held = [disk.hold(torch.empty(0, 3)) for _ in range(2)]
    joined = put_together("w", Join(rule=Concatenated(0)), held)
    assert joined.shape == (0, 3)
    assert list(joined.recipe.copies()) == []
    tile([], 0)


class TestBoxes:
    def test_dimensions_that_run_on_are_one(self):
        (one,) = boxes_of((2, 3, 4), (0, (12, 4, 1)), (5, (12, 4, 1)))
        assert one == Box(start=0, part_start=5, axes=(Axis(24, 1, 1),))
        assert (one.numel, one.span) == (24, 24)

    def test_a_single_element_has_no_axes(self):
        (one,) = boxes_of((1, 1), (3, (7, 1)), (0, (1, 1)))
        assert one == Box(start=3, part_start=0, axes=())
        recipe = Joined(1, (Box(start=0, part_start=0, axes=()),), (View(_located(1)),))
        assert [(copy.start, copy.numel) for copy in recipe.copies()] == [(0, 1)]

    def test_rows_and_columns_tile_together(self):
        """Two whole rows of a [4, 2] in one run, the other two by columns."""
        rows = boxes_of((4,), (0, (1,)), (0, (1,)))
        columns = [*boxes_of((2,), (4, (2,)), (0, (1,))), *boxes_of((2,), (5, (2,)), (0, (1,)))]
        tile([*rows, *columns], 8)
        with pytest.raises(Disagreement, match="two parts hold the same elements"):
            tile([*rows, *columns[:1], *boxes_of((2,), (3, (2,)), (0, (1,)))], 8)

    def test_strides_that_do_not_nest_are_not_understood(self):
        pieces = [boxes_of((2,), (start, (step,)), (0, (1,))) for start, step in ((0, 3), (1, 1), (2, 2))]
        with pytest.raises(Disagreement, match=r"not understood; got the strides \[3, 2, 1\]"):
            tile([box for boxes in pieces for box in boxes], 6)

    def test_a_piece_that_begins_inside_a_row_is_not_understood(self):
        boxes = [
            *boxes_of((3,), (1, (1,)), (0, (1,))),
            *boxes_of((1, 2), (4, (2, 1)), (0, (2, 1))),
            *boxes_of((2,), (0, (2,)), (0, (1,))),
        ]
        with pytest.raises(Disagreement):
            tile(boxes[:2], 6)
        with pytest.raises(Disagreement):
            tile([*boxes_of((4,), (1, (1,)), (0, (1,))), *boxes_of((2,), (0, (3,)), (0, (1,)))], 6)


def _located(numel: int) -> LocatedTensor:
    storage = LocatedStorage(file="f", key="0", start=0, numel=numel, dtype=DType.F32, big_endian=False)
    return LocatedTensor(storage, 0, (numel,), (1,))
