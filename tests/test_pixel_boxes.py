"""Boxes in pixels, against values computed by hand."""

import numpy as np
import pytest

from refinedet_tf.pixel_boxes import coco_pixels, inclusive_iou, to_normalized, to_pixels, voc_pixels

NORMALIZED = [[0.25, 0.5, 0.75, 1.0], [0.0, 0.125, 0.5, 0.25]]
HEIGHT, WIDTH = 100, 200


SIZES = np.array([[100, 200], [40, 80]])


@pytest.mark.parametrize(
    ("boxes", "sizes", "pixels"),
    [
        (NORMALIZED, (HEIGHT, WIDTH), [[25, 100, 75, 200], [0, 25, 50, 50]]),
        (NORMALIZED, SIZES, [[25, 100, 75, 200], [0, 10, 20, 20]]),
        (
            [NORMALIZED, NORMALIZED[::-1]],
            SIZES,
            [[[25, 100, 75, 200], [0, 10, 20, 20]], [[0, 25, 50, 50], [10, 40, 30, 80]]],
        ),
        (np.zeros((0, 4)), np.zeros((0, 2)), np.zeros((0, 4))),
    ],
)
def test_to_pixels_and_back(boxes, sizes, pixels):
    np.testing.assert_array_equal(to_pixels(boxes, sizes), pixels)
    np.testing.assert_array_equal(to_normalized(np.array(pixels, float), sizes), boxes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    boxes = np.array(NORMALIZED, dtype)
    for sizes in ((HEIGHT, WIDTH), SIZES):
        assert to_pixels(boxes, sizes).dtype == dtype
        assert to_normalized(boxes, sizes).dtype == dtype
    assert inclusive_iou(boxes, boxes).dtype == dtype


def test_voc_pixels_count_from_one():
    """A box of the whole image is [1, 1, H, W]; both ends belong to it."""
    sizes = np.array([[100, 200], [100, 200], [40, 80]])
    boxes = np.array([[0, 0, 1, 1], *NORMALIZED], np.float32)
    pixels = voc_pixels(boxes, sizes)
    np.testing.assert_array_equal(pixels, [[1, 1, 100, 200], [26, 101, 75, 200], [1, 11, 20, 20]])
    assert pixels.dtype == np.float64


def test_coco_pixels_are_x_y_width_height():
    pixels = coco_pixels(np.array(NORMALIZED, np.float32), SIZES)
    np.testing.assert_array_equal(pixels, [[100, 25, 100, 50], [10, 0, 10, 20]])
    assert pixels.dtype == np.float64


def test_inclusive_iou_by_hand():
    box = np.array([[0.0, 0.0, 9.0, 9.0]])  # 10 x 10 pixels
    others = np.array(
        [
            [0.0, 0.0, 9.0, 9.0],  # the same
            [5.0, 0.0, 14.0, 9.0],  # shares 5 x 10 of 150
            [9.0, 9.0, 18.0, 18.0],  # shares the one pixel (9, 9) of 199
            [10.0, 0.0, 19.0, 9.0],  # is the next box below
            [2.0, 3.0, 4.0, 4.0],  # 3 x 2 inside
            *([8.0, 0.0, 2.0, 9.0], [0.0, 8.0, 9.0, 2.0], [8.0, 8.0, 2.0, 2.0]),  # are inverted
        ]
    )
    before = others.copy()
    found = inclusive_iou(box, others)
    np.testing.assert_allclose(found, [1, 1 / 3, 1 / 199, 0, 6 / 100, 0, 0, 0], rtol=1e-15)
    np.testing.assert_array_equal(inclusive_iou(others[5:], others[5:]), [0, 0, 0])
    np.testing.assert_array_equal(others, before)


def test_inclusive_iou_broadcasts():
    a = np.array([[[0.0, 0, 9, 9]], [[5.0, 0, 14, 9]]])
    b = np.array([[0.0, 0, 9, 9], [5.0, 0, 14, 9], [20.0, 20, 29, 29]])
    np.testing.assert_allclose(inclusive_iou(a, b), [[1, 1 / 3, 0], [1 / 3, 1, 0]], rtol=1e-15)
    assert inclusive_iou(b[0], b[1]).shape == ()
