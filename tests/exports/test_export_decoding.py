"""Batches of image files inside a graph: nothing that a client sends costs the others their answer."""

import hostile_images
import pytest
import tensorflow as tf

from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.exports.decoding import PARALLEL_IMAGES, decode_batch

SIZE = (64, 48)
READABLE, UNREADABLE = hostile_images.readable(), hostile_images.unreadable()


@pytest.fixture(scope="module")
def decode():
    function = tf.function(
        lambda files: decode_batch(files, SIZE), input_signature=[tf.TensorSpec([None], tf.string)]
    )

    def decode(files):
        images, decoded = function(tf.constant(files, tf.string))
        assert images.shape == (len(files), *SIZE, 3) and images.dtype == tf.float32
        return images.numpy(), decoded.numpy().tolist()

    return decode


@pytest.mark.parametrize("name", READABLE)
def test_readable(tf_test, decode, name):
    contents, size = READABLE[name]
    pixels = decode_image(contents)
    assert tuple(pixels.shape) == (*size, 3)
    images, decoded = decode([contents])
    assert decoded == [True]
    tf_test.assertAllEqual(images[0], warp_image(pixels, SIZE))
    assert images.max() > 30
    if name == "gif animation":
        assert images.max() < 50


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(decode, name):
    images, decoded = decode([UNREADABLE[name]])
    assert decoded == [False]
    assert not images.any()


def test_others_of_the_batch_are_decoded_in_order(tf_test, decode):
    """More images than are decoded at once, good and bad in turns."""
    good = [contents for contents, _ in READABLE.values()]
    bad = list(UNREADABLE.values())[: len(good)]
    files = [contents for pair in zip(good, bad, strict=True) for contents in pair]
    assert len(files) > 3 * PARALLEL_IMAGES
    images, decoded = decode(files)
    assert decoded == [True, False] * len(good)
    for number, contents in enumerate(good):
        tf_test.assertAllEqual(images[2 * number], warp_image(decode_image(contents), SIZE))
    assert not images[1::2].any()


def test_no_images(decode):
    assert decode([])[1] == []


def test_an_enormous_image(tf_test, decode):
    images, decoded = decode([hostile_images.enormous()])
    assert decoded == [True]
    tf_test.assertAllClose(images[0, 10, 20], [200, 30, 30], rtol=1e-7, atol=3)
