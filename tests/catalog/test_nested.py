"""Values that hold others, with something else in place of their tensors."""

from __future__ import annotations

from typing import Any

import pytest
from catalogs import tensor

from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.catalog.nested import MAX_DEPTH, NotPlain, rebuilt


def shape(found: Any, _: str) -> tuple[int, ...]:
    return found.shape


def again(_: object) -> str:
    return "again"


def test_containers_are_new_and_tensors_are_told_where_they_are():
    value = {"rng": [1, (tensor(3), None)], 7: b"x"}
    made = rebuilt(value, lambda found, place: (place, found.shape), place="state")
    assert made == {"rng": [1, (("state.rng.1.0", (3,)), None)], 7: b"x"}
    assert made["rng"] is not value["rng"]


def test_what_was_there_twice_is_there_twice():
    shared = [tensor(2)]
    made = rebuilt({"a": shared, "b": shared}, shape)
    assert made == {"a": [(2,)], "b": [(2,)]}
    assert made["a"] is made["b"]


def test_what_is_there_2_to_the_50_is_gone_through_once():
    seen: list[str] = []
    value: Any = tensor(2)
    for _ in range(MAX_DEPTH - 1):
        value = [value, value]
    rebuilt([value] * 50, lambda _, place: seen.append(place))
    assert len(seen) == 1


@pytest.mark.parametrize(
    "value", [Inert("my.Args", ()), [Inert("my.Args", ())], {(1, 2): 3}], ids=["object", "in", "key"]
)
def test_what_is_not_plain_is_refused_unless_said(value: Any):
    with pytest.raises(NotPlain):
        rebuilt(value, shape)
    assert rebuilt(value, shape, other=lambda other: other) == value


def test_a_list_that_contains_itself():
    endless: list[Any] = []
    endless += [endless, 1]
    with pytest.raises(NotPlain):
        rebuilt(endless, shape)
    assert rebuilt(endless, shape, other=again) == ["again", 1]


def test_a_thousand_lists_in_each_other():
    value: Any = 0
    for _ in range(1000):
        value = [value]
    with pytest.raises(NotPlain):
        rebuilt(value, shape)
    made = rebuilt(value, shape, other=again)
    for _ in range(MAX_DEPTH + 1):
        [made] = made
    assert made == "again"
