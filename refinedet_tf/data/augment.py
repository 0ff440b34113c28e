"""Training augmentation of one image with its boxes (paper, section 3.2).

Expansion, crop, warp and flip are composed into one window on the original image. Only the part of
the image that the window shows is decoded and resampled, once, to the size of its place in the output. The
colours are distorted after resampling, at the size of the output, because that costs less. The result
differs from distorting first only where interpolation mixes clipped or differently coloured pixels. The area
beyond the image is filled last, so the fill colour is never distorted.
"""

from collections.abc import Sequence

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig
from refinedet_tf.data.color import Distortion, distort_color
from refinedet_tf.data.images import decode_window
from refinedet_tf.data.sample_draw import KERNELS, SampleDraw, draw_sample

FILL_COLOR = (123, 117, 104)
"""The RGB colour beyond the edge of the image is the mean colour that the network subtracts, rounded."""

_KERNELS_BY_ROWS = {"bicubic": "keyscubic", "lanczos3": "lanczos3"}
"""TensorFlow's names of the kernels that `_resize_rows` applies."""
_MANY_TIMES = 6
"""How many times larger than the result an image is too large for a conversion before it is resized."""


def augment(
    contents: tf.Tensor,
    image_size: tf.Tensor,
    boxes: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    augmentation_config: AugmentationConfig,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Makes one training sample from an image file.

    Args:
        contents: string scalar, the bytes of the file, as `decode_image` takes them.
        image_size: int32 [2], height and width of the image in pixels, as the annotation states them.
        boxes: float32 [G, 4], normalised [ymin, xmin, ymax, xmax]; G may be 0.
        labels: int32 [G], 1..C; 0 in padding rows, which are left out. XLA compiles for each G.
        seed: integer [2]; the sample depends only on the seed and the other arguments.
        size: (height, width) of the sample in pixels.
        augmentation_config: the probabilities and ranges of the augmentation.

    Returns:
        image uint8 [height, width, 3]; boxes float32 [K, 4], normalised [ymin, xmin, ymax, xmax] in
        0..1 of the sample; labels int32 [K], 1..C. K <= G is the number of objects whose centre lies in the
        sample.

    Raises:
        tf.errors.InvalidArgumentError: the reasons are those of `decode_window`.
    """
    drawn = draw_sample(boxes, labels, seed, image_size, size, augmentation_config)
    visible = decode_window(contents, drawn.source, image_size)
    shown = tf.where(drawn.labels > 0)[:, 0]
    return _render(visible, drawn, size), tf.gather(drawn.boxes, shown), tf.gather(drawn.labels, shown)


def _render(visible: tf.Tensor, drawn: SampleDraw, size: tuple[int, int]) -> tf.Tensor:
    """Makes the pixels of a sample, uint8 [height, width, 3], of those that the source of the draw holds."""
    shape = drawn.target[2:] - drawn.target[:2]
    # A kernel writes at least one pixel; an empty target is cut to its size at the end.
    out_size = tf.maximum(shape, 1)
    kernels = [lambda name=name: _resize(visible, out_size, name) for name in KERNELS]
    resampled = tf.ensure_shape(tf.switch_case(drawn.kernel, kernels), [None, None, 3])
    canvas = _place(resampled[: shape[0], : shape[1]], drawn.target, size)
    return _finish(canvas, drawn.target, drawn.distortion, drawn.flip)


def _resize(image: tf.Tensor, size: tf.Tensor, kernel: str) -> tf.Tensor:
    """Resizes uint8 [H, W, 3] to float32 [*size, 3], with the values of `tf.image.resize`."""
    if kernel == "nearest":
        shape = tf.shape(image)
        rows = tf.gather(image, _nearest_pixels(shape[0], size[0]))
        return tf.cast(tf.gather(rows, _nearest_pixels(shape[1], size[1]), axis=1), tf.float32)
    if kernel in _KERNELS_BY_ROWS:
        # TensorFlow's kernel is fast across rows only, so that the columns are made rows.
        return _resize_rows(_resize_rows(image, size[0], kernel), size[1], kernel)
    # TensorFlow reads float32 faster than uint8. The conversion pays unless few pixels are read.
    return tf.cond(
        tf.reduce_prod(tf.shape(image)[:2]) < _MANY_TIMES * tf.reduce_prod(size),
        lambda: tf.image.resize(tf.cast(image, tf.float32), size, method=kernel),
        lambda: tf.cast(tf.image.resize(image, size, method=kernel), tf.float32),
    )


def _nearest_pixels(length: tf.Tensor, new_length: tf.Tensor) -> tf.Tensor:
    """Returns which of `length` pixels is nearest to each of `new_length` pixels: int32 [new_length]."""
    step = tf.cast(length, tf.float32) / tf.cast(new_length, tf.float32)
    centers = (tf.range(new_length, dtype=tf.float32) + 0.5) * step
    return tf.minimum(tf.cast(tf.floor(centers), tf.int32), length - 1)


def _resize_rows(image: tf.Tensor, length: tf.Tensor, kernel: str) -> tf.Tensor:
    """Resizes the first axis of [H, W, 3] and swaps the axes: float32 [W, length, 3]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    scale = tf.cast(length, tf.float32) / tf.cast(height, tf.float32)
    # `tf.image.resize` offers this operation for Lanczos only.
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, height, 1, width * 3]),
        size=tf.stack([length, 1]),
        scale=tf.stack([scale, 1.0]),
        translation=[0.0, 0.0],
        kernel_type=_KERNELS_BY_ROWS[kernel],
        antialias=False,
    )
    return tf.transpose(tf.reshape(resized, [length, width, 3]), [1, 0, 2])


def _place(visible: tf.Tensor, target: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Puts `visible` at `target` of an array of zeros: float32 [height, width, 3]."""
    height, width = size
    ymin, xmin, ymax, xmax = tf.unstack(target)
    # Few axes are padded much faster than many.
    rows = tf.reshape(visible, [ymax - ymin, (xmax - xmin) * 3])
    padding = tf.stack([[ymin, height - ymax], [xmin * 3, (width - xmax) * 3]])
    canvas = tf.cond(tf.reduce_any(padding > 0), lambda: tf.pad(rows, padding), lambda: rows)
    return tf.reshape(canvas, [height, width, 3])


@tf.function(jit_compile=True, autograph=False)
def _finish(canvas: tf.Tensor, target: tf.Tensor, distortion: Distortion, flip: tf.Tensor) -> tf.Tensor:
    """Distorts the colours, fills all but `target` with `FILL_COLOR`, and flips: uint8 [height, width, 3].

    XLA needs few passes over the pixels. It compiles once, because the canvas has the size of the sample. The
    three values of a pixel are packed into one integer, so that they are written and mirrored together.
    """
    height, width, _ = canvas.shape
    # Slices are faster than one transposition, because XLA makes them part of the arithmetic.
    channels = distort_color([canvas[..., channel] for channel in range(3)], distortion)
    pixels = _pack([tf.cast(tf.round(channel), tf.int32) for channel in channels])
    rows, columns = tf.range(height), tf.range(width)
    inside_rows = (rows >= target[0]) & (rows < target[2])
    inside_columns = (columns >= target[1]) & (columns < target[3])
    pixels = tf.where(inside_rows[:, None] & inside_columns, pixels, _pack(FILL_COLOR))
    for axis in (0, 1):
        pixels = tf.cond(flip[axis], lambda x=pixels, a=axis: tf.reverse(x, [a]), lambda x=pixels: x)
    return tf.bitcast(pixels, tf.uint8)[..., :3]


def _pack(channels: Sequence[tf.Tensor | int]) -> tf.Tensor | int:
    """Packs red, green and blue, each 0..255, into the lowest three bytes of an integer."""
    red, green, blue = channels
    return red + 2**8 * green + 2**16 * blue
