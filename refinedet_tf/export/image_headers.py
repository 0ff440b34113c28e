"""How many pixels decoding an image file would take memory for, read from its headers inside a graph."""

import tensorflow as tf

from refinedet_tf.tensors import Tensor

MAX_GIF_BLOCKS = 100_000
"""The largest number of blocks of a GIF that are looked at; usual GIFs of this length have 25 MB."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GIF_HEADER, _GIF_FRAME, _GIF_EXTENSION = 13, 0x2C, 0x21


def limit_pixels(contents: Tensor, max_pixels: int) -> tf.Tensor:
    """Returns `contents` if the file holds at most `max_pixels` pixels.

    A BMP is not looked at: it has no compression, so that its size is that of its pixels.

    Args:
        contents: string scalar, a whole file, as `decode_image` takes it.
        max_pixels: the limit.

    Raises:
        tf.errors.InvalidArgumentError: the file holds more, or is a damaged JPEG.
    """
    is_png = tf.strings.substr(contents, 0, len(_PNG_SIGNATURE)) == _PNG_SIGNATURE
    is_gif = tf.strings.substr(contents, 0, 3) == b"GIF"
    pixels = tf.case(
        [
            (tf.io.is_jpeg(contents), lambda: _jpeg_pixels(contents)),
            (is_png, lambda: _png_pixels(contents)),
            (is_gif, lambda: _gif_pixels(contents, max_pixels)),
        ],
        default=lambda: tf.constant(0, tf.int64),
    )
    message = ["the image has more pixels than the limit", max_pixels]
    with tf.control_dependencies([tf.debugging.Assert(pixels <= max_pixels, message)]):
        return tf.identity(contents)


def _jpeg_pixels(contents: Tensor) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(contents, output_type=tf.int32)
    return tf.reduce_prod(tf.cast(shape[:2], tf.int64))


def _png_pixels(contents: Tensor) -> tf.Tensor:
    """The width and height follow the signature and the name of the first chunk, in four bytes each."""
    places = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    sides = tf.reduce_sum(tf.reshape(_octets(contents, 16, 8), [2, 4]) * places, axis=1)
    # No PNG has a longer side; the product of two that are invalid must not overflow.
    return tf.reduce_prod(tf.minimum(sides, 2**31 - 1))


def _gif_pixels(contents: Tensor, limit: int) -> tf.Tensor:
    """The pixels of all frames together, since TensorFlow decodes every frame before it drops all but one.

    The sizes stand in front of each frame, so the blocks have to be followed from the first to the last.
    """
    length = tf.cast(tf.strings.length(contents), tf.int64)

    def palette_bytes(flags: tf.Tensor) -> tf.Tensor:
        has_palette = flags >= 0x80
        bits = flags % 8
        return tf.where(has_palette, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), bits), 0)

    def goes_on(position: tf.Tensor, in_data: tf.Tensor, pixels: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
        return (position < length) & (pixels <= limit) & (blocks < MAX_GIF_BLOCKS)

    def next_block(
        position: tf.Tensor, in_data: tf.Tensor, pixels: tf.Tensor, blocks: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        octets = _octets(contents, position, 10)
        kind = octets[0]
        # A block of data states its length, and 0 ends the data; everything else states its kind.
        is_frame = ~in_data & (kind == _GIF_FRAME)
        is_known = in_data | is_frame | (kind == _GIF_EXTENSION)
        frame_pixels = (octets[5] + 256 * octets[6]) * (octets[7] + 256 * octets[8])
        step = tf.case(
            # The palette of a frame and a byte for the size of the codes come before its data.
            [(is_frame, lambda: 11 + palette_bytes(octets[9])), (in_data, lambda: 1 + kind)],
            default=lambda: tf.constant(2, tf.int64),
        )
        return (
            tf.where(is_known, position + step, length),
            tf.where(in_data, kind > 0, True),
            pixels + tf.where(is_frame, frame_pixels, 0),
            blocks + 1,
        )

    start = _GIF_HEADER + palette_bytes(_octets(contents, 10, 1)[0])
    _, _, pixels, blocks = tf.while_loop(
        goes_on, next_block, (start, tf.constant(False), tf.constant(0, tf.int64), tf.constant(0))
    )
    return tf.where(blocks < MAX_GIF_BLOCKS, pixels, tf.int64.max)


def _octets(contents: Tensor, position: Tensor | int, count: int) -> tf.Tensor:
    """`count` bytes as int64 [count], zeros where the file has ended."""
    start = tf.minimum(tf.cast(position, tf.int32), tf.strings.length(contents))
    padded = tf.strings.join([tf.strings.substr(contents, start, count), b"\0" * count])
    return tf.cast(tf.io.decode_raw(tf.strings.substr(padded, 0, count), tf.uint8), tf.int64)
