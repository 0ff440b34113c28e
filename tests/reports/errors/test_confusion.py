import numpy as np
from detection_scenes import make_scene
from pixel_scenes import matches_of

from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.reports.errors.curves import best_threshold, class_curves
from refinedet_tf.reports.errors.matched_detections import confusion_matrix, match_detections

BOX = [0, 0, 40, 40]
NEAR = [0, 0, 40, 36]
AWAY = [60, 100, 90, 150]
LOW = np.zeros(2)


def matrix_of(objects, rows, thresholds=LOW, rule="always"):
    return confusion_matrix(matches_of(objects, rows, rule), np.array(thresholds)).tolist()


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


def test_thresholds_of_the_classes():
    objects = [(0, 1, BOX)]
    rows = [(0, 1, 0.5, BOX), (0, 2, 0.9, NEAR)]
    assert matrix_of(objects, rows, [0.5, np.nan]) == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert matrix_of(objects, rows, [0.51, 0.89]) == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert matrix_of(objects, rows, [0.51, 0.91]) == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_difficult_objects_are_left_out():
    objects = [(0, 1, BOX, True)]
    assert matrix_of(objects, [(0, 1, 0.9, NEAR)]) == [[0] * 3] * 3
    assert matrix_of(objects, [(0, 2, 0.9, NEAR)]) == [[0, 0, 1], [0] * 3, [0] * 3]


def test_diagonal_agrees_with_precision_and_recall():
    detections, dataset = make_scene()
    matches = match_detections(detections, GroundTruth.from_dataset(dataset), "once")
    best = [best_threshold(curve) for curve in class_curves(matches, 3)]
    matrix = confusion_matrix(matches, np.array([item.score for item in best]))
    found = np.diag(matrix)[1:]
    np.testing.assert_allclose(found / matrix[1:].sum(axis=1), [item.recall for item in best])
    np.testing.assert_allclose(found / matrix[:, 1:].sum(axis=0), [item.precision for item in best])
