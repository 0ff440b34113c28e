import math

import numpy as np
import pytest
from pixel_scenes import matches_of

from refinedet_tf.reports.errors.curves import (
    best_threshold,
    class_curves,
    interpolated_ap,
    precision_recall_curve,
)

BOX = [0, 0, 40, 40]


def curve_of(scores, right, num_objects):
    return precision_recall_curve(np.array(scores, np.float32), np.array(right, bool), num_objects)


def test_precision_and_recall_at_each_score():
    curve = curve_of([0.2, 0.9, 0.5], [True, True, False], 4)
    np.testing.assert_allclose(curve.scores, [0.9, 0.5, 0.2], rtol=1e-6)
    np.testing.assert_allclose(curve.recall, [0.25, 0.25, 0.5])
    np.testing.assert_allclose(curve.precision, [1.0, 0.5, 2 / 3])


def test_ap_reads_the_best_precision_at_101_recalls():
    # Recall 0 to 0.25 has precision 1 (26 of 101 levels), from there to 0.5 it is 2/3 (25 levels).
    assert interpolated_ap(curve_of([0.2, 0.9, 0.5], [True, True, False], 4)) == pytest.approx(
        (26 + 25 * 2 / 3) / 101
    )
    assert interpolated_ap(curve_of([], [], 4)) == 0.0
    assert math.isnan(interpolated_ap(curve_of([0.5], [False], 0)))


def test_best_threshold_is_that_of_the_largest_f1():
    # F1 at the scores: 2/3, 1/2, 4/5, 2/3.
    best = best_threshold(curve_of([0.9, 0.8, 0.7, 0.6], [True, False, True, False], 2))
    assert best.score == pytest.approx(0.7)
    assert best.precision == pytest.approx(2 / 3)
    assert best.recall == pytest.approx(1.0)
    assert best.f1 == pytest.approx(0.8)


def test_threshold_keeps_all_detections_of_one_score_or_none():
    # If the two of 0.5 could be parted, the first of them would give F1 1.
    best = best_threshold(curve_of([0.5, 0.5], [True, False], 1))
    assert (best.score, best.precision, best.recall) == (0.5, 0.5, 1.0)


def test_highest_of_equally_good_thresholds():
    best = best_threshold(curve_of([0.9, 0.8, 0.7, 0.6], [True, False, False, True], 2))
    assert best.score == pytest.approx(0.9)
    assert best.f1 == pytest.approx(2 / 3)


@pytest.mark.parametrize(("scores", "right", "num_objects"), [([], [], 2), ([0.5], [0], 2), ([0.5], [0], 0)])
def test_no_threshold_without_a_right_detection(scores, right, num_objects):
    assert best_threshold(curve_of(scores, right, num_objects)) is None


def test_curves_of_classes_leave_ignored_detections_and_difficult_objects_out():
    objects = [(0, 1, BOX, True), (0, 2, BOX), (1, 2, BOX)]
    rows = [(0, 1, 0.9, BOX), (1, 1, 0.8, BOX), (0, 2, 0.7, BOX)]
    first, second, third = class_curves(matches_of(objects, rows), 3)
    assert first.num_objects == 0
    np.testing.assert_allclose(first.scores, [0.8], rtol=1e-6)
    assert second.num_objects == 2
    np.testing.assert_allclose(second.recall, [0.5])
    assert third.num_objects == 0
    assert third.scores.shape == (0,)
