import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import message_of

from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import DatasetDetections, ImageDetections, check_rows

CLASSES = ("cat", "dog", "cow")
IMAGE_SIZE = (40, 200)
NORMALIZED = np.array([[0.5, 0.25, 0.75, 1], [0, 0, 0.125, 0.5], [0.25, 0.375, 1, 0.625]], np.float32)
PIXELS = np.array([[20, 50, 30, 200], [0, 0, 5, 100], [10, 75, 40, 125]], np.float32)
"""`NORMALIZED` times (40, 200, 40, 200)."""
SCORES = np.array([0.75, 0.5, 0.25], np.float32)
LABELS = np.array([3, 1, 3], np.int32)


@pytest.fixture
def detections():
    return ImageDetections(NORMALIZED, SCORES, LABELS, CLASSES, IMAGE_SIZE)


def test_from_pixels_normalizes_the_boxes(tf_test):
    detections = ImageDetections.from_pixels(
        PIXELS.astype(np.float64), SCORES.astype(np.float64), LABELS.astype(np.int64), CLASSES, IMAGE_SIZE
    )
    tf_test.assertAllEqual(detections.normalized_boxes, NORMALIZED)
    tf_test.assertAllEqual(detections.boxes, PIXELS)
    tf_test.assertAllEqual(detections.scores, SCORES)
    tf_test.assertAllEqual(detections.labels, LABELS)
    assert (detections.class_names, detections.image_size) == (CLASSES, IMAGE_SIZE)
    kinds = [getattr(detections, name).dtype for name in ("normalized_boxes", "boxes", "scores", "labels")]
    assert kinds == [np.float32, np.float32, np.float32, np.int32]


@pytest.mark.parametrize(
    ("score_threshold", "count"), [(0, 3), (0.25, 3), (0.26, 2), (0.5, 2), (0.75, 1), (0.76, 0)]
)
def test_above_keeps_the_threshold_itself(tf_test, detections, score_threshold, count):
    shown = detections.above(score_threshold)
    tf_test.assertAllEqual(shown.normalized_boxes, NORMALIZED[:count])
    tf_test.assertAllEqual(shown.boxes, PIXELS[:count])
    tf_test.assertAllEqual(shown.scores, SCORES[:count])
    tf_test.assertAllEqual(shown.labels, LABELS[:count])
    assert shown.names == ["cow", "cat", "cow"][:count]
    assert (shown.class_names, shown.image_size) == (CLASSES, IMAGE_SIZE)
    assert len(detections.scores) == 3


def test_values_are_read_by_key(tf_test, detections):
    as_dict = dict(detections)
    assert tuple(as_dict) == detections.keys() == ("boxes", "scores", "labels", "names", "image_size")
    for name, expected in (("boxes", PIXELS), ("scores", SCORES), ("labels", LABELS)):
        tf_test.assertAllEqual(as_dict[name], expected)
    assert (as_dict["names"], as_dict["image_size"]) == (["cow", "cat", "cow"], IMAGE_SIZE)


@pytest.mark.parametrize("key", ["normalized_boxes", "class_names", "above", "box", "KEYS"])
def test_unknown_keys_are_refused(detections, key):
    with pytest.raises(KeyError, match=f"'{key}'"):
        detections[key]


def test_detections_without_rows(tf_test):
    nothing = ImageDetections(NORMALIZED[:0], SCORES[:0], LABELS[:0], CLASSES, IMAGE_SIZE)
    tf_test.assertShapeEqual(nothing.boxes, np.zeros((0, 4)))
    assert nothing.names == []
    assert len(nothing.above(0).scores) == 0


def of_dataset(**columns):
    default = {"images": np.array([0, 0, 2]), "labels": LABELS, "scores": SCORES, "boxes": NORMALIZED}
    return DatasetDetections(**{**default, **columns})


def test_a_dataset_may_have_no_detections():
    rows = of_dataset()
    no_rows = {name: getattr(rows, name)[:0] for name in ("images", "labels", "scores", "boxes")}
    assert len(of_dataset(**no_rows).scores) == 0


@pytest.mark.parametrize(
    ("columns", "shapes"),
    [
        ({"boxes": NORMALIZED[:2]}, "[2, 4], [3], [3], [3]"),
        ({"boxes": NORMALIZED[:, :3]}, "[3, 3], [3], [3], [3]"),
        ({"boxes": NORMALIZED.ravel()}, "[12], [3], [3], [3]"),
        ({"images": np.array([0, 1])}, "[3, 4], [2], [3], [3]"),
        ({"labels": LABELS[:, None]}, "[3, 4], [3], [3, 1], [3]"),
        ({"scores": SCORES[:1]}, "[3, 4], [3], [3], [1]"),
    ],
)
def test_columns_of_other_shapes_are_refused(columns, shapes):
    assert message_of(of_dataset, **columns) == (
        f"detections need boxes [n, 4] and columns [n] of one length, got the shapes [{shapes}]"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value):
    scores, boxes = SCORES.copy(), NORMALIZED.copy()
    scores[2] = boxes[1, 3] = value
    with pytest.raises(InputError, match=rf"^detection 2 \(image 2\) has the score \[{value}\]; every score"):
        of_dataset(scores=scores)
    words = rf"^detection 1 \(image 0\) has the box \[0.0, 0.0, 0.125, {value}\]; every score"
    with pytest.raises(InputError, match=words):
        of_dataset(boxes=boxes)


def test_check_rows_takes_any_columns_and_names_the_rows():
    check_rows("object", NORMALIZED)
    check_rows("object", NORMALIZED, SCORES, LABELS)
    with pytest.raises(InputError, match=r"objects need .* got the shapes \[\[3, 4\], \[2\]\]"):
        check_rows("object", NORMALIZED, SCORES[:2])


def test_coco_results(detections):
    first, second, _ = detections.to_coco(image_id=9)
    assert first == {"image_id": 9, "category_id": 3, "bbox": [50, 20, 150, 10], "score": 0.75}
    assert second == {"image_id": 9, "category_id": 1, "bbox": [0, 0, 100, 5], "score": 0.5}
    assert json.loads(json.dumps(first)) == first


def test_detections_for_supervision(tf_test, detections, monkeypatch):
    """A stand-in for the package holds what its `Detections` is given."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    found = detections.to_supervision()
    tf_test.assertAllEqual(found.xyxy, [[50, 20, 200, 30], [0, 0, 100, 5], [75, 10, 125, 40]])
    tf_test.assertAllEqual(found.confidence, SCORES)
    tf_test.assertAllEqual(found.class_id, [2, 0, 2])
    assert found.data["class_name"].tolist() == ["cow", "cat", "cow"]


def test_real_supervision_takes_them(tf_test, detections):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = detections.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 3
    tf_test.assertAllEqual(found[found.confidence > 0.4].class_id, [2, 0])


def test_supervision_that_is_not_installed(detections, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        detections.to_supervision()
