"""Decoding of a batch of image files to the network's input, inside a graph."""

import tensorflow as tf

from refinedet_tf.data.image_header import MAX_PIXELS
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.exports.image_headers import limit_pixels
from refinedet_tf.tensors import Tensor

PARALLEL_IMAGES = 4
"""The number of images of a batch that are decoded at once. Together with the limit of pixels it bounds the
memory that a hostile batch can take: a PNG of some hundred kilobytes may hold 2^29 pixels (1.6 GB), and a
WebP of 34 bytes may claim 2^28."""


def decode_batch(
    image_bytes: Tensor, size: tuple[int, int], max_pixels: int = MAX_PIXELS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and warps image files; a file that cannot be decoded does not affect the others.

    A graph has no `try`, but tf.data can drop an element that failed. So each file becomes a dataset of
    one element, to which a blank is appended, and the first remaining element is taken.

    Args:
        image_bytes: string [N], whole files, as `decode_image` takes them.
        size: (height, width) in pixels to which the images are warped.
        max_pixels: the largest number of pixels of an image. A file with more is not decoded.

    Returns:
        Images float32 [N, height, width, 3], RGB 0..255, zeros if the file cannot be decoded, and
        bool [N], whether the file was decoded.
    """
    blank = tf.data.Dataset.from_tensors((tf.zeros([*size, 3]), False))

    def decode(contents: tf.Tensor) -> tuple[tf.Tensor, bool]:
        return warp_image(decode_image(limit_pixels(contents, max_pixels)), size), True

    def decode_or_blank(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tried = tf.data.Dataset.from_tensors(contents).map(decode).ignore_errors()
        return tried.concatenate(blank).take(1).get_single_element()

    rows = tf.data.Dataset.from_tensor_slices(image_bytes)
    rows = rows.map(decode_or_blank, num_parallel_calls=PARALLEL_IMAGES, deterministic=True)
    # A dataset without rows has no batch at all, so one row is added for the case of no images.
    count = tf.shape(image_bytes)[0]
    images, decoded = rows.concatenate(blank).batch(tf.cast(count, tf.int64) + 1).get_single_element()
    images = tf.ensure_shape(images, [None, *size, 3])
    return images[:count], decoded[:count]
