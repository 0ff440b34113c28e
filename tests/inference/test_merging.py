from functools import partial

import numpy as np
import pytest
from golden_arrays import GOLDEN_FOLDER

from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.inference.merging import METHODS, box_voting, merge_detections, soft_box_voting, soft_nms

GOLDEN = np.load(GOLDEN_FOLDER / "merging.npz")
"""Detections `[xmin, ymin, xmax, ymax, score]` and what the authors' program makes of them."""

SIZES = (0, 1, 2, 40, 300)
MERGES = [box_voting, soft_box_voting, *(partial(soft_nms, method=method) for method in METHODS)]


def golden(name):
    """Boxes `[ymin, xmin, ymax, xmax]` and scores of a golden array."""
    rows = GOLDEN[name]
    return rows[:, [1, 0, 3, 2]], rows[:, 4]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "merge"), [("bbox_vote", box_voting), ("soft_bbox_vote", soft_box_voting)])
def test_voting_is_the_authors(size, name, merge, compare):
    boxes, scores = merge(*golden(f"n{size}/dets"))
    expected_boxes, expected_scores = golden(f"n{size}/{name}")
    assert len(boxes) == len(expected_boxes)
    if size:
        what, on = name.replace("_", " "), "1 to 300 detections of one class"
        compare.same(f"{what}, scores in order", on, scores, expected_scores)
        compare.same(f"{what}, boxes in order", on, boxes, expected_boxes)
    assert boxes.dtype == scores.dtype == expected_boxes.dtype == (np.float32 if size < 2 else np.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("official", {}),
        ("official", {"iou": 0.30, "score_threshold": 0.01, "method": "linear", "sigma": 0.5}),
        ("default", {"score_threshold": 0.001}),
        ("gaussian", {"method": "gaussian"}),
        ("hard", {"method": "hard"}),
    ],
)
def test_soft_nms_is_the_authors(size, name, options, compare):
    boxes, scores = soft_nms(*golden(f"n{size}/dets"), **options)
    expected_boxes, expected_scores = golden(f"n{size}/soft_nms_{name}")
    assert len(boxes) == len(expected_boxes)
    if size:
        on = "1 to 300 detections of one class, linear, gaussian and hard"
        compare.same("soft-NMS, boxes in order", on, boxes, expected_boxes)
        compare("soft-NMS, scores", on, scores, expected_scores, 2e-6, relative_to="each")
    assert boxes.dtype == scores.dtype == np.float32


def simple_iou(a, b):
    height = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    width = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area_a, area_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return height * width / (area_a + area_b - height * width)


def simple_voting(boxes, scores, iou, score_threshold=None):
    """Votes box by box; with a threshold, it is soft voting."""
    left = sorted(range(len(boxes)), key=lambda row: (scores[row], row), reverse=True)
    result = []
    while left:
        overlap = {row: simple_iou(boxes[left[0]], boxes[row]) for row in left}
        group = [row for row in left if overlap[row] >= iou]
        if len(group) > 1 and score_threshold is not None:
            lowered = [(boxes[row], scores[row] * (1 - overlap[row])) for row in group]
            result += [(box, score) for box, score in lowered if score >= score_threshold]
        total = sum(scores[row] for row in group)
        mean = sum(scores[row] * boxes[row] for row in group) / total
        result.append((mean, scores[group[0]]))
        left = [row for row in left if row not in group]
    if score_threshold is not None:
        result = sorted(enumerate(result), key=lambda item: (item[1][1], item[0]), reverse=True)
        result = [item for _, item in result]
    return result


def simple_soft_nms(boxes, scores, iou, score_threshold, method, sigma=0.5):
    """Takes boxes from a list in the order of the authors' program."""
    left, scores, result = list(range(len(boxes))), list(scores), []
    while left:
        place = max(range(len(left)), key=lambda i: scores[left[i]])
        best, left[place] = left[place], left[0]
        left = left[1:]
        result.append((boxes[best], scores[best]))
        place = 0
        while place < len(left):
            row = left[place]
            overlap = simple_iou(boxes[best], boxes[row])
            if method == "gaussian":
                scores[row] *= np.exp(-(overlap**2) / sigma)
            elif overlap > iou:
                scores[row] *= 1 - overlap if method == "linear" else 0
            if scores[row] < score_threshold:
                left[place] = left[-1]
                left.pop()
            else:
                place += 1
    return result


def crowded(generator, size):
    """Boxes of few places and sizes, and scores of few values. There are identical boxes, ties, boxes
    without area, and overlaps that lie exactly on a threshold."""
    corner = generator.integers(0, 6, (size, 2))
    boxes = np.concatenate([corner, corner + generator.integers(0, 5, (size, 2))], axis=1)
    return boxes.astype(np.float64), generator.integers(1, 10, size) / 10


def assert_same(tf_test, result, simple):
    boxes, scores = result
    tf_test.assertAllClose(scores, [score for _, score in simple], rtol=1e-12, atol=0)
    tf_test.assertAllClose(boxes, [box for box, _ in simple], rtol=1e-12, atol=0)


@pytest.mark.parametrize("iou", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_merging_equals_a_simple_loop(tf_test, seed, iou):
    boxes, scores = crowded(np.random.default_rng(seed), 1 + 6 * seed)
    assert_same(tf_test, box_voting(boxes, scores, iou), simple_voting(boxes, scores, iou))
    for threshold in (0.0, 0.3):
        soft = soft_box_voting(boxes, scores, iou, threshold)
        assert_same(tf_test, soft, simple_voting(boxes, scores, iou, threshold))
        for method in METHODS:
            simple = simple_soft_nms(boxes, scores, iou, threshold, method)
            assert_same(tf_test, soft_nms(boxes, scores, iou, threshold, method), simple)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_merges_to_nothing(merge, dtype):
    boxes, scores = merge(np.zeros((0, 4), dtype), np.zeros(0, dtype))
    assert (boxes.shape, scores.shape, boxes.dtype, scores.dtype) == ((0, 4), (0,), dtype, dtype)
    none = DatasetDetections(np.zeros(0, np.int64), np.zeros(0, np.int32), scores, boxes)
    for sizes in (np.zeros((0, 2), int), np.array([[10, 20]])):
        assert merge_detections(none, sizes, merge, 200).boxes.shape == (0, 4)


def test_a_score_of_the_threshold_stays_and_the_best_box_always():
    # The second box lies in the first and covers exactly half of it; the third is far away.
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 4], [50, 50, 59, 59]], np.float32)
    scores = np.array([0.75, 0.5, 0.25], np.float32)
    for merge, iou, kept, dropped in ((soft_nms, 0.49, 3, 1), (soft_box_voting, 0.5, 3, 2)):
        assert len(merge(boxes, scores, iou, score_threshold=0.25)[0]) == kept
        assert len(merge(boxes, scores, iou, score_threshold=0.26)[0]) == dropped
        assert len(merge(boxes[:1], scores[:1], score_threshold=0.9)[0]) == 1


def test_merging_leaves_its_input_alone(tf_test):
    boxes, scores = golden("n40/dets")
    for merge in MERGES:
        given = boxes.copy(), scores.copy()
        merge(*given)
        tf_test.assertAllEqual(given[0], boxes)
        tf_test.assertAllEqual(given[1], scores)


@pytest.mark.parametrize("merge", MERGES)
def test_boxes_without_overlap_with_themselves_and_scores_of_zero(tf_test, merge):
    inverted = np.array([[5, 5, 1, 1], [9, 9, 4, 4], [0, 0, 5, 5]], np.float32)
    boxes, _ = merge(inverted, np.array([0.9, 0.5, 0.3], np.float32))
    tf_test.assertAllEqual(boxes, inverted)
    boxes, scores = merge(inverted[[2, 2]], np.zeros(2, np.float32))
    tf_test.assertAllEqual(boxes, inverted[[2]])
    tf_test.assertAllEqual(scores, [0])


def table(seed, num_images=7, rows=300, num_classes=4):
    """Detections in random order, some with equal scores; image 3 has none."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, num_images, rows)
    images[images == 3] = 4
    corner = generator.uniform(0, 0.7, (rows, 2)).round(1)
    boxes = np.concatenate([corner, corner + generator.uniform(0.1, 0.3, (rows, 2))], axis=1)
    labels = generator.integers(1, num_classes + 1, rows).astype(np.int32)
    scores = (generator.integers(1, 40, rows) / 40).astype(np.float32)
    sizes = generator.integers(50, 400, (num_images, 2))
    return DatasetDetections(images, labels, scores, boxes.astype(np.float32)), sizes


@pytest.mark.parametrize("max_detections", [None, 1, 12])
@pytest.mark.parametrize("merge", [box_voting, soft_box_voting, partial(soft_nms, iou=0.2)])
def test_merge_detections_equals_a_plain_loop(tf_test, merge, max_detections):
    detections, sizes = table(0)
    expected = []
    for image, (height, width) in enumerate(sizes):
        found = []
        for label in range(1, 5):
            rows = [i for i in range(300) if (detections.images[i], detections.labels[i]) == (image, label)]
            scale = np.array([height, width, height, width], np.float32)
            pixels = detections.boxes[rows] * scale
            boxes, scores = merge(pixels, detections.scores[rows])
            found += [(image, label, s, *(box / scale)) for box, s in zip(boxes, scores, strict=True)]
        expected += sorted(found, key=lambda row: -row[2])[:max_detections]
    merged = merge_detections(detections, sizes, merge, max_detections)
    got = np.column_stack([merged.images, merged.labels, merged.scores, merged.boxes])
    tf_test.assertAllClose(got, np.array(expected), rtol=1e-6, atol=0)
    kinds = [getattr(merged, name).dtype for name in ("images", "labels", "scores", "boxes")]
    assert kinds == [np.int64, np.int32, np.float32, np.float32]


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "message"),
    [
        (np.zeros((2, 5)), np.zeros(2), {}, r"boxes \[n, 4\] and scores \[n\], got the shapes \[2, 5\]"),
        (np.zeros(4), np.zeros(1), {}, r"got the shapes \[4\] and \[1\]"),
        (np.zeros((2, 4)), np.zeros(3), {}, r"got the shapes \[2, 4\] and \[3\]"),
        (np.zeros((2, 4)), np.zeros((2, 1)), {}, r"got the shapes \[2, 4\] and \[2, 1\]"),
        (np.zeros((1, 4)), np.array([-0.5]), {}, "scores to merge must be 0 or more, got -0.5"),
        (np.zeros((1, 4)), np.array([np.nan]), {}, "scores to merge must be 0 or more, got nan"),
        (np.zeros((0, 4)), np.zeros(0), {"iou": 1.1}, r"iou of merging must lie in 0\.\.1, got 1.1"),
        (np.zeros((0, 4)), np.zeros(0), {"iou": -0.1}, r"iou of merging must lie in 0\.\.1, got -0.1"),
    ],
)
def test_merging_refuses(boxes, scores, options, message):
    for merge in MERGES:
        with pytest.raises(InputError, match=message):
            merge(boxes, scores, **options)


def test_soft_nms_refuses():
    with pytest.raises(InputError, match="method must be one of linear, gaussian, hard, got 'soft'"):
        soft_nms(np.zeros((0, 4)), np.zeros(0), method="soft")
    with pytest.raises(InputError, match="sigma of soft-NMS must be above 0, got 0"):
        soft_nms(np.zeros((0, 4)), np.zeros(0), sigma=0)
