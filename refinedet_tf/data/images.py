"""Reading and decoding of image files to upright pixels, and the plain warp to the network's size."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.data.exif import read_orientation, turn_upright, upright_size, window_of_raster
from refinedet_tf.data.file_bytes import EXIF, PNG_SIGNATURE, is_at, rare_function
from refinedet_tf.data.image_formats import decode_bmp, decode_gif, decode_webp
from refinedet_tf.data.image_header import UNKNOWN_FORMAT
from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors, is_file
from refinedet_tf.tensors import Tensor

_JPEG_SIGNATURE, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_MARGIN = 2
"""libjpeg interpolates the colours of a column from its neighbours, so that the outermost columns of a part
differ from those of the whole image. The margin is more than they need."""


def decode_image(contents: Tensor) -> tf.Tensor:
    """Decodes one image file to the upright image that browsers show.

    The raster is turned as its EXIF orientation says (see `read_orientation`). A JPEG is decoded as libjpeg
    does it by default, so the pixels are those of OpenCV and Pillow, except for CMYK.

    Args:
        contents: string scalar, the bytes of a JPEG (also grayscale or CMYK), PNG (also with 16 bits,
            a palette or an alpha channel, which is dropped), BMP (see `decode_bmp`), GIF (the first frame,
            see `decode_gif`) or WebP (see `decode_webp`). The format is read from the bytes; the extension of
            the file does not matter.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such an image, or are truncated.
    """
    orientation = read_orientation(contents)
    # Of two parts that run side by side, a broken file stops the other as well, and now and then TensorFlow
    # reports only that one, as cancelled. A dataset that ignores errors does not ignore this.
    with tf.control_dependencies([orientation]):
        raster = _decode_raster(contents)
    return turn_upright(raster, orientation)


def decode_annotated(contents: Tensor, image_size: Tensor) -> tf.Tensor:
    """Decodes one image file whose size is known.

    Args:
        contents: string scalar, as `decode_image` takes it.
        image_size: int32 [2], height and width of the upright image in pixels, as the index of the dataset
            states them.

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
        window: int32 [4], the rows and columns (ymin, xmin, ymax, xmax) of the upright image, not empty,
            within the image.
        image_size: int32 [2], height and width of the upright image in pixels, as the index of the dataset
            states them.

    Returns:
        uint8 [ymax - ymin, xmax - xmin, 3], RGB, the pixels of `decode_image`.

    Raises:
        tf.errors.InvalidArgumentError: the reasons are those of `decode_annotated`.
    """
    orientation = read_orientation(contents)
    is_complete_jpeg = tf.logical_and(
        tf.io.is_jpeg(contents), tf.equal(tf.strings.substr(contents, -2, 2), _END_OF_JPEG)
    )

    def decode_part() -> tf.Tensor:
        size = tf.io.extract_jpeg_shape(contents)[:2]
        with tf.control_dependencies([_assert_size(upright_size(size, orientation), image_size)]):
            ymin, xmin, ymax, xmax = tf.unstack(window_of_raster(window, size, orientation))
        left, right = tf.maximum(xmin - _JPEG_MARGIN, 0), tf.minimum(xmax + _JPEG_MARGIN, size[1])
        part = tf.stack([ymin, left, ymax - ymin, right - left])
        columns = tf.io.decode_and_crop_jpeg(contents, part, channels=3, dct_method="INTEGER_ACCURATE")
        return turn_upright(columns[:, xmin - left : xmax - left], orientation)

    def cut_from_whole() -> tf.Tensor:
        ymin, xmin, ymax, xmax = tf.unstack(window)
        return decode_annotated(contents, image_size)[ymin:ymax, xmin:xmax]

    return tf.ensure_shape(tf.cond(is_complete_jpeg, decode_part, cut_from_whole), [None, None, 3])


def read_image(path: str | os.PathLike, image_size: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Reads an image file.

    Args:
        path: the file.
        image_size: height and width of the upright image in pixels, as the index of the dataset states them;
            None: the image may have any size.

    Returns:
        uint8 [H, W, 3], RGB, the pixels of `decode_image`.

    Raises:
        InputError: the file cannot be read or decoded, or has another size; the message names it.
    """
    if image_size is not None and not is_file(path):
        raise InputError(f"image {path} does not exist (any more); restore it, or index the data again")
    with explain_os_errors(f"image {path}", "cannot be read"):
        contents = Path(path).read_bytes()
    is_stored_upright = contents.startswith(_JPEG_SIGNATURE) and EXIF not in contents
    try:
        image = (_decode_stored_upright if is_stored_upright else _decode)(contents).numpy()
    except tf.errors.OpError as error:
        raise InputError(f"image {path} cannot be decoded: {_reason(error)}") from None
    if image_size is not None and image.shape[:2] != tuple(image_size):
        raise InputError(f"image {path}: {_other_size(contents, image.shape[:2], image_size)}")
    return image


def _decode_jpeg(contents: Tensor) -> tf.Tensor:
    """Decodes the raster of a JPEG: uint8 [h, w, 3], RGB."""
    # `tf.io.decode_image` would take the fast cosine transform, whose error is up to 8 grey values.
    return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


# Outside of a graph a broken image can make operations fail that another thread computes for other images on
# another logical device. Most files need the second of these alone; to trace the first takes half a second.
_FILE = [tf.TensorSpec([], tf.string)]
_decode = tf.function(decode_image, input_signature=_FILE, autograph=False)
_decode_stored_upright = tf.function(_decode_jpeg, input_signature=_FILE, autograph=False)


def _reason(error: tf.errors.OpError) -> str:
    """Returns the text of an assertion of this project; the errors of TensorFlow's decoders say little."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return "its pixels do not fit into the memory"
    stated = re.search(r"assertion failed: \[(it is .*?)\]", error.message, re.DOTALL)
    return stated[1] if stated else "it is truncated or broken"


def _other_size(contents: bytes, size: tuple[int, int], stated_size: Sequence[int] | np.ndarray) -> str:
    """Says that an image has another size, (height, width), than is stated, and why if it was turned."""

    def spelled(size: Sequence[int] | np.ndarray) -> str:
        return f"{size[1]}x{size[0]}"

    problem = f"the annotation says {spelled(stated_size)} (width x height), the file is {spelled(size)}"
    orientation = int(read_orientation(tf.constant(contents)))
    if orientation == 1:
        return problem
    raster = size[::-1] if orientation >= 5 else size
    return (
        f"{problem}, after its EXIF orientation {orientation} has turned the stored {spelled(raster)} upright"
        + ("; index the data again" if raster == tuple(stated_size) else "")
    )


def _decode_raster(contents: Tensor) -> tf.Tensor:
    """Decodes the pixels as they are stored: uint8 [h, w, 3], RGB."""
    raster = tf.cond(
        tf.io.is_jpeg(contents), lambda: _decode_jpeg(contents), lambda: _decode_other_format(contents)
    )
    return tf.ensure_shape(raster, [None, None, 3])


@rare_function
def _decode_other_format(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a file that is no JPEG: uint8 [h, w, 3], RGB."""

    def unknown() -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(False, [UNKNOWN_FORMAT])]):
            return tf.zeros([1, 1, 3], tf.uint8)

    return tf.case(
        [
            (is_at(contents, 0, PNG_SIGNATURE), lambda: tf.io.decode_png(contents, channels=3)),
            (is_at(contents, 0, b"BM"), lambda: decode_bmp(contents)),
            (is_at(contents, 0, b"GIF8"), lambda: decode_gif(contents)),
            (is_at(contents, 0, b"RIFF") & is_at(contents, 8, b"WEBP"), lambda: decode_webp(contents)),
        ],
        default=unknown,
    )


def _assert_size(size: Tensor, stated_size: Tensor) -> tf.Operation:
    message = ["the annotation's image size (height, width)", stated_size, "is not that of the file", size]
    return tf.debugging.Assert(tf.reduce_all(size == stated_size), message)


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
