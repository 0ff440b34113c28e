"""Batches of image files inside a graph: no file costs the others their answer, and pixels have a limit."""

import functools
import struct

import hostile_images
import numpy as np
import pytest
import tensorflow as tf
from gif_files import gif
from image_files import encoded, noise

from refinedet_tf.data import image_formats
from refinedet_tf.data.image_formats import gif_size
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.exports.decoding import PARALLEL_IMAGES, decode_batch, limit_pixels

SIZE = (64, 48)
HEIGHT, WIDTH = 70, 90
PIXELS = HEIGHT * WIDTH


def photo(kind, **options):
    return encoded(noise(HEIGHT, WIDTH), kind, **options)


def frame(height, width):
    return np.full((height, width, 3), 7, np.uint8)


def webp(kind, size):
    """The first bytes of a WebP of a kind, whose header claims (width, height)."""
    width, height = size
    if kind == b"VP8 ":
        data = b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    elif kind == b"VP8L":
        data = b"/" + struct.pack("<I", (height - 1) << 14 | (width - 1)) + bytes(5)
    else:
        data = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBP" + kind + struct.pack("<I", 10) + data


FILES = {
    "jpeg": (photo("JPEG"), PIXELS),
    "progressive jpeg": (photo("JPEG", progressive=True), PIXELS),
    "png": (photo("PNG"), PIXELS),
    "gif": (gif((WIDTH, HEIGHT), (0, 0, frame(9, 9)), comment=b"x" * 600), PIXELS),
    "gif without a screen": (gif((0, 0), (0, 0, frame(HEIGHT, WIDTH))), PIXELS),
    "gif that leaves its screen": (gif((WIDTH, 9), (0, 20, frame(HEIGHT - 20, 9))), PIXELS),
    "gif of later frames": (gif((WIDTH, HEIGHT), *[(0, 0, frame(HEIGHT, WIDTH))] * 5), PIXELS),
    "gif of enormous later frames": (
        gif((WIDTH, HEIGHT), (0, 0, frame(9, 9)), (0, 0, frame(1, 60000)), (0, 0, frame(60000, 1))),
        PIXELS,
    ),
    "webp": (photo("WEBP"), PIXELS),
    "webp without loss": (photo("WEBP", lossless=True), PIXELS),
    "webp with a profile": (photo("WEBP", icc_profile=b"x" * 20), PIXELS),
}


@pytest.fixture(scope="module")
def decode():
    function = tf.function(
        lambda files: decode_batch(files, SIZE), input_signature=[tf.TensorSpec([None], tf.string)]
    )

    def decode(files):
        images, decoded = function(tf.constant(files, tf.string))
        assert images.shape == (len(files) or 1, *SIZE, 3) and images.dtype == tf.float32
        return images.numpy(), decoded.numpy().tolist()

    return decode


def test_others_of_a_batch_are_decoded_in_order(tf_test, decode):
    """More images than are decoded at once, good and bad in turns."""
    good, sizes = zip(*hostile_images.readable().values(), strict=True)
    bad = list(hostile_images.unreadable().values())
    files = [contents for pair in zip(good, bad, strict=False) for contents in pair]
    assert len(files) == 2 * len(good) > 3 * PARALLEL_IMAGES
    images, decoded = decode(files)
    assert decoded == [True, False] * len(good)
    for image, contents, size in zip(images[::2], good, sizes, strict=True):
        pixels = decode_image(contents)
        assert tuple(pixels.shape) == (*size, 3)
        tf_test.assertAllEqual(image, warp_image(pixels, SIZE))
        assert image.max() > 30
    dark = images[2 * list(hostile_images.readable()).index("gif animation")]
    assert dark.max() < 50
    assert not images[1::2].any()
    rest = bad[len(good) :]
    images, decoded = decode(rest)
    assert decoded == [False] * len(rest) and rest and not images.any()


def test_no_images(decode):
    images, decoded = decode([])
    assert decoded == [] and not images.any()


def test_an_enormous_image(tf_test, decode):
    images, decoded = decode([hostile_images.enormous()])
    assert decoded == [True]
    tf_test.assertAllClose(images[0, 10, 20], [200, 30, 30], rtol=1e-7, atol=3)


@functools.cache
def limited(limit):
    """The graph of a limit."""
    spec = tf.TensorSpec([], tf.string)
    return tf.function(lambda contents: limit_pixels(contents, limit), input_signature=[spec])


def passes(contents, limit):
    try:
        assert limited(limit)(tf.constant(contents)).numpy() == contents
    except tf.errors.InvalidArgumentError as error:
        assert "more pixels than the limit" in str(error)
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_the_limit_is_exact(name):
    contents, pixels = FILES[name]
    assert passes(contents, pixels)
    assert not passes(contents, pixels - 1)
    # What is counted is what is decoded.
    height, width, _ = decode_image(contents).shape
    assert height * width == pixels


@pytest.mark.parametrize(
    ("kind", "size"), [(b"VP8 ", (16383, 16383)), (b"VP8L", (16384, 16384)), (b"VP8X", (2**24, 2**24))]
)
def test_the_largest_sizes_of_webp(kind, size):
    width, height = size
    assert passes(webp(kind, size), width * height)
    assert not passes(webp(kind, size), width * height - 1)
    assert passes(webp(kind, (200, 30)), 6000)
    assert not passes(webp(kind, (200, 30)), 5999)


def test_other_files_are_left_to_the_decoder():
    for contents in (b"", b"no image", b"GIF", b"GIF89a", b"\x89PNG\r\n\x1a\n", FILES["gif"][0][:40]):
        assert passes(contents, PIXELS)


def test_sizes_of_a_png_do_not_overflow():
    png = FILES["png"][0]
    assert not passes(png[:16] + b"\xff" * 8 + png[24:], 2**29)


def test_a_gif_of_endless_blocks_is_refused(monkeypatch):
    """Each block costs time, so their number is limited as well."""
    monkeypatch.setattr(image_formats, "MAX_GIF_BLOCKS", 100)
    start, image = b"GIF89a\1\0\1\0\0\0\0!\xfe", gif((1, 1), (0, 0, frame(1, 1)))[13:]
    assert gif_size(start + b"\x01x" * 80 + b"\0" + image).numpy().tolist() == [1, 1]
    assert gif_size(start + b"\x01x" * 110 + b"\0" + image).numpy().tolist() == [0, 0]
    full = bytes([255]) + b"x" * 255
    assert gif_size(start + full * 2000 + b"\0" + image).numpy().tolist() == [1, 1]


def test_larger_files_are_answered_like_files_that_are_no_images():
    names = [*FILES, "bmp"]
    contents = [contents for contents, _ in FILES.values()] + [photo("BMP")]
    _, decoded = decode_batch(tf.constant(contents), (32, 32), PIXELS)
    assert decoded.numpy().all()
    _, decoded = decode_batch(tf.constant(contents), (32, 32), PIXELS - 1)
    expected = {**dict.fromkeys(names, False), "bmp": True}
    assert dict(zip(names, decoded.numpy().tolist(), strict=True)) == expected
