"""Where tiles lie, which boxes they cut, and how the boxes of several views suppress each other."""

import numpy as np
import pytest

from refinedet_tf.errors import InputError
from refinedet_tf.inference.tiles import Tiling, seen_better_elsewhere, suppress_between_views


def starts(tiling, length, side=320):
    """The places of the tiles on an axis of `length` pixels; the other one has a single tile."""
    regions = tiling.regions((100, length), (side, side))
    assert (regions[:, [0, 2]] == [0, 100]).all()
    assert (regions[:, 3] - regions[:, 1] == tiling.side).all()
    return regions[:, 1].tolist()


def test_regions_of_a_composite_without_overlap():
    regions = Tiling(320, 0.0).regions((640, 640), (320, 320))
    assert regions.tolist() == [
        [0, 0, 320, 320],
        [0, 320, 320, 640],
        [320, 0, 640, 320],
        [320, 320, 640, 640],
    ]


@pytest.mark.parametrize(
    ("length", "overlap", "found"),
    [
        (640, 0.25, [0, 160, 320]),
        (560, 0.25, [0, 240]),
        (561, 0.25, [0, 120, 241]),
        (321, 0.0, [0, 1]),
        (800, 0.5, [0, 160, 320, 480]),
    ],
)
def test_tiles_are_spread_evenly(length, overlap, found):
    assert starts(Tiling(320, overlap), length) == found


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.33, 0.9])
def test_tiles_cover_the_image_and_overlap_enough(overlap):
    for length in range(101, 400, 7):
        found = starts(Tiling(100, overlap), length)
        assert found[0] == 0 and found[-1] == length - 100
        assert max(np.diff(found)) <= 100 * (1 - overlap) + 1e-9


def test_shape_of_a_tile_is_that_of_the_network():
    regions = Tiling(100, 0.0).regions((200, 400), (320, 640))
    assert regions.tolist() == [
        [0, 0, 100, 200],
        [0, 200, 100, 400],
        [100, 0, 200, 200],
        [100, 200, 200, 400],
    ]
    assert Tiling(100, 0.0).regions((101, 150), (320, 640)).tolist() == [[0, 0, 100, 150], [1, 0, 101, 150]]


def test_small_image_has_no_tiles():
    assert Tiling(320).regions((320, 320), (64, 64)).shape == (0, 4)
    assert Tiling(320).regions((10, 320), (64, 64)).shape == (0, 4)


@pytest.mark.parametrize("values", [(31,), (0,), (64, -0.1), (64, 0.91), (64, float("nan"))])
def test_values_out_of_range(values):
    with pytest.raises(InputError, match="tile"):
        Tiling(*values)


def test_cut_boxes_that_another_tile_shows_wholly():
    regions = Tiling(100, 0.25).regions((100, 175), (100, 100))
    assert regions[:, 1].tolist() == [0, 75]
    boxes = np.array(
        [
            [10, 80, 20, 100],  # Cut at the right border of the first tile, within the second.
            [10, 80, 20, 99.2],  # As good as cut.
            [10, 80, 20, 98],  # Not cut.
            [10, 60, 20, 100],  # Longer than the overlap.
            [10, 75.5, 20, 100],  # The second tile may cut it as well.
            [0, 0, 20, 50],  # A border of the image does not cut.
            [0, 80, 100, 100],
        ],
        np.float32,
    )
    found = seen_better_elsewhere(boxes, 0, regions, (100, 175))
    assert found.tolist() == [True, True, False, False, False, False, True]
    # Mirrored, on the second tile.
    mirrored = 175 - boxes[:, [0, 3, 2, 1]]
    mirrored[:, [0, 2]] = boxes[:, [0, 2]]
    assert seen_better_elsewhere(mirrored, 1, regions, (100, 175)).tolist() == found.tolist()


def test_nothing_is_seen_better_without_overlap():
    regions = Tiling(100, 0.0).regions((200, 200), (100, 100))
    low = np.random.default_rng(0).uniform(0, 80, (200, 2))
    boxes = np.clip(np.concatenate([low, low + 40], axis=1), 0, 100).astype(np.float32)
    assert not seen_better_elsewhere(boxes, 0, regions, (200, 200)).any()


def test_suppression_between_views():
    box, near, far = [0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 60, 60]
    boxes = np.array([box, near, box, near, far, box], np.float32)
    scores = np.array([0.5, 0.6, 0.9, 0.4, 0.1, 0.5], np.float32)
    labels = np.array([1, 1, 2, 1, 1, 2])
    views = np.array([0, 1, 1, 1, 2, 1])
    # 0 overlaps the better 1; 3 overlaps 1 too, but of the same view, and 5 likewise 2.
    assert suppress_between_views(boxes, scores, labels, views, 0.45).tolist() == [2, 1, 5, 3, 4]
    assert suppress_between_views(boxes, scores, labels, np.arange(6), 0.45).tolist() == [2, 1, 4]
    # The IoU of box and near is 9/11.
    assert suppress_between_views(boxes, scores, labels, np.arange(6), 0.82).tolist() == [2, 1, 0, 4]
    nothing = np.zeros(0, np.int64)
    assert suppress_between_views(np.zeros((0, 4)), np.zeros(0), nothing, nothing, 0.45).shape == (0,)


def test_equal_scores_keep_the_order_of_the_rows():
    boxes = np.array([[0, 0, 1, 1]] * 3, np.float32)
    scores = np.full(3, 0.5, np.float32)
    assert suppress_between_views(boxes, scores, np.array([1, 1, 2]), np.array([0, 1, 2]), 0.5).tolist() == [
        0,
        2,
    ]
