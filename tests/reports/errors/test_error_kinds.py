"""TIDE's error kinds on scenes with known answers.

An object of class 1 that is found in image 1 keeps AP 0.5 where the other object, in image 0, has the error;
recall 0 to 0.5 are 51 of COCO's 101 levels.
"""

import math

import numpy as np
import pytest
from detection_scenes import make_scene
from pixel_scenes import matches_of

from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.reports.errors.error_kinds import KINDS, error_costs, find_error_kinds
from refinedet_tf.reports.errors.matched_detections import match_detections

BOX = [0, 0, 40, 40]
NEAR = [0, 0, 40, 36]  # IoU with BOX: 0.9
THIRD = [0, 0, 40, 12]  # IoU with BOX: 0.3
TENTH = [0, 0, 40, 4]  # IoU with BOX: 0.1
AWAY = [60, 100, 90, 150]
FOUND = (1, 1, BOX), (1, 1, 0.9, BOX)
HALF_AP = 51 / 101


def kinds_of(objects, rows, num_classes=2, rule="always"):
    """(kind by row of the matched detections, counts above 0, mAP, costs above 0)."""
    matches = matches_of(objects, rows, rule)
    errors = find_error_kinds(matches)
    mean_ap, costs = error_costs(matches, errors, num_classes)
    kinds = [KINDS[kind] if kind >= 0 else None for kind in errors.kinds.tolist()]
    counts = {name: count for name, count in errors.count().items() if count}
    return kinds, counts, mean_ap, {name: cost for name, cost in costs.items() if abs(cost) > 1e-12}


@pytest.mark.parametrize(
    ("kind", "row"),
    [("classification", (0, 2, 0.95, NEAR)), ("localisation", (0, 1, 0.95, THIRD))],
)
def test_mended_error_becomes_right(kind, row):
    """The error alone hides the object: it is not missed. Fixed, both objects are found: AP 1."""
    kinds, counts, mean_ap, costs = kinds_of([(0, 1, BOX), FOUND[0]], [row, FOUND[1]])
    assert kinds == [kind, None]
    assert counts == {kind: 1}
    # The wrong box of class 1 stands before the right one: precision 1/2.
    assert mean_ap == pytest.approx(HALF_AP * (0.5 if kind == "localisation" else 1))
    assert costs == {kind: pytest.approx(1 - mean_ap)}


@pytest.mark.parametrize(
    ("kind", "object_", "row", "others"),
    [
        ("both", (0, 2, BOX), (0, 1, 0.95, THIRD), [(0, 2, 0.5, BOX)]),
        ("duplicate", (0, 1, BOX), (0, 1, 0.93, NEAR), [(0, 1, 0.95, BOX)]),
        ("background", (0, 1, BOX), (0, 1, 0.93, AWAY), [(0, 1, 0.95, BOX)]),
    ],
)
def test_mended_error_disappears(kind, object_, row, others):
    kinds, counts, mean_ap, costs = kinds_of([object_, FOUND[0]], [*others, row, FOUND[1]])
    assert kinds.count(kind) == 1
    assert counts == {kind: 1}
    assert mean_ap < 1
    assert costs == {kind: pytest.approx(1 - mean_ap)}


def test_costs_of_a_duplicate_by_hand():
    # Two of three detections of class 1 are right: precision 1 up to recall 0.5, 2/3 after it.
    _, _, mean_ap, costs = kinds_of(
        [(0, 1, BOX), FOUND[0]], [(0, 1, 0.95, BOX), (0, 1, 0.93, NEAR), FOUND[1]], num_classes=1
    )
    assert mean_ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert costs == {"duplicate": pytest.approx(50 / 3 / 101)}


def test_missed_object_is_no_longer_to_be_found():
    kinds, counts, mean_ap, costs = kinds_of([(0, 1, BOX), FOUND[0]], [FOUND[1]])
    assert kinds == [None]
    assert counts == {"missed": 1}
    assert mean_ap == pytest.approx(HALF_AP)
    assert costs == {"missed": pytest.approx(1 - HALF_AP)}


def test_class_that_is_missed_as_a_whole():
    """Without false positives it leaves the mean; with one, its AP stays 0."""
    objects = [(0, 2, BOX), FOUND[0]]
    assert kinds_of(objects, [FOUND[1]])[2:] == (0.5, {"missed": 0.5})
    assert kinds_of(objects, [FOUND[1], (1, 2, 0.3, AWAY)])[2:] == (0.5, {})
    assert kinds_of([(0, 1, BOX)], [])[2:] == (0.0, {"missed": 1.0})


def test_thresholds_between_the_kinds():
    objects = [(0, 1, BOX)]
    # IoU 0.1 with an object of the class is localisation; with one of another class, background.
    assert kinds_of(objects, [(0, 1, 0.9, [0, 0, 40, 4.001])])[0] == ["localisation"]
    assert kinds_of(objects, [(0, 1, 0.9, [0, 0, 40, 3.999])])[0] == ["background"]
    assert kinds_of(objects, [(0, 2, 0.9, [0, 0, 40, 3.999])])[0] == ["background"]
    assert kinds_of(objects, [(0, 2, 0.9, [0, 0, 40, 4.001])])[0] == ["both"]
    assert kinds_of(objects, [(0, 2, 0.9, [0, 0, 40, 20])])[0] == ["classification"]
    # An IoU of exactly 0.5 with a found object is a duplicate.
    assert kinds_of(objects, [(0, 1, 0.9, BOX), (0, 1, 0.8, [0, 0, 40, 20])])[0] == [None, "duplicate"]


def test_one_of_several_errors_on_an_object_is_mended():
    """The better of two errors finds the object, and mending the other kind makes its error disappear."""
    objects = [(0, 1, BOX), FOUND[0]]
    rows = [(0, 2, 0.8, BOX), (0, 1, 0.7, THIRD), FOUND[1]]
    matches = matches_of(objects, rows)
    errors = find_error_kinds(matches)
    assert errors.targets.tolist() == [0, -1, -1]
    assert not errors.missed.any()
    mean_ap, costs = error_costs(matches, errors, 2)
    assert mean_ap == pytest.approx(HALF_AP)
    assert costs["classification"] == pytest.approx((51 + 50 * 1.0) / 101 - HALF_AP)
    assert costs["localisation"] == pytest.approx(0)


def test_of_equal_scores_the_first_is_mended():
    errors = find_error_kinds(matches_of([(0, 1, BOX)], [(0, 2, 0.8, BOX), (0, 3, 0.8, BOX)]))
    assert errors.targets.tolist() == [0, -1]


def test_error_on_a_found_object_disappears_when_mended():
    rows = [(0, 1, 0.9, BOX), (0, 2, 0.8, BOX), (1, 2, 0.7, BOX)]
    _, counts, mean_ap, costs = kinds_of([(0, 1, BOX), (1, 2, BOX)], rows)
    assert counts == {"classification": 1}
    assert mean_ap == pytest.approx(0.75)
    assert costs == {"classification": pytest.approx(0.25)}


@pytest.mark.parametrize("rule", ["always", "once", "crowd"])
def test_difficult_objects_and_detections_on_them_are_no_errors(rule):
    objects = [(0, 1, BOX, True), FOUND[0]]
    assert kinds_of(objects, [FOUND[1]], rule=rule)[1:] == ({}, 1.0, {})
    assert kinds_of(objects, [(0, 1, 0.95, NEAR), FOUND[1]], rule=rule)[1:] == ({}, 1.0, {})
    # A difficult object is nothing that an error could have meant.
    kinds, counts, _, _ = kinds_of(objects, [(0, 2, 0.95, BOX), (0, 1, 0.9, THIRD), FOUND[1]], rule="always")
    assert kinds == ["background", "background", None]
    assert counts == {"background": 2}


def test_classes_without_objects_have_no_part_in_the_mean():
    _, counts, mean_ap, costs = kinds_of([FOUND[0]], [FOUND[1], (0, 2, 0.99, AWAY)], num_classes=3)
    assert counts == {"background": 1}
    assert (mean_ap, costs) == (1.0, {})


def test_no_objects_at_all():
    matches = matches_of([], [(0, 1, 0.9, BOX)])
    errors = find_error_kinds(matches)
    mean_ap, costs = error_costs(matches, errors, 2)
    assert errors.count()["background"] == 1
    assert math.isnan(mean_ap)
    assert all(math.isnan(cost) for cost in costs.values())


def test_every_false_positive_has_one_kind_and_no_mending_lowers_ap():
    detections, dataset = make_scene()
    matches = match_detections(detections, GroundTruth.from_dataset(dataset), "once")
    errors = find_error_kinds(matches)
    np.testing.assert_array_equal(errors.kinds >= 0, matches.false_positive)
    mean_ap, costs = error_costs(matches, errors, 3)
    assert 0 < mean_ap < 1
    assert min(costs.values()) >= 0
    assert max(costs.values()) > 0.01
