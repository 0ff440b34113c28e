import math

import numpy as np
import pytest

from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import MAX_LOG_SCALE, area, clip, decode, encode, pairwise_iou


def iou_of(a, b):
    """The IoU of one pair of boxes, with plain Python numbers."""
    (a_top, a_left, a_bottom, a_right), (b_top, b_left, b_bottom, b_right) = map(list, (a, b))
    height = min(a_bottom, b_bottom) - max(a_top, b_top)
    width = min(a_right, b_right) - max(a_left, b_left)
    shared = height * width if height > 0 and width > 0 else 0.0
    area_a = max(a_bottom - a_top, 0) * max(a_right - a_left, 0)
    area_b = max(b_bottom - b_top, 0) * max(b_right - b_left, 0)
    union = area_a + area_b - shared
    return shared / union if union > 0 else 0.0


def random_boxes(count, seed, scale=1.0):
    generator = np.random.default_rng(seed)
    centre, size = generator.uniform(0, scale, (count, 2)), generator.uniform(0.01, 0.6, (count, 2))
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)


SPECIAL = np.array(
    [
        [0.1, 0.1, 0.5, 0.5],
        [0.5, 0.1, 0.9, 0.5],  # touches the first from below
        [0.1, 0.5, 0.5, 0.9],  # touches the first from the right
        [0.5, 0.5, 0.9, 0.9],  # touches the first at one corner
        [0.3, 0.3, 0.3, 0.3],  # a point
        [0.3, 0.1, 0.3, 0.5],  # a line
        [0.0, 0.0, 0.0, 0.0],  # padding
        [0.5, 0.5, 0.1, 0.1],  # inverted
        [0.4, 0.1, 0.2, 0.5],  # inverted in y alone
        [-0.5, -0.5, 1.5, 1.5],
        [0.0, 0.0, 1.0, 1.0],
    ],
    np.float32,
)


def test_iou_against_a_plain_loop(tf_test):
    a = np.concatenate([random_boxes(30, 0), SPECIAL])
    b = np.concatenate([random_boxes(20, 1), SPECIAL])
    expected = [[iou_of(row.astype(float), column.astype(float)) for column in b] for row in a]
    found = pairwise_iou(a, b)
    tf_test.assertAllClose(found, expected, rtol=1e-7, atol=1e-6)
    tf_test.assertDTypeEqual(found, np.float32)
    assert (np.array(expected) > 0.3).sum() > 20


def test_iou_of_touching_and_empty_boxes_is_exactly_zero(tf_test):
    found = pairwise_iou(SPECIAL[:1], SPECIAL)[0]
    tf_test.assertAllEqual(found[:9], [1] + [0] * 8)
    empty = SPECIAL[4:9]
    tf_test.assertAllEqual(pairwise_iou(empty, empty), np.zeros((5, 5)))


def test_iou_of_none_and_of_batches(tf_test):
    boxes = random_boxes(6, 2)
    tf_test.assertShapeEqual(pairwise_iou(boxes[:0], boxes), np.zeros((0, 6)))
    tf_test.assertShapeEqual(pairwise_iou(boxes, boxes[:0]), np.zeros((6, 0)))
    batch = np.stack([boxes, boxes[::-1]])
    found = np.asarray(pairwise_iou(batch, boxes))
    tf_test.assertShapeEqual(found, np.zeros((2, 6, 6)))
    tf_test.assertAllEqual(found[0], pairwise_iou(boxes, boxes))
    tf_test.assertAllEqual(found[1], found[0][::-1])


def test_area(tf_test):
    tf_test.assertAllClose(area(SPECIAL), [0.16, 0.16, 0.16, 0.16, 0, 0, 0, 0, 0, 4, 1], rtol=1e-6, atol=0)


def test_encode_and_decode_by_hand(tf_test):
    anchor = np.array([0.2, 0.1, 0.6, 0.3], np.float32)  # centre (0.4, 0.2), 0.4 high, 0.2 wide
    box = np.array([0.4, 0.2, 0.6, 0.6], np.float32)  # centre (0.5, 0.4), 0.2 high, 0.4 wide
    offsets = [0.2 / 0.2 / 0.1, 0.1 / 0.4 / 0.1, math.log(2) / 0.2, math.log(0.5) / 0.2]
    encoded, decoded = encode(box, anchor), decode(np.array(offsets, np.float32), anchor)
    tf_test.assertAllClose(encoded, offsets, rtol=1e-5, atol=0)
    tf_test.assertAllClose(decoded, box, rtol=1e-5, atol=0)
    tf_test.assertDTypeEqual(encoded, np.float32)
    tf_test.assertDTypeEqual(decoded, np.float32)


def test_encode_and_decode_are_inverse(tf_test):
    anchors = tile_anchors((128, 192))[::3]
    boxes = random_boxes(len(anchors), 3)
    tf_test.assertAllClose(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-7, atol=2e-6)
    offsets = np.random.default_rng(4).normal(0, 2, (2, len(anchors), 4)).astype(np.float32)
    again = encode(decode(offsets, anchors), anchors)
    tf_test.assertAllClose(again, offsets, rtol=1e-7, atol=2e-3)


@pytest.mark.parametrize("size", [60.0, 1e4, 1e8, 1e30])
def test_decode_never_overflows(size):
    anchors = tile_anchors((64, 64))
    signs = np.random.default_rng(5).choice([-1.0, 1.0], (len(anchors), 4))
    refined = np.asarray(decode((size * signs).astype(np.float32), anchors))
    assert np.isfinite(refined).all()
    # A second time, because the ODM decodes relative to the anchors that the ARM refined.
    assert np.isfinite(np.asarray(decode(np.full_like(anchors, 1e4), refined))).all()


def test_decode_bounds_the_growth_only(tf_test):
    anchor = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
    largest = np.array([[0, 0, MAX_LOG_SCALE / 0.2, MAX_LOG_SCALE / 0.2]], np.float32)
    bounded = np.asarray(decode(3 * largest, anchor))
    tf_test.assertAllClose(bounded, decode(largest, anchor), rtol=1e-5, atol=0)
    tf_test.assertAllClose(bounded[0, 2] - bounded[0, 0], math.exp(MAX_LOG_SCALE), rtol=1e-5, atol=0)
    below = np.asarray(decode(0.9 * largest, anchor))
    tf_test.assertAllClose(below[0, 3] - below[0, 1], math.exp(0.9 * MAX_LOG_SCALE), rtol=1e-4, atol=0)


def test_clip(tf_test):
    boxes = np.array([[-0.5, 0.2, 0.7, 1.5], [0.1, 0.2, 0.3, 0.4], [1.2, -3, 2, -1]], np.float32)
    tf_test.assertAllEqual(
        clip(boxes), np.array([[0, 0.2, 0.7, 1], [0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0]], np.float32)
    )
