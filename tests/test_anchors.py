import math

import numpy as np
import pytest
from golden_arrays import GOLDEN_FOLDER

from refinedet_tf.anchors import level_grids, tile_anchors

GOLDEN = np.load(GOLDEN_FOLDER / "priors.npz")


def tile_plainly(height, width):
    """The anchors by loops: level, row, column, ratio."""
    boxes = []
    for stride in (8, 16, 32, 64):
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                for ratio in (1, 2, 0.5):
                    # w / h = ratio and w * h = (4 * stride) ** 2
                    w, h = 4 * stride * math.sqrt(ratio), 4 * stride / math.sqrt(ratio)
                    y, x = (row + 0.5) * stride, (column + 0.5) * stride
                    top_left = [(y - h / 2) / height, (x - w / 2) / width]
                    boxes.append([*top_left, (y + h / 2) / height, (x + w / 2) / width])
    return np.array(boxes)


@pytest.mark.parametrize(("size", "count"), [(320, 6375), (512, 16320)])
def test_against_the_authors_priors(tf_test, size, count, compare):
    anchors = tile_anchors((size, size))
    tf_test.assertShapeEqual(anchors, np.zeros((count, 4)))
    tf_test.assertDTypeEqual(anchors, np.float32)
    x_first = GOLDEN[f"boxes_{size}"]
    compare("anchors", f"{size} x {size}", anchors, x_first[:, [1, 0, 3, 2]], 1e-6)


@pytest.mark.parametrize("size", [(192, 320), (320, 192), (100, 130), (97, 65), (64, 64)])
def test_against_a_plain_loop(tf_test, size):
    expected = tile_plainly(*size)
    anchors = tile_anchors(size)
    tf_test.assertDTypeEqual(anchors, np.float32)
    tf_test.assertShapeEqual(anchors, expected)
    tf_test.assertAllClose(anchors, expected, rtol=0, atol=1e-6)
    cells = sum(rows * columns for rows, columns in level_grids(size))
    assert len(anchors) == 3 * cells


def test_level_grids_round_up():
    assert level_grids((100, 130)) == [(13, 17), (7, 9), (4, 5), (2, 3)]
    assert level_grids((320, 512)) == [(40, 64), (20, 32), (10, 16), (5, 8)]


def test_areas_and_ratios_of_a_cell(tf_test):
    anchors = tile_anchors((320, 320)).astype(float) * 320
    heights, widths = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    sides = np.repeat([32, 64, 128, 256], [4800, 1200, 300, 75])
    tf_test.assertAllClose(heights * widths, sides**2, rtol=1e-4, atol=0)
    tf_test.assertAllClose(widths / heights, np.tile([1, 2, 0.5], 2125), rtol=1e-4, atol=0)
    assert anchors.min() < 0
    assert anchors.max() > 320
