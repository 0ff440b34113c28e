"""Reading and decoding of image files, and the plain warp to the network's size."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from refinedet_tf.errors import InputError
from refinedet_tf.tensors import Tensor

_GRAY_PALETTE = bytes(value for gray in range(256) for value in (gray, gray, gray, 0))
_BMP_HEADER = 54
"""The bytes of a BMP's file header (14) and of its usual information header (40); the palette follows."""
_END_OF_JPEG = b"\xff\xd9"
_JPEG_MARGIN = 2
"""libjpeg interpolates the colours of a column from its neighbours, so that the outermost columns of a part
differ from those of the whole image. The margin is more than they need."""


def decode_image(contents: Tensor) -> tf.Tensor:
    """Decodes one image file.

    The pixels are those stored: the EXIF orientation tag is NOT applied, because the boxes of an
    annotation file refer to the stored raster, not to what a viewer shows. A JPEG is decoded as libjpeg
    does it by default, so the pixels are those of OpenCV and Pillow, except for CMYK.

    Args:
        contents: string scalar, the bytes of a JPEG (also grayscale or CMYK), PNG (also with 16 bits,
            a palette or an alpha channel, which is dropped), BMP or GIF (the first frame). The format
            is read from the bytes; the extension of the file does not matter.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such an image, are truncated, or are a BMP
            with a colour palette (TensorFlow would take the palette's indices for grey values).
    """
    with tf.control_dependencies([_assert_no_color_palette(contents)]):
        image = tf.cond(
            tf.io.is_jpeg(contents),
            # `tf.io.decode_image` would take the fast cosine transform, whose error is up to 8 grey values.
            lambda: tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
        )
    return tf.ensure_shape(image, [None, None, 3])


def decode_annotated(contents: Tensor, image_size: Tensor) -> tf.Tensor:
    """Decodes one image file whose size an annotation states.

    Args:
        contents: string scalar, as `decode_image` takes it.
        image_size: int32 [2], height and width of the image in pixels, as the annotation states them.

    Returns:
        uint8 [H, W, 3], RGB, the pixels of `decode_image`.

    Raises:
        tf.errors.InvalidArgumentError: the reasons of `decode_image`; or the image has another size.
    """
    image = decode_image(contents)
    with tf.control_dependencies([_assert_size(tf.shape(image)[:2], image_size)]):
        return tf.identity(image)


def decode_window(contents: Tensor, window: Tensor, image_size: Tensor) -> tf.Tensor:
    """Decodes the part of an image file that a window shows.

    Of a JPEG only that part is decoded, which takes less time. A file that is cut off before its end is
    decoded whole, so that it is refused whatever the window shows.

    Args:
        contents: string scalar, as `decode_image` takes it.
        window: int32 [4], the rows and columns (ymin, xmin, ymax, xmax), not empty, within the image.
        image_size: int32 [2], height and width of the image in pixels, as the annotation states them.

    Returns:
        uint8 [ymax - ymin, xmax - xmin, 3], RGB, the pixels of `decode_image`.

    Raises:
        tf.errors.InvalidArgumentError: the reasons are those of `decode_annotated`.
    """
    is_complete_jpeg = tf.logical_and(
        tf.io.is_jpeg(contents), tf.equal(tf.strings.substr(contents, -2, 2), _END_OF_JPEG)
    )
    ymin, xmin, ymax, xmax = tf.unstack(window)

    def decode_part() -> tf.Tensor:
        size = tf.io.extract_jpeg_shape(contents)[:2]
        left, right = tf.maximum(xmin - _JPEG_MARGIN, 0), tf.minimum(xmax + _JPEG_MARGIN, image_size[1])
        with tf.control_dependencies([_assert_size(size, image_size)]):
            part = tf.stack([ymin, left, ymax - ymin, right - left])
        columns = tf.io.decode_and_crop_jpeg(contents, part, channels=3, dct_method="INTEGER_ACCURATE")
        return columns[:, xmin - left : xmax - left]

    def cut_from_whole() -> tf.Tensor:
        return decode_annotated(contents, image_size)[ymin:ymax, xmin:xmax]

    return tf.ensure_shape(tf.cond(is_complete_jpeg, decode_part, cut_from_whole), [None, None, 3])


def _assert_size(size: Tensor, annotated_size: Tensor) -> tf.Operation:
    message = ["the annotation's image size (height, width)", annotated_size, "is not that of the file", size]
    return tf.debugging.Assert(tf.reduce_all(size == annotated_size), message)


def read_image(path: str, annotated_size: Sequence[int] | np.ndarray) -> np.ndarray:
    """Reads an image file and checks it as training needs it.

    Args:
        path: the file.
        annotated_size: height and width in pixels, as the annotation states them.

    Returns:
        uint8 [H, W, 3], RGB, decoded by `decode_image`.

    Raises:
        InputError: the file does not exist, cannot be read or decoded, or has another size.
    """
    try:
        contents = tf.io.read_file(os.fsencode(path))
    except tf.errors.NotFoundError:
        raise InputError(
            f"image {path} does not exist (any more); restore it, or index the data again"
        ) from None
    except tf.errors.OpError as error:
        raise InputError(f"image {path} cannot be read: {error.message}") from None
    try:
        image = decode_image(contents).numpy()
    except tf.errors.OpError as error:
        reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0]
        raise InputError(
            f"image {path} cannot be decoded: it is truncated, broken, or not a JPEG, PNG, BMP or "
            f"GIF image ({reason})"
        ) from None
    height, width, _ = image.shape
    if (height, width) != tuple(annotated_size):
        raise InputError(
            f"image {path}: the annotation says {annotated_size[1]}x{annotated_size[0]} (width x height), "
            f"the file is {width}x{height}"
        )
    return image


def _assert_no_color_palette(contents: Tensor) -> tf.Operation:
    length = tf.strings.length(contents)
    has_palette = tf.logical_and(length > _BMP_HEADER, tf.strings.substr(contents, 0, 2) == b"BM")

    def is_gray() -> tf.Tensor:
        bits = tf.strings.substr(contents, 28, 2)
        palette = tf.strings.substr(contents, _BMP_HEADER, len(_GRAY_PALETTE))
        return tf.logical_or(bits != b"\x08\x00", palette == _GRAY_PALETTE)

    readable = tf.cond(has_palette, is_gray, lambda: True)
    return tf.debugging.Assert(readable, ["BMP images with a colour palette are not supported"])


def warp_image(image: Tensor, size: Sequence[int]) -> tf.Tensor:
    """Warps a whole image to `size`; the aspect ratio is not kept (paper, section 3.4).

    The interpolation is bilinear with half-pixel centres and without anti-aliasing. It equals OpenCV's
    INTER_LINEAR, which the authors' test code uses.

    Args:
        image: uint8 or float32 [H, W, 3], or a batch [N, H, W, 3], 0..255.
        size: (height, width) in pixels.

    Returns:
        float32 [height, width, 3], or [N, height, width, 3], 0..255, not rounded.
    """
    return tf.image.resize(image, size, method="bilinear", antialias=False)
