"""TIDE's error kinds on scenes with known answers.

An object of class 1 that is found in image 1 keeps AP 0.5 where the other object, in image 0, has the error;
recall 0 to 0.5 are 51 of COCO's 101 levels.
"""

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
AWAY = [60, 100, 90, 150]
OBJECT, FOUND_OBJECT, FOUND = (0, 1, BOX), (1, 1, BOX), (1, 1, 0.9, BOX)
HALF_AP = 51 / 101

SCENES = {
    # The error alone hides the object: it is not missed. Fixed, both objects are found: AP 1.
    "classification": (
        [OBJECT, FOUND_OBJECT],
        [(0, 2, 0.95, NEAR), FOUND],
        {"classification": 1},
        HALF_AP,
        {"classification": 1 - HALF_AP},
    ),
    # The wrong box of class 1 stands before the right one: precision 1/2.
    "localisation": (
        [OBJECT, FOUND_OBJECT],
        [(0, 1, 0.95, THIRD), FOUND],
        {"localisation": 1},
        HALF_AP / 2,
        {"localisation": 1 - HALF_AP / 2},
    ),
    # One of two or three detections of class 1 is wrong: precision 2/3 after recall 0.5, or 1/2 from 0 on.
    "both": (
        [(0, 2, BOX), FOUND_OBJECT],
        [(0, 2, 0.5, BOX), (0, 1, 0.95, THIRD), FOUND],
        {"both": 1},
        (1 + 0.5) / 2,
        {"both": 0.25},
    ),
    "duplicate": (
        [OBJECT, FOUND_OBJECT],
        [(0, 1, 0.95, BOX), (0, 1, 0.93, NEAR), FOUND],
        {"duplicate": 1},
        (51 + 50 * 2 / 3) / 101,
        {"duplicate": 50 / 3 / 101},
    ),
    "background": (
        [OBJECT, FOUND_OBJECT],
        [(0, 1, 0.95, BOX), (0, 1, 0.93, AWAY), FOUND],
        {"background": 1},
        (51 + 50 * 2 / 3) / 101,
        {"background": 50 / 3 / 101},
    ),
    # A missed object is no longer to be found.
    "missed": ([OBJECT, FOUND_OBJECT], [FOUND], {"missed": 1}, HALF_AP, {"missed": 1 - HALF_AP}),
    # A class that is missed as a whole leaves the mean without false positives; with one, its AP stays 0.
    "missed class": ([(0, 2, BOX), FOUND_OBJECT], [FOUND], {"missed": 1}, 0.5, {"missed": 0.5}),
    "missed class with an error": (
        [(0, 2, BOX), FOUND_OBJECT],
        [FOUND, (1, 2, 0.3, AWAY)],
        {"background": 1, "missed": 1},
        0.5,
        {},
    ),
    "all missed": ([OBJECT], [], {"missed": 1}, 0.0, {"missed": 1.0}),
    # An error on an object that is found anyway disappears.
    "found object": (
        [OBJECT, (1, 2, BOX)],
        [(0, 1, 0.9, BOX), (0, 2, 0.8, BOX), (1, 2, 0.7, BOX)],
        {"classification": 1},
        0.75,
        {"classification": 0.25},
    ),
    # A class without objects has no part in the mean.
    "class without objects": ([FOUND_OBJECT], [FOUND, (0, 2, 0.99, AWAY)], {"background": 1}, 1.0, {}),
}


def kinds_of(objects, rows, rule="always"):
    """(kind by row of the matched detections, counts above 0, mAP, costs above 0)."""
    matches = matches_of(objects, rows, rule)
    errors = find_error_kinds(matches)
    mean_ap, costs = error_costs(matches, errors, 2)
    kinds = [KINDS[kind] if kind >= 0 else None for kind in errors.kinds.tolist()]
    counts = {name: count for name, count in errors.count().items() if count}
    return kinds, counts, mean_ap, {name: cost for name, cost in costs.items() if abs(cost) > 1e-12}


@pytest.mark.parametrize("scene", SCENES)
def test_counts_and_costs(scene):
    objects, rows, *expected = SCENES[scene]
    _, counts, mean_ap, costs = kinds_of(objects, rows)
    assert [counts, mean_ap, costs] == [expected[0], pytest.approx(expected[1]), pytest.approx(expected[2])]


@pytest.mark.parametrize(
    ("label", "width", "kind"),
    [
        # IoU 0.1 with an object of the class is localisation; with one of another class, background.
        (1, 4.001, "localisation"),
        (1, 3.999, "background"),
        (2, 3.999, "background"),
        (2, 4.001, "both"),
        (2, 20, "classification"),
    ],
)
def test_thresholds_between_the_kinds(label, width, kind):
    assert kinds_of([OBJECT], [(0, label, 0.9, [0, 0, 40, width])])[0] == [kind]
    # An IoU of exactly 0.5 with a found object is a duplicate.
    assert kinds_of([OBJECT], [(0, 1, 0.9, BOX), (0, 1, 0.8, [0, 0, 40, 20])])[0] == [None, "duplicate"]


def test_one_of_several_errors_on_an_object_is_fixed():
    """The better of two errors finds the object, and fixing the other kind makes its error disappear."""
    matches = matches_of([OBJECT, FOUND_OBJECT], [(0, 2, 0.8, BOX), (0, 1, 0.7, THIRD), FOUND])
    errors = find_error_kinds(matches)
    assert errors.targets.tolist() == [0, -1, -1]
    assert not errors.missed.any()
    mean_ap, costs = error_costs(matches, errors, 2)
    assert mean_ap == pytest.approx(HALF_AP)
    assert costs["classification"] == pytest.approx((51 + 50 * 1.0) / 101 - HALF_AP)
    assert costs["localisation"] == pytest.approx(0)
    # Of equal scores, it is the first.
    errors = find_error_kinds(matches_of([OBJECT], [(0, 2, 0.8, BOX), (0, 3, 0.8, BOX)]))
    assert errors.targets.tolist() == [0, -1]


@pytest.mark.parametrize("rule", ["always", "once", "crowd"])
def test_difficult_objects_and_detections_on_them_are_no_errors(rule):
    objects = [(0, 1, BOX, True), FOUND_OBJECT]
    assert kinds_of(objects, [FOUND], rule)[1:] == ({}, 1.0, {})
    assert kinds_of(objects, [(0, 1, 0.95, NEAR), FOUND], rule)[1:] == ({}, 1.0, {})
    # A difficult object is nothing that an error could have meant.
    kinds, counts, *_ = kinds_of(objects, [(0, 2, 0.95, BOX), (0, 1, 0.9, THIRD), FOUND])
    assert kinds == ["background", "background", None]
    assert counts == {"background": 2}


def test_no_objects_at_all():
    matches = matches_of([], [(0, 1, 0.9, BOX)])
    errors = find_error_kinds(matches)
    assert errors.count()["background"] == 1
    mean_ap, costs = error_costs(matches, errors, 2)
    assert np.isnan([mean_ap, *costs.values()]).all()


def test_every_false_positive_has_one_kind_and_no_fix_lowers_ap():
    detections, dataset = make_scene()
    matches = match_detections(detections, GroundTruth.from_dataset(dataset), "once")
    errors = find_error_kinds(matches)
    np.testing.assert_array_equal(errors.kinds >= 0, matches.false_positive)
    mean_ap, costs = error_costs(matches, errors, 3)
    assert 0 < mean_ap < 1
    assert min(costs.values()) >= 0
    assert max(costs.values()) > 0.01
