"""Masters without names: what looks and order tell, and that nothing is guessed."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.errors import UnsupportedLayout, WitnessMismatch
from zeroconsolidate.opening import assign as masters
from zeroconsolidate.opening.assign import Look, Master, assign, walk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def look(text: str) -> Look:
    return Look((2,), "BF16", text.encode())


def master(text: str, bits: str = "", *, is_copy: bool = False) -> Master:
    """One that looks like `text` when rounded; `bits` tells masters apart that look alike."""
    return Master(looks=frozenset([look(text)]), bits=(bits or text).encode(), is_copy=is_copy)


def group(texts: str) -> list[Master]:
    """`x n1 n2` are three masters, of which two look like `n` and differ in their bits."""
    return [master(text[0], text) for text in texts.split()]


def names(**looks: str) -> Mapping[str, Look]:
    """name="n": the copy of that name looks like `n`."""
    return {name: look(text) for name, text in looks.items()}


def test_a_look_that_only_one_name_has_decides():
    assert assign([group("y x")], [names(a="x", b="y")]) == [["b", "a"]]


def test_a_master_may_have_the_looks_of_several_dtypes():
    both = Master(looks=frozenset([look("x"), Look((2,), "F32", b"x")]), bits=b"x", is_copy=False)
    assert assign([[both]], [{"a": Look((2,), "F32", b"x")}]) == [["a"]]


def test_like_masters_lie_between_their_neighbours():
    """As many names as masters between `a` and `z`: they are in the order of the module."""
    candidates = names(n0="n", a="x", n1="n", n2="n", z="y", n3="n")
    assert assign([group("x n1 n2 y")], [candidates]) == [["a", "n1", "n2", "z"]]
    assert assign([group("n1 x y n2")], [candidates]) == [["n0", "a", "z", "n3"]]


def test_what_one_group_takes_is_no_others():
    """The first group's norm lies before `z`; what is left for the second is the one behind."""
    candidates = names(n1="n", z="y", n2="n")
    assert assign([group("n1 y"), group("n2")], [candidates, candidates]) == [["n1", "z"], ["n2"]]


def test_two_groups_that_could_have_either():
    candidates = names(n1="n", n2="n")
    with pytest.raises(UnsupportedLayout, match="the order does not tell which one it is"):
        assign([group("n1"), group("n2")], [candidates, candidates])
    assert assign([[master("n")], [master("n")]], [candidates, candidates]) == [["n1"], ["n2"]]


def test_order_does_not_decide_where_a_group_is_in_another_order():
    """Here the trainer sorted its parameters; which of the two norms comes first cannot be known."""
    candidates = names(a="x", n1="n", n2="n", z="y")
    with pytest.raises(UnsupportedLayout, match="master 2 of group 0 may be any of n1, n2"):
        assign([group("y x n1 n2")], [candidates])
    with pytest.raises(UnsupportedLayout, match="not in the order of the module: master 1 may be any of n1, n2"):
        assign([group("y n1 n2")], [candidates])
    same = [*group("y x"), master("n"), master("n")]
    assert assign([same], [candidates]) == [["z", "a", "n1", "n2"]]


def test_masters_that_differ_are_not_given_to_more_names_than_there_are_masters():
    with pytest.raises(UnsupportedLayout, match=r"master 0 of group 0 may be any of n1, n2, n3: their copies"):
        assign([group("n1 n2")], [names(n1="n", n2="n", n3="n")])


@pytest.mark.parametrize("is_copy", [False, True])
def test_equal_masters_for_more_names_are_given_out_if_the_copy_is_as_good(is_copy: bool):
    """The name that gets none is written from its 16-bit copy: the same bytes only where rounding lost nothing."""
    like = [master("n", is_copy=is_copy)] * 2
    candidates = names(n1="n", n2="n", n3="n")
    if is_copy:
        assert assign([like], [candidates]) == [["n1", "n2"]]
    else:
        with pytest.raises(UnsupportedLayout, match="may be any of n1, n2, n3"):
            assign([like], [candidates])


def test_a_master_that_is_no_parameters():
    with pytest.raises(WitnessMismatch, match=r"master 1 of group 0, of shape \(2,\), does not round to any copy"):
        assign([group("x q")], [names(a="x", b="y")])
    blank = Master(looks=frozenset(), bits=b"", is_copy=False)
    with pytest.raises(WitnessMismatch, match=r"master 0 of group 0, of shape \(\), does not round"):
        assign([[blank]], [names(a="x")])


def test_more_masters_than_names():
    with pytest.raises(WitnessMismatch, match="master 1 of group 0 rounds to no copy in the module but those of other"):
        assign([group("n1 n2")], [names(a="n", b="y")])
    with pytest.raises(WitnessMismatch, match="3 masters of group 0 round to the copies of 2 parameters"):
        assign([group("n1 n2 n3")], [names(a="n", b="n", c="y")])
    equal = [master("n", is_copy=True)] * 2
    with pytest.raises(UnsupportedLayout, match="may be any of a, b, c"):
        assign([equal, equal], [names(a="n", b="n", c="n")] * 2)


@given(st.lists(st.sampled_from("xyn"), min_size=1, max_size=5), st.data())
def test_whatever_is_decided_is_the_only_way(looks: list[str], data: st.DataObject):
    """Brute force: an answer is given only if it is the one assignment in the order of the module."""
    kept = data.draw(st.lists(st.booleans(), min_size=len(looks), max_size=len(looks)).filter(any))
    candidates = {f"p{place}": look(text) for place, text in enumerate(looks)}
    held = [master(text, f"{text}{place}") for place, text in enumerate(looks) if kept[place]]
    chosen = [name for place, name in enumerate(candidates) if kept[place]]
    ways = [
        way
        for way in permutations(candidates, len(held))
        if list(way) == sorted(way) and all(candidates[n] in m.looks for n, m in zip(way, held, strict=True))
    ]
    try:
        found = assign([held], [candidates])
    except UnsupportedLayout:
        return
    assert [tuple(found[0])] == ways == [tuple(chosen)]


# --- flat masters -----------------------------------------------------------------------------------------------------


def walked(flat: str, *candidates: str) -> Sequence[str]:
    """A flat master of these letters; a candidate's copy is its name in lower case."""
    return walk(
        len(flat),
        [(name, len(name)) for name in candidates],
        lambda offset, index: flat[offset : offset + len(candidates[index])].lower() == candidates[index].lower(),
    )


def test_the_names_that_fill_a_flat_master():
    assert walked("abcde", "ab", "x", "cde") == ["ab", "cde"]
    assert walked("aba", "a", "ab", "ba", "b") == ["a", "ba"]
    assert walked("", "a") == []


def test_a_flat_master_in_another_order_is_no_way():
    with pytest.raises(WitnessMismatch, match="does not round to copies of the module laid end to end"):
        walked("abcde", "cde", "ab")
    with pytest.raises(WitnessMismatch):
        walked("abc", "ab")


def test_two_ways_to_fill_a_flat_master():
    with pytest.raises(UnsupportedLayout, match="the flat master may hold ab or another parameter whose copy"):
        walked("abc", "ab", "AB", "c")


def test_a_parameter_without_elements_is_in_none():
    assert walk(1, [("e", 0), ("a", 1)], lambda *_: True) == ["a"]


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masters, "MAX_TRIES", 50)
    with pytest.raises(UnsupportedLayout, match="too many have the same values"):
        walk(40, [(f"p{i}", 2) for i in range(40)], lambda offset, _: offset < 30)
