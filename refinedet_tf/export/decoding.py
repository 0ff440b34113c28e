"""A batch of image files of any sizes to the network's input, inside a graph."""

import tensorflow as tf

from refinedet_tf.data.images import decode_image, warp_image

PARALLEL_IMAGES = 4
"""Images of one batch that are decoded at once. It bounds the memory that a hostile batch can take: a PNG or
GIF of some hundred kilobytes may hold 2^29 pixels, 1.6 GB, where TensorFlow's decoders stop."""


def decode_batch(image_bytes, size):
    """Decodes and warps image files; a file that is no image costs the others nothing.

    A graph has no `try`, but tf.data can drop an element that failed: each file is a dataset of its own,
    followed by a blank, of which the first element left is taken.

    Args:
        image_bytes: string [N], whole files, as `decode_image` takes them.
        size: (height, width) in pixels, what the images are warped to.

    Returns:
        images float32 [N, height, width, 3], RGB 0..255, zeros where the file cannot be decoded, and
        decoded bool [N].
    """
    blank = tf.data.Dataset.from_tensors((tf.zeros([*size, 3]), False))

    def decode(contents):
        return warp_image(decode_image(contents), size), True

    def decode_or_blank(contents):
        tried = tf.data.Dataset.from_tensors(contents).map(decode).ignore_errors()
        return tried.concatenate(blank).take(1).get_single_element()

    rows = tf.data.Dataset.from_tensor_slices(image_bytes)
    rows = rows.map(decode_or_blank, num_parallel_calls=PARALLEL_IMAGES, deterministic=True)
    # A batch of no images would be no element at all, hence one more row.
    count = tf.shape(image_bytes)[0]
    images, decoded = rows.concatenate(blank).batch(tf.cast(count, tf.int64) + 1).get_single_element()
    images = tf.ensure_shape(images, [None, *size, 3])
    return images[:count], decoded[:count]
