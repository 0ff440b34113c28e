"""Numbers in the bytes of a file, read inside a graph."""

import tensorflow as tf

from refinedet_tf.tensors import Tensor

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""

EXIF = b"Exif\0\0"
"""The bytes before the EXIF data in a JPEG, and sometimes in other files."""

rare_function = tf.function(
    input_signature=[tf.TensorSpec([], tf.string)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
"""Compiles a function of the bytes of a file once per process. Where few files need it, it is no part of the
graph that calls it, which would have to be traced and passed for every file."""


def octets(contents: Tensor, position: Tensor | int, count: int) -> tf.Tensor:
    """Returns `count` bytes from `position` on: int32 [count], 0..255, zeros where the file has ended.

    Args:
        contents: string scalar.
        position: int32 scalar, at least 0.
        count: the number of bytes, at least 1.
    """
    start = tf.minimum(position, tf.strings.length(contents))
    part = tf.io.decode_raw(tf.strings.substr(contents, start, count), tf.uint8, fixed_length=count)
    return tf.cast(part, tf.int32)


def number(values: Tensor, big_endian: bool | Tensor = False) -> tf.Tensor:
    """Returns the whole number that bytes spell: int64 [...] for int32 [..., n], n from 1 to 4."""
    places = [256**place for place in range(values.shape[-1])]
    factors = tf.where(big_endian, tf.constant(places[::-1], tf.int64), tf.constant(places, tf.int64))
    return tf.reduce_sum(tf.cast(values, tf.int64) * factors, axis=-1)


def is_at(contents: Tensor, position: int, text: bytes) -> tf.Tensor:
    """Says whether the bytes at a position are `text`: bool scalar."""
    start = tf.minimum(position, tf.strings.length(contents)) if position else 0
    return tf.strings.substr(contents, start, len(text)) == text
