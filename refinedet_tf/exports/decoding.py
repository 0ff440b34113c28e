"""Decoding of a batch of image files to the network's input, inside a graph, up to a limit of pixels."""

import tensorflow as tf

from refinedet_tf.data.file_bytes import PNG_SIGNATURE, is_at, number, octets
from refinedet_tf.data.image_formats import gif_size, webp_size
from refinedet_tf.data.image_header import MAX_PIXELS
from refinedet_tf.data.images import decode_image, warp_image
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
        Images float32 [max(N, 1), height, width, 3], RGB 0..255, zeros if the file cannot be decoded, and
        bool [N], whether the file was decoded. Without files there is one image of zeros, because the
        convolutions of oneDNN give an empty batch a wrong shape.
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
    return images[: tf.maximum(count, 1)], decoded[:count]


def limit_pixels(contents: Tensor, max_pixels: int) -> tf.Tensor:
    """Returns `contents` if the image in the file has, by its header, at most `max_pixels` pixels.

    Of a GIF, the first frame counts with the screen around it, since `decode_image` decodes no other. A BMP
    is not looked at: it has no compression, so that its size is that of its pixels.

    Args:
        contents: string scalar, a whole file, as `decode_image` takes it.
        max_pixels: the limit.

    Raises:
        tf.errors.InvalidArgumentError: the image has more, or is a damaged JPEG.
    """
    size = tf.case(
        [
            (tf.io.is_jpeg(contents), lambda: _jpeg_size(contents)),
            (is_at(contents, 0, PNG_SIGNATURE), lambda: _png_size(contents)),
            (is_at(contents, 0, b"GIF"), lambda: gif_size(contents)),
            (is_at(contents, 0, b"RIFF"), lambda: webp_size(contents)),
        ],
        default=lambda: tf.zeros([2], tf.int64),
    )
    message = ["the image has more pixels than the limit", max_pixels]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_prod(size) <= max_pixels, message)]):
        return tf.identity(contents)


def _jpeg_size(contents: Tensor) -> tf.Tensor:
    return tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64)


def _png_size(contents: Tensor) -> tf.Tensor:
    """The width and height follow the signature and the name of the first chunk, in four bytes each."""
    sides = number(tf.reshape(octets(contents, 16, 8), [2, 4]), big_endian=True)
    # No PNG has a longer side; the product of two that are invalid must not overflow.
    return tf.minimum(sides, 2**31 - 1)
