"""Detections in another order: what rounding explains is undone, every other change is seen."""

import numpy as np
import pytest
from row_order import undo_exchanges

TOLERANCE = 1e-4
LABELS = np.array([1, 1, 1, 2, 2, 2])
SCORES = np.array([0.9, 0.5, 0.49996, 0.49994, 0.3, 0.2998])
"""Rows 1 and 2 lie closer together than the tolerance, as do rows 2 and 3, of two classes; 4 and 5 do not."""
EXPECTED = np.column_stack([SCORES, np.linspace(0.05, 0.95, 24).reshape(6, 4)])


def order_of(found, expected=EXPECTED, labels=LABELS):
    return undo_exchanges(found, expected, labels, np.full(5, TOLERANCE)).tolist()


def agrees(found):
    return np.abs(found[order_of(found)] - EXPECTED).max() <= TOLERANCE


def exchanged(one, other):
    """The expected rows, two of them in each other's place, with scores that descend all the same."""
    found = EXPECTED.copy()
    found[[one, other], 1:] = EXPECTED[[other, one], 1:]
    return found


def test_rows_in_order_stay():
    assert order_of(EXPECTED) == [0, 1, 2, 3, 4, 5]
    assert order_of(EXPECTED + 0.9 * TOLERANCE) == [0, 1, 2, 3, 4, 5]
    assert order_of(np.zeros((0, 5)), np.zeros((0, 5)), np.zeros(0)) == []


@pytest.mark.parametrize(
    ("one", "other", "is_undone"), [(1, 2, True), (4, 5, False), (2, 3, False), (1, 3, False), (0, 1, False)]
)
def test_an_exchange_is_undone_within_the_tolerance_and_the_class(one, other, is_undone):
    found = exchanged(one, other)
    assert (order_of(found)[one] == other) == agrees(found) == is_undone


@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize("column", [0, 1, 4])
def test_a_changed_score_or_box_is_seen(row, column):
    for found in (EXPECTED.copy(), exchanged(1, 2)):
        found[row, column] += 1.5 * TOLERANCE
        assert not agrees(found)


def test_one_box_does_not_stand_for_two():
    found = EXPECTED.copy()
    found[2, 1:] = found[1, 1:]
    assert sorted(order_of(found)) == [0, 1, 2, 3, 4, 5]
    assert not agrees(found)


def test_a_row_moves_with_its_score():
    """In a run that is longer than the tolerance its ends do not change places."""
    expected = np.column_stack([[0.5, 0.49991, 0.49982], np.linspace(0.05, 0.95, 12).reshape(3, 4)])
    found = expected[[2, 1, 0]]
    found[:, 0] = expected[:, 0]
    rows = order_of(found, expected, np.ones(3))
    assert rows == [2, 1, 0]
    assert np.abs(found[rows] - expected).max() > TOLERANCE


def test_equal_boxes_are_told_apart_by_their_scores():
    """Boxes of objects larger than the image are all cut to the same box."""
    expected = np.column_stack([[0.5, 0.49995], np.zeros((2, 4))])
    found = expected + [[0, 0, 0, 0, 1e-7], [0, 0, 0, 0, 0]]
    assert order_of(found, expected, np.ones(2)) == [0, 1]
