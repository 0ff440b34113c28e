import numpy as np
import pytest

from refinedet_tf.drawing import (
    UNKNOWN_COLOR,
    class_color,
    contact_sheet,
    draw_boxes,
    draw_detections,
    scale_image,
)
from refinedet_tf.errors import InputError

NAMES = ("aeroplane", "bicycle", "diningtable")


def has_color(image, color):
    return (image == np.array(color, np.uint8)).all(axis=-1).any()


def test_outline_lies_on_the_box_and_the_input_stays_as_it_is():
    image = np.zeros((101, 201, 3), np.uint8)
    drawn = draw_detections(image, np.array([[0.4, 0.25, 0.9, 0.75]]), np.array([1]), NAMES)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert not image.any()
    for point in ((90, 100), (65, 50), (65, 150)):  # bottom, left and right edge
        assert tuple(drawn[point]) == class_color(1), point
    assert not drawn[60:88, 52:148].any()  # the inside stays free
    assert not drawn[92:].any()
    assert not drawn[:, 152:].any()


def test_every_class_has_a_color_of_its_own():
    colors = np.array([class_color(label) for label in range(1, 81)], int)
    apart = np.abs(colors[:, None] - colors[None]).sum(axis=-1) + 1000 * np.eye(80, dtype=int)
    assert apart.min() > 5
    nearest_of_voc = apart[:20, :20].min()
    assert nearest_of_voc > 40
    assert len({UNKNOWN_COLOR, *map(tuple, colors)}) == 81


def test_labels_without_a_name_are_drawn_grey():
    image = np.zeros((120, 160, 3), np.uint8)
    for label in (0, 4, 37):
        drawn = draw_detections(image, np.array([[0.2, 0.2, 0.8, 0.8]]), np.array([label]), NAMES)
        assert has_color(drawn, UNKNOWN_COLOR)


def test_the_best_score_lies_on_top():
    image = np.zeros((200, 200, 3), np.uint8)
    boxes, labels = np.array([[0.2, 0.2, 0.8, 0.8]] * 2), np.array([1, 2])
    for scores, top in (([0.9, 0.3], 1), ([0.3, 0.9], 2)):
        drawn = draw_detections(image, boxes, labels, NAMES, np.array(scores))
        assert has_color(drawn, class_color(top))
        assert tuple(drawn[159, 100]) == class_color(top)


def test_scores_are_written():
    image, box, label = np.zeros((200, 200, 3), np.uint8), np.array([[0.3, 0.2, 0.8, 0.8]]), np.array([1])
    pictures = [draw_detections(image, box, label, NAMES)]
    pictures += [draw_detections(image, box, label, NAMES, [score]) for score in (0.31, 0.87)]
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_boxes_in_given_colours_and_order():
    image = np.zeros((200, 200, 3), np.uint8)
    boxes, colors = np.array([[0.2, 0.2, 0.8, 0.8]] * 2), [(255, 0, 0), (0, 0, 255)]
    drawn = draw_boxes(image, boxes, colors, [[], []])
    assert has_color(drawn, (0, 0, 255)) and not has_color(drawn, (255, 0, 0))
    named = draw_boxes(image, boxes, colors, [["below"], []])
    assert has_color(named, (255, 0, 0))
    assert not image.any()
    assert (draw_boxes(image, np.zeros((0, 4)), [], []) == image).all()


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (300, 8), (24, 24), (64, 48), (600, 900), (3000, 2000)])
@pytest.mark.parametrize(
    "box", [[0, 0, 1, 1], [0.9, 0.9, 1.2, 1.3], [-0.5, -0.5, 0.05, 0.05], [0.5, 0.5, 0.5, 0.5]]
)
def test_any_image_size_and_any_place(size, box):
    image = np.full((*size, 3), 30, np.uint8)
    drawn = draw_detections(image, np.array([box]), np.array([3]), NAMES, np.array([0.5]))
    assert drawn.shape == image.shape
    assert (drawn != image).any()


@pytest.mark.parametrize(
    "corner", [[0, 0, 0.05, 0.05], [0, 0.95, 0.05, 1], [0.95, 0, 1, 0.05], [0.95, 0.95, 1, 1]]
)
def test_the_name_is_whole_in_every_corner(corner):
    """The tag has the same number of ink pixels wherever the box lies, so none was cut off."""
    image = np.full((400, 400, 3), 30, np.uint8)

    def ink(box):
        drawn = draw_detections(image, np.array([box]), np.array([3]), NAMES, np.array([0.5]))
        return int((~((drawn == 30).all(-1) | (drawn == class_color(3)).all(-1))).sum())

    assert ink(corner) == ink([0.5, 0.4, 0.9, 0.6]) > 50


def test_names_do_not_hide_a_crowd_of_small_objects():
    """64 objects of 20 x 20 pixels fill a picture: no name has a place, but the boxes are there."""
    image = np.full((160, 160, 3), 30, np.uint8)
    starts = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) / 8
    boxes = np.concatenate([starts, starts + 1 / 8], axis=1)
    drawn = draw_detections(image, boxes, np.full(64, 3), NAMES, np.linspace(0.3, 0.9, 64))
    inside = drawn.reshape(8, 20, 8, 20, 3)[:, 3:-3, :, 3:-3]
    assert (inside == 30).all()
    assert has_color(drawn, class_color(3))


@pytest.mark.parametrize("scores", [None, [0.5, 0.9, 0.7]])
def test_names_do_not_hide_each_other_or_objects(scores):
    """Three overlapping boxes with names in free places around them."""
    image = np.full((200, 300, 3), 30, np.uint8)
    boxes = np.array([[0.4, 0.4, 0.7, 0.55], [0.42, 0.42, 0.72, 0.57], [0.44, 0.44, 0.74, 0.59]])
    drawn = draw_detections(image, boxes, np.array([1, 2, 3]), NAMES, scores)
    for label in (1, 2, 3):
        # The outline has some 200 pixels.
        assert (drawn == class_color(label)).all(axis=-1).sum() > 400
    hull = drawn[90:138, 134:164]
    assert (hull == 30).all(axis=-1).mean() > 0.7


def test_nothing_to_draw():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), NAMES), image)


def test_contact_sheet_shows_every_image_in_order():
    images = [np.full((20 + i, 30, 3), 50 + 20 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(images)
    assert sheet.shape == (2 * 28, 3 * 34, 3)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        cell = sheet[row * 28 : row * 28 + 28, column * 34 : column * 34 + 34]
        assert (cell == 50 + 20 * i).all(axis=-1).sum() == image.shape[0] * image.shape[1]
    assert contact_sheet(np.zeros((4, 8, 8, 3), np.uint8)).shape == (24, 24, 3)


def test_wrong_input_is_named():
    image, box = np.zeros((10, 10, 3), np.uint8), np.array([[0.1, 0.1, 0.5, 0.5]])
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\], got float32 \[10, 10, 3\]"):
        draw_detections(image.astype(np.float32), box, [1], NAMES)
    with pytest.raises(InputError, match="one length"):
        draw_detections(image, box, [1, 2], NAMES)
    with pytest.raises(InputError, match="box 1 is"):
        draw_detections(image, np.array([[0.1, 0.1, 0.5, 0.5], [0.6, 0.1, 0.5, 0.5]]), [1, 1], NAMES)
    with pytest.raises(InputError, match="box 0 is"):
        draw_detections(image, np.array([[0.1, np.nan, 0.5, 0.5]]), [1], NAMES)
    with pytest.raises(InputError, match="at least one image"):
        contact_sheet([])
    with pytest.raises(InputError, match=r"got uint8 \[10, 10\]"):
        contact_sheet([image[..., 0]])


def test_scaled_image_keeps_its_shape():
    assert scale_image(np.zeros((30, 60, 3), np.uint8), 200).shape == (100, 200, 3)
    assert scale_image(np.zeros((3000, 2, 3), np.uint8), 300).shape == (300, 1, 3)
