"""Boxes in pixels, against values computed by hand."""

import numpy as np
import pytest

from refinedet_tf.pixel_boxes import coco_pixels, inclusive_iou, to_normalized, to_pixels, voc_pixels

NORMALIZED = [[0.25, 0.5, 0.75, 1.0], [0.0, 0.125, 0.5, 0.25]]
SIZES = [[100, 200], [40, 80]]
"""Height and width."""


@pytest.mark.parametrize(
    ("sizes", "boxes", "pixels"),
    [
        (SIZES[0], NORMALIZED, [[25, 100, 75, 200], [0, 25, 50, 50]]),
        (SIZES, NORMALIZED, [[25, 100, 75, 200], [0, 10, 20, 20]]),
        # There may be more axes before that of the boxes.
        (SIZES, [NORMALIZED[::-1]] * 2, [[[0, 25, 50, 50], [10, 40, 30, 80]]] * 2),
        (np.zeros((0, 2)), np.zeros((0, 4)), np.zeros((0, 4))),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_and_back(sizes, boxes, pixels, dtype):
    boxes, sizes = np.array(boxes, dtype), np.array(sizes, np.int64)
    found = to_pixels(boxes, sizes)
    np.testing.assert_array_equal(found, np.array(pixels, dtype), strict=True)
    np.testing.assert_array_equal(to_normalized(found, sizes), boxes, strict=True)


def test_voc_pixels_count_from_one():
    """A box of the whole image is [1, 1, H, W]; both ends belong to it."""
    boxes = np.array([[0, 0, 1, 1], *NORMALIZED], np.float32)
    pixels = voc_pixels(boxes, np.array([SIZES[0], *SIZES]))
    expected = np.array([[1, 1, 100, 200], [26, 101, 75, 200], [1, 11, 20, 20]], np.float64)
    np.testing.assert_array_equal(pixels, expected, strict=True)
    assert voc_pixels(boxes[:0], np.zeros((0, 2), int)).shape == (0, 4)


def test_coco_pixels_are_x_y_width_height():
    pixels = coco_pixels(np.array(NORMALIZED, np.float32), np.array(SIZES))
    expected = np.array([[100, 25, 100, 50], [10, 0, 10, 20]], np.float64)
    np.testing.assert_array_equal(pixels, expected, strict=True)
    assert coco_pixels(np.zeros((0, 4)), np.zeros((0, 2), int)).shape == (0, 4)


TEN = [0.0, 0.0, 9.0, 9.0]
"""10 x 10 pixels."""


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        (TEN, TEN, 1),
        (TEN, [5.0, 0.0, 14.0, 9.0], 1 / 3),  # They share 5 x 10 of 150 pixels.
        (TEN, [9.0, 9.0, 18.0, 18.0], 1 / 199),  # They share the pixel (9, 9).
        (TEN, [10.0, 0.0, 19.0, 9.0], 0),
        (TEN, [2.0, 3.0, 4.0, 4.0], 6 / 100),
        # Inverted boxes overlap nothing.
        (TEN, [8.0, 0.0, 2.0, 9.0], 0),
        (TEN, [0.0, 8.0, 9.0, 2.0], 0),
        ([8.0, 8.0, 2.0, 2.0], [8.0, 8.0, 2.0, 2.0], 0),
    ],
)
def test_inclusive_iou_by_hand(a, b, iou):
    for dtype in (np.float32, np.float64):
        # The first axes are broadcast, and the arguments stay as they are.
        first, second = np.array([[a], [TEN]], dtype), np.array([b, TEN, b], dtype)
        before = first.copy(), second.copy()
        found = inclusive_iou(first, second)
        assert found.shape == (2, 3) and found.dtype == dtype
        np.testing.assert_allclose(found[0, [0, 2]], iou, rtol=10 * np.finfo(dtype).eps)
        assert found[1, 1] == 1
        np.testing.assert_array_equal(first, before[0])
        np.testing.assert_array_equal(second, before[1])
        assert inclusive_iou(first[0, 0], second[0]).shape == ()
