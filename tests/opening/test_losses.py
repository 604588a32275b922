"""What is lost of an incomplete checkpoint, in memory."""

from __future__ import annotations

from catalogs import Claimed, catalog, model, optimizer

from zeroconsolidate.archive.located import LOST
from zeroconsolidate.opening.losses import gaps, losses


def test_gaps_are_as_long_as_can_be():
    lost = Claimed(10, (4, 1, 3, 2), (5, 1, 2, 2), (1, 2, 1, 0), (0, 0, 1, 0))
    lost.file = LOST
    assert gaps(lost) == [(1, 3), (4, 9)]
    assert gaps(Claimed(10, (0, 10, 1, 0))) == []


def test_what_is_lost_with_a_ranks_file():
    found = catalog([model()], [optimizer(0)], incomplete=True)
    assert [loss.fate for loss in losses(found)] == ["whole", "lost", "whole"]
