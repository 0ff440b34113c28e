"""The order in which a training reads its images."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from refinedet_tf.data.pipeline import epoch_permutation, image_order


def permutation(num_images, seed, epoch):
    return epoch_permutation(num_images, seed, tf.constant(epoch, tf.int64)).numpy()


@pytest.fixture(scope="module")
def epochs():
    """The orders of 1,000 images in 1,024 epochs, int64 [1024, 1000]."""
    return np.stack([*image_order(1000, seed=0).batch(1000).take(1024).as_numpy_iterator()])


def test_every_epoch_and_every_seed_has_a_permutation_of_its_own(tf_test, epochs):
    seeds = np.stack([permutation(1000, seed, 0) for seed in range(1, 1024)])
    orders = np.concatenate([epochs, seeds])
    tf_test.assertAllEqual(np.sort(orders, axis=1), np.tile(np.arange(1000), (len(orders), 1)))
    assert len({order.tobytes() for order in orders}) == len(orders) == 2047


def test_all_bits_of_seed_and_epoch_count():
    numbers = [0, *(2**bit for bit in range(0, 63, 3)), 2**63 - 1]
    orders = [permutation(1000, seed, 7) for seed in numbers] + [permutation(1000, 7, e) for e in numbers]
    assert len({order.tobytes() for order in orders}) == len(orders) == 46


def test_every_image_is_equally_often_at_every_place(epochs):
    """The statistic has 99 degrees of freedom per place; 0.1 % of its values lie above 149."""
    tens = epochs // 10
    for place in (0, 1, 500, 999):
        counts = np.bincount(tens[:, place], minlength=100)
        assert (np.square(counts - 10.24) / 10.24).sum() < 149


def test_all_permutations_of_four_images_are_equally_frequent():
    """The statistic has 23 degrees of freedom; 0.1 % of its values lie above 49.7."""
    orders = image_order(4, seed=0).batch(4).take(4800).as_numpy_iterator()
    counts = collections.Counter(tuple(order.tolist()) for order in orders)
    assert counts.keys() == set(itertools.permutations(range(4)))
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 1001, 2500])
def test_an_order_may_start_anywhere(tf_test, epochs, start):
    continued = image_order(1000, seed=0, start=start).take(1200)
    tf_test.assertAllEqual([*continued.as_numpy_iterator()], epochs.ravel()[start : start + 1200])


def test_a_single_image():
    assert [*image_order(1, seed=5, start=10**12).take(3).as_numpy_iterator()] == [0, 0, 0]


def test_the_order_is_the_same_in_every_process(tf_test):
    """These numbers were printed by another process."""
    tf_test.assertAllEqual(permutation(10, 2**40 + 1, 3), [2, 0, 3, 8, 7, 1, 6, 4, 5, 9])
