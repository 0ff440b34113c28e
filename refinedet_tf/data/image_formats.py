"""The formats whose files TensorFlow's decoders read in part only, or in another way than other programs.

All functions take the bytes of a whole file of their format, string scalar, inside a graph or outside.
"""

import tensorflow as tf

from refinedet_tf.data.file_bytes import is_at, number, octets
from refinedet_tf.data.image_header import ANIMATED_WEBP
from refinedet_tf.tensors import Tensor

UNKNOWN_BMP = "it is a BMP of other than 8, 24 or 32 bits per pixel, or a compressed one"

MAX_GIF_BLOCKS = 100_000
"""The number of blocks of a GIF in which the end of its first frame is looked for."""

_BMP_FILE_HEADER = 14
_BGR_MASKS = b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"
_GIF_HEADER, _GIF_FRAME, _GIF_EXTENSION = 13, 0x2C, 0x21
_BLOCK = 256
"""The bytes of a block with as much data as it can have, of which the data of a frame usually consists."""


def decode_bmp(contents: Tensor) -> tf.Tensor:
    """Decodes a BMP of 24 or 32 bits per pixel, or of 8 bits and a palette: uint8 [H, W, 3], RGB.

    Bytes after the pixels are ignored; TensorFlow's decoder refuses them. It also takes the indices of a
    palette for grey values, so that the palette is applied here.

    Raises:
        tf.errors.InvalidArgumentError: the file is cut off, or is another kind of BMP.
    """
    head = octets(contents, 0, 34)
    pixels_start, info_bytes, width = (number(head[place : place + 4]) for place in (10, 14, 18))
    # Images whose first row is the uppermost have a negative height.
    height = tf.abs(tf.cast(tf.bitcast(tf.cast(head[22:26], tf.uint8), tf.int32), tf.int64))
    bits, compression = number(head[28:30]), number(head[30:34])
    is_plain = (compression == 0) & ((bits == 8) | (bits == 24) | (bits == 32))
    has_usual_masks = (compression == 3) & (bits == 32) & is_at(contents, 54, _BGR_MASKS)
    is_known = (info_bytes >= 40) & (is_plain | has_usual_masks)
    # The limit lies above all sizes that can be decoded; the product of two invalid sides must not overflow.
    row_bytes = (tf.minimum(width, 2**28) * (bits // 8) + 3) // 4 * 4
    file_bytes = tf.minimum(pixels_start + row_bytes * height, 2**31 - 1)
    with tf.control_dependencies([tf.debugging.Assert(is_known, [UNKNOWN_BMP])]):
        whole = tf.strings.substr(contents, 0, tf.cast(file_bytes, tf.int32))
    pixels = tf.image.decode_bmp(whole, channels=3)

    def apply_palette() -> tf.Tensor:
        """The palette has four bytes per colour: blue, green, red and one without a meaning."""
        start = _BMP_FILE_HEADER + tf.cast(tf.minimum(info_bytes, 2**30), tf.int32)
        palette = tf.cast(tf.reshape(octets(contents, start, 4 * 256), [256, 4])[:, 2::-1], tf.uint8)
        return tf.gather(palette, tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(bits == 8, apply_palette, lambda: pixels)


def decode_webp(contents: Tensor) -> tf.Tensor:
    """Decodes a WebP without animation: uint8 [H, W, 3], RGB. An alpha channel is dropped.

    Raises:
        tf.errors.InvalidArgumentError: the file is animated, cut off or damaged.
    """
    is_animated = is_at(contents, 12, b"VP8X") & (tf.bitwise.bitwise_and(octets(contents, 20, 1)[0], 2) > 0)
    has_known_start = tf.reduce_any([is_at(contents, 12, name) for name in (b"VP8 ", b"VP8L", b"VP8X")])
    # TensorFlow's decoder writes beyond its buffer for an animation, so that none may reach it.
    still = tf.where(is_animated | ~has_known_start, b"", contents)
    with tf.control_dependencies([tf.debugging.Assert(~is_animated, [ANIMATED_WEBP])]):
        still = tf.identity(still)
    # The number of channels must be left open, since it has to be that of the file.
    return tf.io.decode_image(still, channels=0, expand_animations=False)[..., :3]


def webp_size(contents: Tensor) -> tf.Tensor:
    """Reads the height and width of a WebP: int64 [2], what its decoder allocates; 0 for unknown kinds."""
    head = octets(contents, 20, 10)
    # VP8X: two sides of three bytes, less 1, after four bytes. VP8L: two of 14 bits, less 1, after a byte.
    # VP8: two of 14 bits, after six bytes.
    extended = number(tf.reshape(head[4:10], [2, 3])) + 1
    bits = number(head[1:5])
    lossless = tf.stack([bits % 2**14, bits // 2**14 % 2**14]) + 1
    lossy = number(tf.reshape(head[6:10], [2, 2])) % 2**14
    kinds = ((b"VP8X", extended), (b"VP8L", lossless), (b"VP8 ", lossy))
    return tf.add_n([tf.where(is_at(contents, 12, name), size, 0) for name, size in kinds])[::-1]


def decode_gif(contents: Tensor) -> tf.Tensor:
    """Decodes the first frame of a GIF, on the screen of the file: uint8 [H, W, 3], RGB.

    The screen is black where the frame leaves it free. Other frames are not decoded, and cost no memory.

    Raises:
        tf.errors.InvalidArgumentError: the first frame is cut off, damaged or missing.
    """
    frame, end = _first_gif_frame(contents)
    # A frame at the corner is decoded without its surroundings.
    parts = [
        tf.strings.substr(contents, 0, frame + 1),
        b"\0\0\0\0",
        tf.strings.substr(contents, tf.minimum(frame + 5, end), tf.maximum(end - frame - 5, 0)),
        b";",
    ]
    pixels = tf.image.decode_gif(tf.strings.join(parts))[0]
    height, width = tf.unstack(tf.cast(_gif_size(contents, frame), tf.int32))
    left, top = tf.unstack(tf.cast(_pairs(contents, frame + 1, 2), tf.int32))
    shape = tf.shape(pixels)
    return tf.pad(pixels, [[top, height - top - shape[0]], [left, width - left - shape[1]], [0, 0]])


def gif_size(contents: Tensor) -> tf.Tensor:
    """Reads the height and width of the image that `decode_gif` returns: int64 [2], 0 if there is none."""
    frame, end = _first_gif_frame(contents)
    return tf.where(end > 0, _gif_size(contents, frame), 0)


def _gif_size(contents: Tensor, frame: tf.Tensor) -> tf.Tensor:
    """Returns height and width of the screen, which is enlarged where the frame at `frame` leaves it."""
    place_and_sides = _pairs(contents, frame + 1, 4)
    return tf.maximum(_pairs(contents, 6, 2), place_and_sides[:2] + place_and_sides[2:])[::-1]


def _first_gif_frame(contents: Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the first frame: int32 scalars, its start and the end of its data; zeros if it is not whole."""
    length = tf.strings.length(contents)
    values = tf.io.decode_raw(contents, tf.uint8)

    def goes_on(position: tf.Tensor, in_data: tf.Tensor, frame: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        return (position < length) & (end == 0)

    def next_block(
        position: tf.Tensor, in_data: tf.Tensor, frame: tf.Tensor, end: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        head = octets(contents, position, 10)
        is_frame = ~in_data & (head[0] == _GIF_FRAME)
        is_known = in_data | is_frame | (head[0] == _GIF_EXTENSION)
        # A block of data states its length, and 0 ends the data. Full blocks are passed many at a time.
        sizes = values[position : position + _BLOCK * _BLOCK : _BLOCK]
        full = tf.reduce_sum(tf.math.cumprod(tf.cast(sizes == _BLOCK - 1, tf.int32)))
        last = position + _BLOCK * full
        size = octets(contents, last, 1)[0]
        ends = in_data & (size == 0) & (last < length)
        # The palette of a frame and a byte for the size of the codes come before its data.
        after_header = position + tf.where(is_frame, 11 + _palette_bytes(head[9]), 2)
        following = tf.where(in_data, last + 1 + size, after_header)
        frame = tf.where(is_frame, position, frame)
        end = tf.where(ends & (frame > 0), last + 1, 0)
        return tf.where(is_known, following, length), ~ends, frame, end

    start = _GIF_HEADER + _palette_bytes(octets(contents, 10, 1)[0])
    state = (start, tf.constant(False), tf.constant(0), tf.constant(0))
    _, _, frame, end = tf.while_loop(goes_on, next_block, state, maximum_iterations=MAX_GIF_BLOCKS)
    return tf.where(end > 0, frame, 0), end


def _palette_bytes(flags: tf.Tensor) -> tf.Tensor:
    return tf.where(flags >= 0x80, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def _pairs(contents: Tensor, position: Tensor | int, count: int) -> tf.Tensor:
    """Reads numbers of two bytes: int64 [count]."""
    return number(tf.reshape(octets(contents, position, 2 * count), [count, 2]))
