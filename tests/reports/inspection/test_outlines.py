"""Outlines and names hide no object."""

import numpy as np
import pytest
from image_files import noise

from refinedet_tf.drawing import class_color
from refinedet_tf.reports.inspection.outlines import draw_anchors, draw_outlines

NAMES = ("a class with a long name", "b")


def grid_of_boxes(side, step, size=200):
    """Boxes of `side` pixels at distances of `step` in an image of `size` x `size` pixels."""
    corners = np.array(
        [(y, x) for y in range(8, size - side - 8, step) for x in range(8, size - side - 8, step)]
    )
    return np.concatenate([corners, corners + side], axis=1) / size, corners


@pytest.mark.parametrize(("side", "step"), [(3, 12), (10, 40), (40, 60)])
def test_no_pixel_of_an_object_is_covered(side, step):
    image = noise(200, 200)
    boxes, corners = grid_of_boxes(side, step)
    labels = 1 + np.arange(len(boxes)) % 2
    before = image.copy()
    drawn = draw_outlines(image, boxes, labels, NAMES)
    np.testing.assert_array_equal(image, before)
    for (top, left), label in zip(corners, labels, strict=True):
        inside = slice(top, top + side), slice(left, left + side)
        np.testing.assert_array_equal(drawn[inside], image[inside])
        # The first line outside has the colour of the class, at the corner and on every side.
        assert tuple(drawn[top - 1, left - 1]) == class_color(int(label))
        assert tuple(drawn[top + side // 2, left + side]) == class_color(int(label))
        assert tuple(drawn[top + side, left + side // 2]) == class_color(int(label))


def test_a_name_without_room_is_left_out():
    image = np.zeros((64, 64, 3), np.uint8)
    wide = draw_outlines(np.zeros((64, 400, 3), np.uint8), np.array([[0.4, 0.2, 0.8, 0.3]]), [1], NAMES)
    narrow = draw_outlines(image, np.array([[0.4, 0.2, 0.8, 0.3]]), [1], NAMES)
    color = class_color(1)
    # A tag is a filled area, an outline is not.
    assert (wide == color).all(axis=2).sum() > 500
    assert (narrow == color).all(axis=2).sum() < 300


def test_boxes_at_the_border_and_without_pixels():
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.999, 0.999, 1.0, 1.0]])
    drawn = draw_outlines(np.zeros((50, 50, 3), np.uint8), boxes, [1, 2, 2], NAMES)
    assert drawn.shape == (50, 50, 3)
    assert tuple(drawn[24, 24]) == class_color(2)


def test_anchors_may_leave_the_image():
    image = np.zeros((40, 40, 3), np.uint8)
    anchors = np.array([[-0.5, -0.5, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [2.0, 2.0, 3.0, 3.0]])
    drawn = draw_anchors(image, anchors, [(200, 0, 0), (0, 0, 200), (0, 200, 0)])
    assert tuple(drawn[0, 19]) == (120, 0, 0)
    assert tuple(drawn[29, 20]) == (0, 0, 120)
    assert tuple(drawn[20, 20]) == (0, 0, 0)
    assert drawn[..., 1].max() == 0
