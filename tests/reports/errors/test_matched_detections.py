"""Which detection counts for which object, and which class is taken for which."""

import numpy as np
import pytest
from detection_scenes import make_scene
from pixel_scenes import detections_of, ground_truth_of, matches_of

from refinedet_tf.evaluation.coco_ap import evaluate_coco
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.reports.errors.curves import best_threshold, class_curves, interpolated_ap
from refinedet_tf.reports.errors.matched_detections import (
    confusion_matrix,
    match_detections,
    overlaps_by_image,
)

BOX = [0, 0, 40, 40]
HALF = [0, 0, 40, 20]  # IoU with BOX: exactly 0.5
NEAR = [0, 0, 40, 36]  # IoU with BOX: 0.9
AWAY = [60, 100, 90, 150]


def test_best_score_takes_the_object_and_the_next_one_finds_none():
    matches = matches_of([(0, 1, BOX)], [(0, 1, 0.3, BOX), (0, 1, 0.9, NEAR), (0, 2, 0.8, BOX)])
    np.testing.assert_allclose(matches.detections.scores, [0.9, 0.8, 0.3], rtol=1e-6)
    assert matches.objects.tolist() == [0, -1, -1]
    assert matches.true_positive.tolist() == [True, False, False]
    assert matches.false_positive.tolist() == [False, True, True]
    assert matches.matched_objects.tolist() == [True]


def test_iou_of_one_half_is_enough():
    assert matches_of([(0, 1, BOX)], [(0, 1, 0.9, HALF)]).objects.tolist() == [0]
    assert matches_of([(0, 1, BOX)], [(0, 1, 0.9, [0, 0, 40, 19])]).objects.tolist() == [-1]


def test_taken_object_leaves_the_second_nearest():
    objects = [(0, 1, BOX), (0, 1, [0, 6, 40, 46])]
    matches = matches_of(objects, [(0, 1, 0.9, BOX), (0, 1, 0.8, BOX)])
    assert matches.objects.tolist() == [0, 1]


def test_images_are_apart_and_equal_scores_keep_their_order():
    objects = [(1, 1, BOX), (0, 1, BOX)]
    matches = matches_of(objects, [(1, 1, 0.5, NEAR), (1, 1, 0.5, BOX), (0, 1, 0.2, BOX)])
    assert matches.detections.images.tolist() == [0, 1, 1]
    assert matches.objects.tolist() == [1, 0, -1]
    np.testing.assert_allclose(matches.detections.boxes[1], [0, 0, 0.4, 0.18])


@pytest.mark.parametrize(
    ("rule", "ignored"),
    [
        ("always", [True, True, False]),  # VOC: any number by IoU.
        ("once", [True, False, False]),  # COCO's metric on VOC's objects: one by IoU.
        ("crowd", [True, True, True]),  # COCO: half of the detection's area inside.
    ],
)
def test_detections_on_difficult_objects(rule, ignored):
    inside = [0, 0, 10, 10]  # IoU with BOX: 1/16, but all of it lies inside.
    rows = [(0, 1, 0.9, BOX), (0, 1, 0.8, NEAR), (0, 1, 0.7, inside)]
    matches = matches_of([(0, 1, BOX, True)], rows, rule)
    assert matches.ignored.tolist() == ignored
    assert not matches.true_positive.any()
    assert matches.false_positive.tolist() == [not value for value in ignored]


def test_regular_object_comes_before_a_difficult_one():
    matches = matches_of([(0, 1, BOX, True), (0, 1, HALF)], [(0, 1, 0.9, BOX)])
    assert matches.objects.tolist() == [1]
    assert not matches.ignored.any()


def test_hundred_best_detections_of_each_image_and_class_count():
    rows = [(image, label, 0.5 + 0.001 * n, BOX) for n in range(120) for image in (0, 1) for label in (1, 2)]
    detections = match_detections(detections_of(*rows), ground_truth_of((0, 1, BOX)), "always").detections
    for image in (0, 1):
        for label in (1, 2):
            scores = detections.scores[(detections.images == image) & (detections.labels == label)]
            np.testing.assert_allclose(scores, 0.5 + 0.001 * np.arange(119, 19, -1), rtol=1e-6)


def test_overlaps_of_images_with_detections():
    detections = detections_of((0, 1, 0.9, HALF), (1, 1, 0.8, BOX))
    (first, second) = overlaps_by_image(detections, ground_truth_of((0, 1, BOX), (0, 2, NEAR)))
    assert first[0].tolist() == [0]
    assert first[1].tolist() == [0, 1]
    np.testing.assert_allclose(first[2], [[0.5, 20 / 36]])
    assert second[0].tolist() == [1]
    assert second[2].shape == (1, 0)


def test_ap_of_the_matching_is_that_of_pycocotools():
    """The scene has difficult objects and, in random order, three detections of each object."""
    detections, dataset = make_scene()
    matches = match_detections(detections, GroundTruth.from_dataset(dataset), "once")
    aps = [interpolated_ap(curve) for curve in class_curves(matches, 3)]
    summary, *_ = evaluate_coco(detections, dataset)
    assert 0.2 < summary["AP50"] < 0.99
    assert np.mean(aps) == pytest.approx(summary["AP50"], abs=1e-12)


def test_nothing_detected():
    matches = matches_of([(0, 1, BOX)], [])
    assert matches.objects.shape == (0,)
    assert matches.matched_objects.tolist() == [False]


def matrix_of(objects, rows, thresholds=(0, 0)):
    return confusion_matrix(matches_of(objects, rows), np.array(thresholds)).tolist()


def test_right_class_other_class_background_and_missed():
    objects = [(0, 1, BOX), (1, 2, BOX), (1, 1, AWAY)]
    rows = [(0, 1, 0.9, BOX), (1, 1, 0.8, NEAR), (0, 2, 0.7, AWAY)]
    # Rows: truth; columns: detection; index 0 is the background.
    assert matrix_of(objects, rows) == [[0, 0, 1], [1, 1, 0], [0, 1, 0]]


def test_right_class_comes_before_a_better_box_of_another_class():
    objects = [(0, 1, BOX)]
    assert matrix_of(objects, [(0, 1, 0.3, NEAR), (0, 2, 0.9, BOX)]) == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_best_iou_first_among_other_classes():
    objects = [(0, 1, BOX), (0, 1, [0, 5, 40, 45])]
    rows = [(0, 2, 0.9, [0, 5, 40, 45]), (0, 2, 0.8, BOX)]
    assert matrix_of(objects, rows) == [[0, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert matrix_of(objects[:1], rows) == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    # The better box takes the object, and the one of the higher score finds nothing.
    rows = [(0, 2, 0.9, NEAR), (0, 3, 0.8, BOX)]
    assert matrix_of(objects[:1], rows, (0, 0, 0)) == [[0, 0, 1, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]


def test_thresholds_of_the_classes():
    objects = [(0, 1, BOX)]
    rows = [(0, 1, 0.5, BOX), (0, 2, 0.9, NEAR)]
    assert matrix_of(objects, rows, [0.5, np.nan]) == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert matrix_of(objects, rows, [0.51, 0.89]) == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert matrix_of(objects, rows, [0.51, 0.91]) == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_difficult_objects_are_no_confusion():
    objects = [(0, 1, BOX, True)]
    assert matrix_of(objects, [(0, 1, 0.9, NEAR)]) == [[0] * 3] * 3
    assert matrix_of(objects, [(0, 2, 0.9, NEAR)]) == [[0, 0, 1], [0] * 3, [0] * 3]


def test_diagonal_of_the_confusion_agrees_with_precision_and_recall():
    detections, dataset = make_scene()
    matches = match_detections(detections, GroundTruth.from_dataset(dataset), "once")
    best = [best_threshold(curve) for curve in class_curves(matches, 3)]
    matrix = confusion_matrix(matches, np.array([item.score for item in best]))
    found = np.diag(matrix)[1:]
    np.testing.assert_allclose(found / matrix[1:].sum(axis=1), [item.recall for item in best])
    np.testing.assert_allclose(found / matrix[:, 1:].sum(axis=0), [item.precision for item in best])
