"""Files are cut so that all parts together are every byte once, wherever they may be cut and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import BadOption
from zeroconsolidate.plan import stretches
from zeroconsolidate.plan.fragment import fragment
from zeroconsolidate.plan.layout import FilePlan, TensorPlan, lay_out
from zeroconsolidate.plan.stretches import Part, cut_near, share_of
from zeroconsolidate.plan.whole_file import bytes_of, whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence

DTYPES = st.sampled_from([DType.F32, DType.BF16, DType.U8, DType.F64])


def tensor(name: str, dtype: DType, numel: int) -> TensorPlan:
    view = bytes_of("rank.pt", numel * dtype.itemsize)
    recipe = type(view)(replace(view.tensor, storage=replace(view.tensor.storage, dtype=dtype), shape=(numel,)))
    return TensorPlan(name=name, dtype=dtype, shape=(numel,), recipe=recipe, is_parameter=True)


@st.composite
def files(draw: st.DrawFn) -> list[FilePlan]:
    def safetensors(name: str) -> FilePlan:
        sizes = draw(st.lists(st.tuples(DTYPES, st.integers(0, 900)), max_size=5))
        return lay_out(name, [tensor(f"t{i}", dtype, numel) for i, (dtype, numel) in enumerate(sizes)])

    kinds = {
        "safetensors": safetensors,
        "copy": lambda name: whole_file(name, "optimizer.pt", draw(st.integers(1, 3000))),
        "fragment": lambda name: fragment(name, tensor("param", DType.F32, draw(st.integers(0, 500))), {}),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=5))
    return [kinds[kind](f"{n}.{kind}") for n, kind in enumerate(chosen)]


def is_place_to_cut(file: FilePlan, byte: int) -> bool:
    """By the bytes of each tensor, one after the other."""
    if byte in (0, file.size_bytes):
        return True
    if file.name.endswith("fragment") or byte < len(file.header):
        return False
    ends = {
        start + n * each.dtype.itemsize
        for each, start in zip(file.tensors, file.starts, strict=True)
        for n in range(each.numel + 1)
    }
    return byte in ends


def assert_every_byte_once(plan: Sequence[FilePlan], found: list[stretches.Stretch]) -> None:
    for file in plan:
        own = [stretch for stretch in found if stretch.file == file.name]
        assert [own[0].start, own[-1].stop] == [0, file.size_bytes]
        assert all(before.stop == after.start for before, after in pairwise(own))
        assert all(stretch.nbytes > 0 for stretch in own)
        assert all(is_place_to_cut(file, stretch.start) for stretch in own)


@given(plan=files(), count=st.integers(1, 20), step=st.sampled_from([16, 64, 1024]))
def test_parts_are_every_byte_once(plan: list[FilePlan], count: int, step: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stretches, "CUT_BYTES", step)
        shares = [share_of(plan, Part(number, count)) for number in range(1, count + 1)]
    assert_every_byte_once(plan, [stretch for share in shares for stretch in share])
    # Nobody has more than a fair share, a step, and what cannot be cut: a header, or a whole file.
    largest = max((file.size_bytes if file.name.endswith("fragment") else len(file.header)) for file in plan)
    fair = sum(file.size_bytes for file in plan) / count
    assert max(sum(stretch.nbytes for stretch in share) for share in shares) <= fair + step + 2 * largest


@given(plan=files(), most_bytes=st.integers(1, 5000), step=st.sampled_from([16, 64, 1024]))
def test_stretches_are_every_byte_once(plan: list[FilePlan], most_bytes: int, step: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stretches, "CUT_BYTES", step)
        found = list(stretches.stretches(plan, most_bytes))
    assert_every_byte_once(plan, found)
    for file in plan:
        if not file.name.endswith("fragment"):
            own = [stretch.nbytes for stretch in found if stretch.file == file.name]
            assert max(own) <= max(most_bytes, step) + step + len(file.header)


def test_a_cut_lies_where_no_page_is_shared() -> None:
    file = lay_out("model.safetensors", [tensor("a", DType.F32, 1 << 20), tensor("b", DType.U8, 3)])
    assert cut_near(file, (3 << 20) + 17) == 3 << 20
    assert cut_near(file, 100) == 0
    assert cut_near(file, file.size_bytes) == file.size_bytes
    # A tensor that does not begin at a multiple of its elements' size: an element is never cut in two.
    odd = replace(file, starts=tuple(start + 1 for start in file.starts))
    assert (cut_near(odd, 3 << 20) - odd.starts[0]) % 4 == 0
    assert (3 << 20) - cut_near(odd, 3 << 20) < 4


def test_more_parts_than_places_to_cut() -> None:
    file = lay_out("model.safetensors", [tensor("a", DType.F32, 10)])
    shares = [share_of([file], Part(number, 5)) for number in range(1, 6)]
    assert [sum(stretch.nbytes for stretch in share) for share in shares] == [0, 0, 0, 0, file.size_bytes]


@pytest.mark.parametrize("given", ["1/1", "16/16", "10000/10000", "3/16"])
def test_what_is_a_part(given: str) -> None:
    assert str(Part.parse(given)) == given


@pytest.mark.parametrize("given", [None, 3, "3", "0/3", "4/3", "1/2/3", "/", "1/10001", "\u0661/2", "1/100000000"])
def test_what_is_none(given: object) -> None:
    with pytest.raises(BadOption, match="a part is its number and how many there are; expected 1/16 to 16/16"):
        Part.parse(given)
