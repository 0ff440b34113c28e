import numpy as np
import pytest
import tensorflow as tf

from refinedet_tf.refinedet.matching import match, mine_hard_negatives


def match_by_loops(iou, valid, positive_iou):
    """Applies the greedy rule to the IoU of one image, [G, A], with loops."""
    num_objects, num_anchors = iou.shape
    matches = [-1] * num_anchors
    waiting = [g for g in range(num_objects) if valid[g]]
    while waiting:
        best = (1e-6, None, None)
        for a in range(num_anchors):
            for g in waiting:
                if matches[a] < 0 and iou[g, a] > best[0]:
                    best = (iou[g, a], a, g)
        _, a, g = best
        if a is None:
            break
        matches[a] = g
        waiting.remove(g)
    for a in range(num_anchors):
        best = (-1.0, -1)
        for g in range(num_objects):
            if valid[g] and iou[g, a] > best[0]:
                best = (iou[g, a], g)
        if matches[a] < 0 and best[0] >= positive_iou:
            matches[a] = best[1]
    return matches


@pytest.fixture
def checked_match(tf_test):
    """Calls `match`, compares with the loops and returns what it found, int32 [B, A]."""

    def check(iou, valid, positive_iou=0.5):
        iou, valid = np.asarray(iou, np.float32), np.asarray(valid, bool)
        found = match(iou, valid, positive_iou)
        images = zip(iou, valid, strict=True)
        tf_test.assertAllEqual(found, [match_by_loops(*image, positive_iou) for image in images])
        tf_test.assertDTypeEqual(found, np.int32)
        return np.asarray(found)

    return check


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("objects", "anchors"), [(1, 9), (5, 40), (12, 12), (9, 4)])
def test_match_on_random_overlaps(checked_match, objects, anchors, seed):
    generator = np.random.default_rng(seed)
    iou = generator.uniform(0, 1, (3, objects, anchors)) * (generator.random((3, objects, anchors)) < 0.6)
    valid = np.arange(objects) < generator.integers(0, objects + 1, (3, 1))
    checked_match(iou, valid)


def test_match_in_a_graph_whose_lengths_are_open(tf_test):
    """With fewer objects than anchors, as many, and more."""
    spec = [tf.TensorSpec([None, None, 12]), tf.TensorSpec([None, None], tf.bool)]
    graph = tf.function(lambda iou, valid: match(iou, valid, 0.5), input_signature=spec)
    generator = np.random.default_rng(0)
    for objects in (1, 5, 12, 30):
        iou = generator.uniform(0, 1, (3, objects, 12)).astype(np.float32)
        valid = np.arange(objects) < np.array([[objects], [objects // 2], [0]])
        images = zip(iou, valid, strict=True)
        tf_test.assertAllEqual(graph(iou, valid), [match_by_loops(*image, 0.5) for image in images])


@pytest.mark.parametrize("seed", range(4))
def test_match_with_many_ties(checked_match, seed):
    """Uses five values only, so that several anchors and objects share most maxima."""
    generator = np.random.default_rng(seed)
    iou = generator.choice([0, 0.25, 0.5, 0.75, 1], (4, 7, 15))
    checked_match(iou, np.ones((4, 7)))


HALF = 0.5
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
BY_HAND = {
    # 0.9 is taken first, so object 1 is left with anchor 1, which then is not object 0's although
    # they overlap more; object 2 gets an anchor below the threshold.
    "greedy": ([[0.9, 0.8, 0.1, 0], [0.85, 0.2, 0, 0], [0, 0, 0.2, 0.1]], [1, 1, 1], [0, 1, 2, -1]),
    "the threshold is inclusive": ([[0.9, HALF, BELOW_HALF]], [1], [0, 0, -1]),
    "identical objects take the first anchors in order": ([[0.3] * 4, [0.3] * 4], [1, 1], [0, 1, -1, -1]),
    "a tie goes to the first anchor": ([[0.1, 0.4], [0.4, 0.2]], [1, 1], [1, 0]),
    # Object 1 wins anchor 0; else object 0 would have won anchor 1 just the same.
    "a tie of anchors and objects": ([[0, 0.4, 0.3], [0.4, 0.4, 0]], [1, 1], [1, 0, -1]),
    "an object without overlap gets no anchor": ([[0, 0, 1e-7], [0.7, 0, 0]], [1, 1], [1, -1, -1]),
    "tiny overlap is enough": ([[0, 2e-6, 1e-6]], [1], [-1, 0, -1]),
    "padding after an object": ([[0.9, 0.1, 0], [0.95, 0.8, 0]], [1, 0], [0, -1, -1]),
    "padding before an object": ([[0.9, 0.1, 0], [0.95, 0.8, 0]], [0, 1], [1, 1, -1]),
    "padding alone": ([[0.9, 0.1, 0], [0.95, 0.8, 0]], [0, 0], [-1, -1, -1]),
}
"""The overlaps [G, A], which objects are none of the padding, and the object of each anchor."""


@pytest.mark.parametrize(("iou", "valid", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_match_by_hand(tf_test, checked_match, iou, valid, expected):
    tf_test.assertAllEqual(checked_match([iou], [valid]), [expected])


def mine_by_loops(loss, candidates, num_positives, ratio):
    chosen = np.zeros(loss.shape, bool)
    for image, row in enumerate(loss):
        allowed = [a for a in range(len(row)) if candidates[image, a]]
        ranked = sorted(allowed, key=lambda a: (-row[a], a))  # noqa: B023
        chosen[image, ranked[: int(num_positives[image] * ratio)]] = True
    return chosen


@pytest.fixture
def checked_mining(tf_test):
    """Calls `mine_hard_negatives`, compares with the loops and returns what it chose, bool [B, A]."""

    def check(loss, candidates, num_positives, ratio=3.0):
        loss, candidates = np.asarray(loss, np.float32), np.asarray(candidates, bool)
        num_positives = np.asarray(num_positives, np.int32)
        found = mine_hard_negatives(loss, candidates, num_positives, ratio)
        tf_test.assertAllEqual(found, mine_by_loops(loss, candidates, num_positives, ratio))
        tf_test.assertDTypeEqual(found, bool)
        return np.asarray(found)

    return check


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [3.0, 1.0, 0.5, 0.0])
def test_mining_on_random_losses(checked_mining, seed, ratio):
    generator = np.random.default_rng(seed)
    loss = generator.exponential(1, (5, 30))
    candidates = generator.random((5, 30)) < 0.7
    found = checked_mining(loss, candidates, [0, 1, 2, 5, 30], ratio)
    # An image without positives gives no negatives, and one of fewer candidates than wanted all of them.
    assert not found[0].any() and (ratio < 1 or np.array_equal(found[4], candidates[4]))


@pytest.mark.parametrize("seed", range(4))
def test_mining_with_ties_takes_the_first(checked_mining, seed):
    generator = np.random.default_rng(seed)
    loss = generator.choice([0, 1, 2], (4, 25))
    candidates = generator.random((4, 25)) < 0.8
    checked_mining(loss, candidates, [1, 2, 3, 4])


@pytest.mark.parametrize("ratio", [1e9, 1e38, 1e300])
def test_a_huge_ratio_takes_all_candidates(checked_mining, ratio):
    generator = np.random.default_rng(0)
    loss, candidates = generator.exponential(1, (3, 30)), generator.random((3, 30)) < 0.7
    found = checked_mining(loss, candidates, [0, 1, 30], ratio)
    assert not found[0].any() and np.array_equal(found[1:], candidates[1:])
