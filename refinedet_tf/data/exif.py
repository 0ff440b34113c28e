"""The EXIF orientation of an image file, inside a graph: reading it from the bytes, and turning pixels by it.

The upright image is the stored raster, with its rows or columns in reverse order for some orientations, and
transposed if the sides are swapped.
"""

from collections.abc import Callable

import tensorflow as tf

from refinedet_tf.data.file_bytes import EXIF, PNG_SIGNATURE, is_at, number, octets, rare_function
from refinedet_tf.tensors import Tensor

MAX_BLOCKS = 1000
"""The number of blocks of a file that are looked at before the one with the EXIF data."""

_ENTRY_BYTES = 12
"""The bytes of an entry: tag (2), type (2), count (4) and value (4)."""
_TAG, _SHORT = 0x0112, 3
"""The tag of the orientation, and the type of a number of two bytes."""

Block = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""A block of a file, as int32 scalars: the start and the length of the EXIF data in it, zeros if it holds
none; and the start of the next block, 0 if the search ends here."""

_ROWS_REVERSED = [orientation in (3, 4, 6, 7) for orientation in range(9)]
_COLUMNS_REVERSED = [orientation in (2, 3, 7, 8) for orientation in range(9)]
_SWAPS_SIDES = 5
"""This orientation and all above it swap the sides."""


def read_orientation(contents: Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of an image file.

    It is looked for in the application data at the start of a JPEG, in a chunk eXIf before the pixels of a
    PNG, and in the chunk EXIF of a WebP. Other metadata, such as XMP, is ignored, as browsers ignore it.

    `contents` is a string scalar, the bytes of any file.

    Returns:
        int32 scalar, 1..8: 1 is upright, 3 is upside down, 6 is to be turned by 90 degrees clockwise; 5 to 8
        swap the sides. It is 1 where there is no EXIF data, or no valid orientation in it.
    """
    # Most JPEGs begin with the segment JFIF of 18 bytes and a table, so that there is nothing to look for.
    is_plain_jpeg = is_at(contents, 0, b"\xff\xd8\xff\xe0\0\x10") & is_at(contents, 20, b"\xff\xdb")
    return tf.cond(is_plain_jpeg, lambda: tf.constant(1), lambda: _search(contents))


def upright_size(raster_size: Tensor, orientation: Tensor) -> tf.Tensor:
    """Returns height and width of the upright image, int32 [2], for those of the raster."""
    return tf.where(orientation >= _SWAPS_SIDES, raster_size[::-1], raster_size)


def turn_upright(raster: tf.Tensor, orientation: Tensor) -> tf.Tensor:
    """Turns stored pixels [h, w, 3], or a window of them, upright: [H, W, 3]."""

    def turned() -> tf.Tensor:
        row_step = tf.where(tf.gather(_ROWS_REVERSED, orientation), -1, 1)
        column_step = tf.where(tf.gather(_COLUMNS_REVERSED, orientation), -1, 1)
        axes = tf.where(orientation >= _SWAPS_SIDES, [1, 0, 2], [0, 1, 2])
        return tf.transpose(raster[::row_step, ::column_step], axes)

    return tf.ensure_shape(tf.cond(orientation > 1, turned, lambda: raster), [None, None, 3])


def window_of_raster(window: Tensor, raster_size: Tensor, orientation: Tensor) -> tf.Tensor:
    """Finds the part of the raster that `turn_upright` makes the given part of the upright image.

    Both are int32 [4], the rows and columns (ymin, xmin, ymax, xmax).
    """

    def turned() -> tf.Tensor:
        order = tf.where(orientation >= _SWAPS_SIDES, [1, 0, 3, 2], [0, 1, 2, 3])
        ymin, xmin, ymax, xmax = tf.unstack(tf.gather(window, order))
        height, width = tf.unstack(raster_size)
        rows = tf.gather(_ROWS_REVERSED, orientation)
        columns = tf.gather(_COLUMNS_REVERSED, orientation)
        ymin, ymax = tf.where(rows, height - ymax, ymin), tf.where(rows, height - ymin, ymax)
        xmin, xmax = tf.where(columns, width - xmax, xmin), tf.where(columns, width - xmin, xmax)
        return tf.stack([ymin, xmin, ymax, xmax])

    return tf.cond(orientation > 1, turned, lambda: window)


@rare_function
def _search(contents: Tensor) -> tf.Tensor:
    """Reads the orientation of any file."""
    nothing = tf.constant(0), tf.constant(0)
    start, length = tf.case(
        [
            (tf.io.is_jpeg(contents), lambda: _find(contents, 2, _jpeg_segment)),
            (is_at(contents, 0, PNG_SIGNATURE), lambda: _find(contents, 8, _png_chunk)),
            (_is_webp_with_exif(contents), lambda: _find(contents, 12, _webp_chunk)),
        ],
        default=lambda: nothing,
    )
    return tf.cond(length > 0, lambda: _orientation(tf.strings.substr(contents, start, length)), lambda: 1)


def _find(
    contents: Tensor, first: int, block_at: Callable[[Tensor, tf.Tensor], Block]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Follows the blocks of a file from `first` on; returns the start and the length of the EXIF data."""
    start, length, _ = tf.while_loop(
        lambda start, length, position: position > 0,
        lambda start, length, position: block_at(contents, position),
        (tf.constant(0), tf.constant(0), tf.constant(first)),
        maximum_iterations=MAX_BLOCKS,
    )
    return start, length


def _jpeg_segment(contents: Tensor, position: tf.Tensor) -> Block:
    """Reads a segment: 255, marker, and a length that counts itself. Bytes of 255 may stand before it."""
    head = octets(contents, position, 10)
    marker, size = head[1], number(head[2:4], big_endian=True)
    # The application data and comments stand before all tables and pixels.
    is_segment = (head[0] == 255) & ((marker >= 0xE0) & (marker <= 0xEF) | (marker >= 0xFE))
    is_exif = is_segment & (marker == 0xE1) & tf.reduce_all(head[4:] == list(EXIF))
    step = tf.where(marker < 255, 2 + size, 1)
    return _block(contents, position, 4, size - 2, step, is_exif, is_segment)


def _png_chunk(contents: Tensor, position: tf.Tensor) -> Block:
    """Reads a chunk: the length of its data, a name of four bytes, the data, and a checksum."""
    head = octets(contents, position, 8)
    size, name = number(head[:4], big_endian=True), number(head[4:])
    goes_on = (name != _name(b"IDAT")) & (name != _name(b"IEND")) & (name > 0)
    return _block(contents, position, 8, size, 12 + size, name == _name(b"eXIf"), goes_on)


def _webp_chunk(contents: Tensor, position: tf.Tensor) -> Block:
    """Reads a chunk: a name of four bytes, the length of its data, and the data, filled to an even length."""
    head = octets(contents, position, 8)
    name, size = number(head[:4]), number(head[4:])
    return _block(contents, position, 8, size, 8 + size + size % 2, name == _name(b"EXIF"), name > 0)


def _block(
    contents: Tensor,
    position: tf.Tensor,
    header_bytes: int,
    size: tf.Tensor,
    step: tf.Tensor,
    is_exif: tf.Tensor,
    goes_on: tf.Tensor,
) -> Block:
    """Describes a block whose data and whose successor lie where its header, int64 numbers, claims."""
    length = tf.cast(tf.strings.length(contents), tf.int64)
    start = tf.cast(position, tf.int64)
    data_end, next_start = (
        tf.cast(tf.minimum(place, length), tf.int32) for place in (start + header_bytes + size, start + step)
    )
    data_start = position + header_bytes
    return (
        tf.where(is_exif, data_start, 0),
        tf.where(is_exif, data_end - data_start, 0),
        tf.where(goes_on & ~is_exif, next_start, 0),
    )


def _name(text: bytes) -> int:
    return int.from_bytes(text, "little")


def _is_webp_with_exif(contents: Tensor) -> tf.Tensor:
    has_exif = tf.bitwise.bitwise_and(octets(contents, 20, 1)[0], 8) > 0
    return is_at(contents, 0, b"RIFF") & is_at(contents, 8, b"WEBPVP8X") & has_exif


def _orientation(data: Tensor) -> tf.Tensor:
    """Reads the orientation from EXIF data: string scalar, a TIFF header and a list of entries."""
    tiff = tf.strings.substr(data, tf.where(is_at(data, 0, EXIF), len(EXIF), 0), tf.strings.length(data))
    is_big = is_at(tiff, 0, b"MM\0*")
    is_tiff = is_big | is_at(tiff, 0, b"II*\0")
    length = tf.cast(tf.strings.length(tiff), tf.int64)
    start = tf.cast(tf.minimum(number(octets(tiff, 4, 4), is_big), length), tf.int32)
    count = tf.cast(number(octets(tiff, start, 2), is_big), tf.int32)
    first = tf.minimum(start + 2, tf.strings.length(tiff))
    raw = tf.io.decode_raw(tf.strings.substr(tiff, first, _ENTRY_BYTES * count), tf.uint8)
    whole = tf.size(raw) // _ENTRY_BYTES
    entries = tf.cast(tf.reshape(raw[: whole * _ENTRY_BYTES], [whole, _ENTRY_BYTES]), tf.int32)
    tags, kinds = number(entries[:, :2], is_big), number(entries[:, 2:4], is_big)
    counts, values = number(entries[:, 4:8], is_big), number(entries[:, 8:10], is_big)
    valid = tf.where((kinds == _SHORT) & (counts == 1) & (values >= 1) & (values <= 8), values, 1)
    first = tf.concat([valid[tags == _TAG], [1]], axis=0)[0]
    return tf.cast(tf.where(is_tiff, first, 1), tf.int32)
