import json
from xml.etree import ElementTree

import numpy as np
import pytest
from golden_arrays import GOLDEN_FOLDER

from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.results import mean_average_precision
from refinedet_tf.evaluation.voc_ap import (
    area_ap,
    average_precisions,
    class_average_precision,
    eleven_point_ap,
)
from refinedet_tf.inference.detections import DatasetDetections

GOLDEN = GOLDEN_FOLDER / "voc_eval"
"""Annotations, detections, AP and curves of the authors' evaluation program."""

BOX, FAR = [1, 1, 10, 10], [50, 50, 59, 59]


def golden_class(name):
    """Arguments of `class_average_precision` for one class of the golden data."""
    index = {image: i for i, image in enumerate((GOLDEN / "test.txt").read_text().split())}
    object_images, object_boxes, difficult = [], [], []
    for image, i in index.items():
        for item in ElementTree.parse(GOLDEN / "Annotations" / f"{image}.xml").getroot().iter("object"):
            if item.find("name").text == name:
                object_images.append(i)
                difficult.append(item.find("difficult").text == "1")
                object_boxes.append(
                    [float(item.find(f"bndbox/{k}").text) for k in ("ymin", "xmin", "ymax", "xmax")]
                )
    lines = [line.split() for line in (GOLDEN / "dets" / f"{name}.txt").read_text().splitlines()]
    numbers = np.array([line[1:] for line in lines], np.float64).reshape(-1, 5)
    return {
        "images": np.array([index[line[0]] for line in lines], np.int64),
        "scores": numbers[:, 0],
        "boxes": numbers[:, [2, 1, 4, 3]],
        "object_images": np.array(object_images, np.int64),
        "object_boxes": np.array(object_boxes).reshape(-1, 4),
        "difficult": np.array(difficult, bool),
    }


def simple_curve(images, scores, boxes, object_images, object_boxes, difficult):
    """Recall and precision by the definition, one detection after the other."""

    def iou(a, b):
        height = min(a[2], b[2]) - max(a[0], b[0]) + 1
        width = min(a[3], b[3]) - max(a[1], b[1]) + 1
        if height <= 0 or width <= 0:
            return 0.0
        areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
        return height * width / (sum(areas) - height * width)

    taken, true, false, recall, precision = set(), 0, 0, [], []
    for d in sorted(range(len(scores)), key=lambda d: -scores[d]):
        rivals = [m for m in range(len(object_images)) if object_images[m] == images[d]]
        best = max(rivals, key=lambda m: iou(boxes[d], object_boxes[m]), default=None)
        if best is None or iou(boxes[d], object_boxes[best]) <= 0.5:
            false += 1
        elif not difficult[best]:
            true, false = (true, false + 1) if best in taken else (true + 1, false)
            taken.add(best)
        recall.append(true / sum(~difficult))
        precision.append(true / max(true + false, 1))
    return recall, precision


@pytest.mark.parametrize("metric,key,curve", [("voc07", "True", "voc07"), ("voc", "False", "area")])
@pytest.mark.parametrize("name", ["cat", "dog", "car"])
def test_ap_and_curves_are_those_of_the_authors_program(name, metric, key, curve, compare):
    result = class_average_precision(**golden_class(name), metric=metric)
    expected = json.loads((GOLDEN / "expected.json").read_text())[f"use_07_metric={key}"][name]
    on = f"`{metric}`, 3 classes on 16 images, difficult objects"
    compare("AP", on, result.ap, expected, 1e-12, relative_to="each")
    with np.load(GOLDEN / "curves.npz") as curves:
        compare.same("recall and precision", on, result.recall, curves[f"{name}/{curve}/rec"])
        compare.same("recall and precision", on, result.precision, curves[f"{name}/{curve}/prec"])


@pytest.mark.parametrize("metric", ["voc07", "voc"])
def test_class_without_objects_has_no_ap_and_one_without_detections_has_0(metric):
    no_objects = class_average_precision(**golden_class("cow"), metric=metric)
    assert np.isnan(no_objects.ap)
    assert (no_objects.num_objects, no_objects.num_detections) == (0, 14)
    np.testing.assert_array_equal(no_objects.precision, np.zeros(14))
    no_detections = class_average_precision(**golden_class("bird"), metric=metric)
    assert no_detections.ap == 0.0
    assert (no_detections.num_objects, no_detections.num_detections) == (8, 0)
    assert mean_average_precision({"cow": no_objects, "bird": no_detections}) == 0.0
    assert np.isnan(mean_average_precision({"cow": no_objects}))


@pytest.mark.parametrize("seed", range(4))
def test_curve_equals_the_plain_definition_on_crowded_random_images(seed):
    random = np.random.default_rng(seed)

    def boxes(count):
        corner = random.integers(1, 25, (count, 2))
        return np.concatenate([corner, corner + random.integers(4, 20, (count, 2))], axis=1).astype(float)

    case = {
        "images": random.integers(0, 9, 300),
        "scores": random.integers(0, 60, 300) / 60,  # many ties
        "boxes": boxes(300),
        "object_images": random.integers(2, 12, 70),
        "object_boxes": boxes(70),
        "difficult": random.random(70) < 0.25,
    }
    result = class_average_precision(**case, metric="voc")
    recall, precision = simple_curve(**case)
    assert recall[-1] > 0.1
    np.testing.assert_array_equal(result.recall, recall)
    np.testing.assert_array_equal(result.precision, precision)
    assert (np.diff(result.scores) <= 0).all()


@pytest.mark.parametrize(
    ("found", "objects", "recall", "precision"),
    [
        # The IoU of 50 / 100, with inclusive pixels, is no match.
        ([[1, 1, 10, 5]], [BOX], [0], [0]),
        ([[1, 1, 10, 6]], [BOX], [1], [1]),
        # Both lie nearer to the first object, and both overlap the second by more than half.
        ([BOX, [1, 1, 10, 11]], [BOX, [1, 3, 10, 12]], [0.5, 0.5], [1, 0.5]),
        ([BOX, [1, 1, 10, 9], FAR, [80, 80, 90, 90]], [(BOX, True), FAR], [0, 0, 1, 1], [0, 0, 1, 0.5]),
        ([BOX], [(BOX, True)], [np.nan], [0]),
        # The scores are equal.
        ([FAR, BOX], [BOX], [0, 1], [0, 0.5]),
        ([BOX, FAR], [BOX], [1, 1], [1, 0.5]),
    ],
    ids=[
        "IoU 0.5",
        "IoU 0.6",
        "second detection",
        "difficult",
        "only difficult",
        "wrong first",
        "right first",
    ],
)
def test_matches_by_hand(found, objects, recall, precision):
    objects = [entry if isinstance(entry, tuple) else (entry, False) for entry in objects]
    result = class_average_precision(
        np.zeros(len(found), int),
        np.full(len(found), 0.5),
        np.array(found, float),
        np.zeros(len(objects), int),
        np.array([box for box, _ in objects], float),
        np.array([difficult for _, difficult in objects]),
        "voc",
    )
    np.testing.assert_array_equal(result.recall, recall)
    np.testing.assert_array_equal(result.precision, precision)
    assert result.num_objects == sum(not difficult for _, difficult in objects)
    assert np.isnan(result.ap) == (result.num_objects == 0)


def test_the_two_summaries_of_a_curve():
    recall = np.array([0.25, 0.25, 0.5, 0.5, 0.75])
    precision = np.array([1.0, 0.5, 2 / 3, 0.5, 0.6])
    # The best precision at or above recall 0..0.2, 0.3..0.5, 0.6..0.7, then none.
    assert eleven_point_ap(recall, precision) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 0.6) / 11)
    assert area_ap(recall, precision) == pytest.approx(0.25 * (1 + 2 / 3 + 0.6))
    # A recall of exactly 0.6 misses its level, as in the authors' program.
    assert eleven_point_ap(np.array([3 / 5]), np.array([1.0])) == pytest.approx(6 / 11)


def test_average_precisions_splits_classes_and_converts_boxes():
    names, sizes = ("cat", "dog", "car", "bird", "cow"), np.full((16, 2), [480, 640], np.int32)
    cases = [golden_class(name) for name in names]

    def normalised(boxes):
        return ((boxes - [1, 1, 0, 0]) / [480, 640, 480, 640]).astype(np.float32)

    def column(key):
        return np.concatenate([case[key] for case in cases])

    def labels(key):
        return np.repeat(np.arange(1, 6), [len(case[key]) for case in cases])

    shuffled = np.random.default_rng(0).permutation(len(column("images")))
    detections = DatasetDetections(
        column("images")[shuffled],
        labels("images")[shuffled],
        column("scores")[shuffled],
        normalised(column("boxes"))[shuffled],
    )
    truth = GroundTruth(
        column("object_images"),
        labels("object_images"),
        normalised(column("object_boxes")),
        column("difficult"),
        sizes,
    )
    results = average_precisions(detections, truth, names, "voc07")
    assert list(results) == list(names)
    expected = [1 / 3, 0.43636363636363634, 0.5810335497835498, 0.0, np.nan]
    np.testing.assert_allclose([result.ap for result in results.values()], expected, rtol=1e-9)
    assert mean_average_precision(results) == pytest.approx(sum(expected[:4]) / 4)


def test_wrong_input_is_named():
    box = np.array([[0.1, 0.1, 0.5, 0.5]], np.float32)
    truth = GroundTruth(np.array([0]), np.array([1]), box, np.array([False]), np.array([[10, 10]]))
    for image, label, metric, message in (
        (0, 1, "voc2007", "metric must be .* got 'voc2007'"),
        (0, 2, "voc", r"detection 0 has the label 2; it must lie in 1\.\.1"),
        (1, 1, "voc", r"detection 0 has the image 1; it must lie in 0\.\.0"),
    ):
        detections = DatasetDetections(np.array([image]), np.array([label]), np.array([0.5]), box)
        with pytest.raises(InputError, match=message):
            average_precisions(detections, truth, ["cat"], metric)
