"""The same rearrangement of other tensors."""

from __future__ import annotations

from catalogs import tensor

from zeroconsolidate.plan.joined import Mean, Section
from zeroconsolidate.plan.pieces import Rows, View
from zeroconsolidate.plan.substituted import leaves, substituted


def view(key: str) -> View:
    return View(tensor(4, 3, key=key))


def test_rows_and_sections_of_other_tensors():
    a, b, c = view("a"), view("b"), view("c")
    recipe = Section(Rows((a, b), 3, ((0, 1, 2), (1, 0, 1), (0, 0, 1))), 3, 6)
    assert list(leaves(recipe)) == [a, b]
    made = substituted(recipe, {id(a): c, id(b): a})
    assert made == Section(Rows((c, a), 3, ((0, 1, 2), (1, 0, 1), (0, 0, 1))), 3, 6)
    assert substituted(b, {id(b): c}) is c


def test_what_computes_is_a_leaf():
    mean = Mean((view("a"), view("b")))
    assert list(leaves(Section(mean, 0, 2))) == [mean]
