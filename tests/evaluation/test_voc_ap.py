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
    voc_pixels,
)
from refinedet_tf.inference.detections import DatasetDetections

GOLDEN = GOLDEN_FOLDER / "voc_eval"
"""Annotations, detections, AP and curves of the authors' evaluation program."""


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


def one_class(boxes, scores, objects, difficult=None, images=None, object_images=None, metric="voc"):
    """`class_average_precision` on pixel boxes `[ymin, xmin, ymax, xmax]`, all in image 0 if not said."""
    boxes, objects = np.array(boxes, float).reshape(-1, 4), np.array(objects, float).reshape(-1, 4)
    return class_average_precision(
        np.zeros(len(boxes), int) if images is None else np.array(images),
        np.array(scores, float),
        boxes,
        np.zeros(len(objects), int) if object_images is None else np.array(object_images),
        objects,
        np.zeros(len(objects), bool) if difficult is None else np.array(difficult),
        metric,
    )


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


def test_only_difficult_objects_are_nothing_to_find():
    result = one_class([[1, 1, 10, 10]], [0.9], [[1, 1, 10, 10]], difficult=[True])
    assert np.isnan(result.ap)
    assert result.num_objects == 0


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


def test_iou_of_exactly_one_half_is_no_match():
    objects = [[1, 1, 10, 10]]
    assert one_class([[1, 1, 10, 5]], [1], objects).ap == 0.0  # 50 / 100 with inclusive pixels
    assert one_class([[1, 1, 10, 6]], [1], objects).ap == 1.0


def test_second_detection_on_an_object_is_wrong_even_if_it_would_fit_a_free_one():
    objects = [[1, 1, 10, 10], [1, 3, 10, 12]]
    # Both lie nearer to the first object, and both overlap the second by more than half.
    result = one_class([[1, 1, 10, 10], [1, 1, 10, 11]], [0.9, 0.8], objects)
    np.testing.assert_array_equal(result.recall, [0.5, 0.5])
    np.testing.assert_array_equal(result.precision, [1.0, 0.5])


def test_difficult_objects_swallow_any_number_of_detections():
    objects, difficult = [[1, 1, 10, 10], [1, 50, 10, 59]], [True, False]
    boxes = [[1, 1, 10, 10], [1, 1, 10, 9], [1, 50, 10, 59], [80, 80, 90, 90]]
    result = one_class(boxes, [0.9, 0.8, 0.7, 0.6], objects, difficult)
    np.testing.assert_array_equal(result.precision, [0, 0, 1, 0.5])
    np.testing.assert_array_equal(result.recall, [0, 0, 1, 1])
    assert result.ap == 1.0


def test_detections_match_objects_of_their_own_image_only():
    box = [1, 1, 10, 10]
    assert one_class([box], [1], [box], images=[3], object_images=[2]).ap == 0.0
    assert one_class([box], [1], [box], images=[2], object_images=[2]).ap == 1.0


def test_equal_scores_keep_the_order_of_the_rows():
    box, elsewhere = [1, 1, 10, 10], [50, 50, 60, 60]
    assert one_class([box, elsewhere], [0.5, 0.5], [box]).ap == 1.0
    assert one_class([elsewhere, box], [0.5, 0.5], [box]).ap == 0.5


def test_the_two_summaries_of_a_curve():
    recall = np.array([0.25, 0.25, 0.5, 0.5, 0.75])
    precision = np.array([1.0, 0.5, 2 / 3, 0.5, 0.6])
    # The best precision at or above recall 0..0.2, 0.3..0.5, 0.6..0.7, then none.
    assert eleven_point_ap(recall, precision) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 0.6) / 11)
    assert area_ap(recall, precision) == pytest.approx(0.25 * (1 + 2 / 3 + 0.6))


def test_a_recall_of_exactly_six_tenths_misses_its_level_as_in_the_authors_program():
    assert eleven_point_ap(np.array([3 / 5]), np.array([1.0])) == pytest.approx(6 / 11)


def test_normalised_boxes_become_pixels_from_1_with_both_ends():
    # The pixels 1..500 of a whole image, and the pixel (3, 2) alone.
    boxes = [[0, 0, 1, 1], [2 / 375, 1 / 500, 3 / 375, 2 / 500]]
    expected = [[1, 1, 375, 500], [3, 2, 3, 2]]
    np.testing.assert_allclose(voc_pixels(boxes, [[375, 500], [375, 500]]), expected, rtol=1e-12)


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
    good = DatasetDetections(np.array([0]), np.array([1]), np.array([0.5]), box)
    with pytest.raises(InputError, match="metric must be .* got 'voc2007'"):
        average_precisions(good, truth, ["cat"], "voc2007")
    with pytest.raises(InputError, match=r"detection 0 has the label 2; it must lie in 1\.\.1"):
        average_precisions(
            DatasetDetections(np.array([0]), np.array([2]), np.array([0.5]), box), truth, ["cat"], "voc"
        )
    with pytest.raises(InputError, match=r"detection 0 has the image 1; it must lie in 0\.\.0"):
        average_precisions(
            DatasetDetections(np.array([1]), np.array([1]), np.array([0.5]), box), truth, ["cat"], "voc"
        )
    with pytest.raises(InputError, match=r"detection 0 \(image 0\) has the score \[nan\]"):
        DatasetDetections(np.array([0]), np.array([1]), np.array([np.nan]), box)
    with pytest.raises(InputError, match="one length"):
        DatasetDetections(np.array([0]), np.array([1, 1]), np.array([0.5]), box)
