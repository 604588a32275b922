"""What stands between brackets names the elements that it names in numpy."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.errors import BadIndex
from zeroconsolidate.plan.index import MAX_GAP_NUMEL, box


@st.composite
def indexed(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    """A shape, and what may stand between brackets behind a tensor of it."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    parts: list[Any] = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        slices = st.builds(
            slice, st.none() | st.integers(-7, 7), st.none() | st.integers(-7, 7), st.none() | st.integers(1, 4)
        )
        parts.append(draw(slices | st.integers(-n, n - 1) if n else slices))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), ...)
    return shape, parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@given(indexed(), st.integers(1, 40))
def test_elements_are_numpys(drawn: tuple[tuple[int, ...], Any], most_numel: int) -> None:
    shape, key = drawn
    try:
        expected = np.arange(prod(shape)).reshape(shape)[key]
    except IndexError:  # behind the dots, an index may be for a dimension that is too short
        with pytest.raises(BadIndex):
            box(key, shape)
        return
    chosen = box(key, shape)
    assert chosen.result_shape == expected.shape
    found = []
    if prod(chosen.counts):
        outer = chosen.outer(most_numel)
        for start in chosen.starts(outer):
            span = np.arange(start, start + chosen.span_numel(outer))
            assert chosen.is_dense(outer) or len(span) <= most_numel
            steps = [pitch * span.itemsize for pitch in chosen.pitches[outer:]]
            found += np.lib.stride_tricks.as_strided(span, chosen.counts[outer:], steps).reshape(-1).tolist()
    assert found == expected.reshape(-1).tolist()


def test_what_lies_together_is_read_at_a_time() -> None:
    rows = box(slice(10, 20), (100, 64))
    assert (rows.outer(1), rows.span_numel(0), rows.is_dense(0)) == (0, 640, True)
    column = box((slice(None), 3), (100, 4 * MAX_GAP_NUMEL))
    assert (column.outer(10**9), len(list(column.starts(1)))) == (1, 100)
    near = box((slice(None), 3), (100, 8))
    assert (near.outer(10**6), near.span_numel(0)) == (0, 99 * 8 + 1)
    assert near.outer(100) == 1, "a span with gaps is not longer than a block"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ((1, 2, 3), "too many indices; expected at most 2, for the shape [4, 3], got 3"),
        ((..., 1, ...), "'...' more than once"),
        (4, "the index 4 is out of range for dimension 0, which has 4"),
        ((0, -4), "the index -4 is out of range for dimension 1, which has 3"),
        (slice(None, None, -1), "goes backwards; expected a step of at least 1, got -1"),
        (slice(None, None, 0), "makes no sense: slice step cannot be zero"),
        (slice("a"), "makes no sense"),
        (1.0, "got float; read the tensor with load()"),
        (True, "got bool"),
        (None, "got NoneType"),
        ([0, 1], "got list"),
    ],
)
def test_what_cannot_be_read_is_refused(key: Any, said: str) -> None:
    with pytest.raises(IndexError) as caught:
        box(key, (4, 3))
    assert isinstance(caught.value, BadIndex)
    assert said in str(caught.value)
