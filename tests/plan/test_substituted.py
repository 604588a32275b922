"""The same rearrangement of other tensors."""

from __future__ import annotations

import pytest
from catalogs import tensor

from zeroconsolidate.errors import PlanBroken
from zeroconsolidate.plan.joined import Mean, Section
from zeroconsolidate.plan.pieces import Rows, View
from zeroconsolidate.plan.substituted import leaves, substituted


def view(key: str) -> View:
    return View(tensor(4, 3, key=key))


def test_rows_and_sections_of_other_tensors():
    a, b, c = view("a"), view("b"), view("c")
    recipe = Section(Rows((a, b), 3, ((0, 1, 2), (1, 0, 1), (0, 0, 1))), 3, 6)
    assert list(leaves(recipe, {id(a), id(b)})) == [a, b]
    made = substituted(recipe, {id(a): c, id(b): a})
    assert made == Section(Rows((c, a), 3, ((0, 1, 2), (1, 0, 1), (0, 0, 1))), 3, 6)
    assert substituted(b, {id(b): c}) is c


def test_what_computes_is_a_leaf():
    mean = Mean((view("a"), view("b")))
    assert list(leaves(Section(mean, 0, 2), ())) == [mean]
    with pytest.raises(PlanBroken, match="there is nothing for a Mean"):
        substituted(mean, {})


def test_what_is_known_is_a_leaf_whatever_it_is_made_of():
    """As a vocabulary without the rows that pad it."""
    known, other = Section(view("a"), 0, 9), view("b")
    recipe = Rows((known,), 3, ((0, 1, 2),))
    assert list(leaves(recipe, {id(known)})) == [known]
    assert substituted(recipe, {id(known): other}) == Rows((other,), 3, ((0, 1, 2),))
