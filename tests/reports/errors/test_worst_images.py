import numpy as np
import pytest
from pixel_scenes import matches_of

from refinedet_tf.reports.errors.error_kinds import find_error_kinds
from refinedet_tf.reports.errors.worst_images import (
    NOT_FOUND_COLOR,
    OBJECT_COLOR,
    PICTURE_SIDE,
    RIGHT_COLOR,
    WRONG_COLOR,
    describe_error,
    draw_errors,
    worst_images,
)

BOX = [0, 0, 40, 40]
AWAY = [60, 100, 90, 150]
NAMES = ("cat", "dog")
LOW = np.zeros(2)


def test_objects_that_are_not_found_count_1_and_wrong_detections_their_score():
    objects = [(0, 1, BOX), (1, 1, BOX), (1, 2, AWAY)]
    rows = [(0, 1, 0.9, BOX), (0, 2, 0.75, AWAY), (0, 2, 0.5, BOX), (1, 1, 0.8, BOX)]
    first, second = worst_images(matches_of(objects, rows), LOW, 5)
    assert (first.image, first.weight) == (0, 1.25)
    # The rows are ordered by image and score: 0.9, 0.75, 0.5, 0.8.
    assert (first.right.tolist(), first.wrong.tolist(), first.not_found.tolist()) == ([0], [1, 2], [])
    assert (second.image, second.weight) == (1, 1.0)
    assert (second.right.tolist(), second.wrong.tolist(), second.not_found.tolist()) == ([3], [], [2])


def test_only_detections_above_the_thresholds_count():
    objects = [(0, 1, BOX), (1, 2, BOX)]
    rows = [(0, 1, 0.4, BOX), (1, 2, 0.9, BOX), (1, 2, 0.1, AWAY)]
    (only,) = worst_images(matches_of(objects, rows), np.array([0.5, 0.5]), 5)
    assert (only.image, only.weight, only.not_found.tolist()) == (0, 1.0, [0])
    assert worst_images(matches_of(objects, rows), np.array([0.4, 0.5]), 5) == []
    assert [item.image for item in worst_images(matches_of(objects, rows), np.full(2, np.nan), 5)] == [0, 1]


def test_number_of_images_ties_and_difficult_objects():
    objects = [(0, 1, BOX), (1, 1, BOX), (1, 2, AWAY, True)]
    assert [item.image for item in worst_images(matches_of(objects, []), LOW, 5)] == [0, 1]
    (only,) = worst_images(matches_of(objects, []), LOW, 1)
    assert (only.image, only.weight) == (0, 1.0)


def test_boxes_have_the_colours_of_what_they_are():
    pixels = np.full((100, 200, 3), 90, np.uint8)
    objects = [(0, 1, [10, 10, 30, 30]), (0, 2, [10, 60, 30, 90]), (0, 2, [60, 10, 90, 40], True)]
    rows = [(0, 1, 0.9, [12, 12, 32, 32]), (0, 2, 0.87, [60, 120, 90, 180])]
    matches = matches_of(objects, rows)
    (errors,) = worst_images(matches, LOW, 5)
    kinds = find_error_kinds(matches)
    picture = draw_errors(pixels, errors, matches, kinds, NAMES)
    assert picture.shape == (PICTURE_SIDE // 2, PICTURE_SIDE, 3)
    scale = PICTURE_SIDE / 200
    # A pixel on the right or lower edge of each box.
    for color, (y, x) in (
        (OBJECT_COLOR, (20, 10)),
        (RIGHT_COLOR, (22, 32)),
        (NOT_FOUND_COLOR, (20, 90)),
        (WRONG_COLOR, (75, 180)),
    ):
        y, x = round(y * scale), round(x * scale)
        near = picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).tolist()
        assert list(color) in near, color
    # The difficult object leaves no trace.
    y, x = round(75 * scale), round(10 * scale)
    assert (picture[y - 4 : y + 5, x - 4 : x + 5] == 90).all()


@pytest.mark.parametrize(
    ("row", "expected"),
    [((0, 2, 0.874, AWAY), "dog 87 background"), ((0, 2, 0.5, BOX), "dog 50 classification")],
)
def test_an_error_in_words(row, expected):
    matches = matches_of([(0, 1, BOX)], [row])
    assert describe_error(0, matches, find_error_kinds(matches), NAMES) == expected
