"""Where the tensors that a recipe reads begin."""

from __future__ import annotations

from zeroconsolidate.adapters.recipes import Factor, Lie, LowRank, Merged, RowsReplaced
from zeroconsolidate.dtypes import DType
from zeroconsolidate.plan.begins import begins
from zeroconsolidate.plan.joined import Mean
from zeroconsolidate.plan.patched import Patched
from zeroconsolidate.plan.whole_file import bytes_of


def test_a_copy_begins_where_its_first_element_lies():
    one, other = bytes_of("a", 4), bytes_of("b", 4)
    assert list(begins(one)) == [("a", 0)]
    assert list(begins(Patched(one, other, ((0, 1),)))) == [("b", 0)]
    assert list(begins(bytes_of("empty", 0))) == []


def test_what_is_computed_begins_where_its_parts_do_in_their_order():
    one, other = bytes_of("a", 4), bytes_of("b", 4)
    assert list(begins(Mean((other, one)))) == [("b", 0), ("a", 0)]
    replaced = RowsReplaced(base=one, shape=(2, 2), dtype=DType.U8, replacements=(((1,), other),))
    assert list(begins(replaced)) == [("a", 0), 2, 2, 1, ("b", 0)]


def test_factors_within_records_and_scales_count():
    a, b = Factor(recipe=bytes_of("a", 2), shape=(1, 2)), Factor(recipe=bytes_of("b", 2), shape=(2, 1))
    part = LowRank(adapter="default", a=a, b=b, scale=0.5, lie=Lie.ROWS, magnitude=None, rounds_first=False)
    merged = Merged(base=bytes_of("w", 4), shape=(2, 2), dtype=DType.U8, parts=(part,))
    assert [each for each in begins(merged) if isinstance(each, tuple)] == [("w", 0), ("a", 0), ("b", 0)]
    assert 0.5 in list(begins(merged))
