"""How many pixels decoding an image file would take memory for, read from its header inside a graph."""

import tensorflow as tf

from refinedet_tf.data.file_bytes import PNG_SIGNATURE, is_at, number, octets
from refinedet_tf.data.image_formats import gif_size, webp_size
from refinedet_tf.tensors import Tensor


def limit_pixels(contents: Tensor, max_pixels: int) -> tf.Tensor:
    """Returns `contents` if the image in the file has at most `max_pixels` pixels.

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
