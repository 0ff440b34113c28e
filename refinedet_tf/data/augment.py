"""Training augmentation of one image with its boxes (paper, section 3.2).

Expansion, crop, warp and flip are composed into one window on the original image. Only the part of
the image that the window shows is resampled, once, to the size of its place in the output. The colours
are distorted after resampling, at the size of the output, because that costs less. The result differs
from distorting first only where interpolation mixes clipped or differently coloured pixels. The area
beyond the image is filled last, so the fill colour is never distorted.
"""

from collections.abc import Callable

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig
from refinedet_tf.data.color import Distortion, distort_color, draw_distortion
from refinedet_tf.data.crop import boxes_in_window, sample_window

FILL_COLOR = (123, 117, 104)
"""The RGB colour beyond the edge of the image is the mean colour that the network subtracts, rounded."""

_KERNELS = ("bilinear", "area", "nearest", "bicubic", "lanczos3")
"""They correspond to OpenCV's LINEAR, AREA, NEAREST, CUBIC and LANCZOS4, from which the authors draw."""


def augment(
    image: tf.Tensor,
    boxes: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    augmentation_config: AugmentationConfig,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Makes one training sample from an image.

    Args:
        image: uint8 [H, W, 3], RGB.
        boxes: float32 [G, 4], normalised [ymin, xmin, ymax, xmax]; G may be 0.
        labels: int32 [G].
        seed: integer [2]; the sample depends only on the seed and the other arguments.
        size: (height, width) of the sample in pixels.
        augmentation_config: the probabilities and ranges of the augmentation.

    Returns:
        image uint8 [height, width, 3]; boxes float32 [K, 4], normalised [ymin, xmin, ymax, xmax] in
        0..1 of the sample; labels int32 [K]. K <= G is the number of objects whose centre lies in the
        sample.
    """
    image, boxes, labels = (tf.convert_to_tensor(value) for value in (image, boxes, labels))
    window_seed, color_seed, kernel_seed, flip_seed = tf.unstack(tf.random.split(seed, 4))
    window = sample_window(boxes, window_seed, augmentation_config)
    source, target, window = _snap_to_pixels(window, tf.shape(image)[:2], size)
    boxes, keep = boxes_in_window(boxes, window)
    boxes, labels = tf.boolean_mask(boxes, keep), tf.boolean_mask(labels, keep)

    visible = _resample(image, source, target, kernel_seed, augmentation_config)
    canvas = _place(visible, target, size)
    flip = tf.random.stateless_uniform([2], flip_seed, alg="philox") < [
        augmentation_config.vertical_flip_probability,
        augmentation_config.horizontal_flip_probability,
    ]
    image = _finish(canvas, target, draw_distortion(color_seed, augmentation_config), flip)
    return image, _flip_boxes(boxes, flip), labels


@tf.function(jit_compile=True, autograph=False)
def _snap_to_pixels(
    window: tf.Tensor, image_size: tf.Tensor, size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Rounds the visible part of a window to whole pixels, both of the image and of the sample.

    Args:
        window: float32 [4], as `sample_window` gives it.
        image_size: int32 [2], height and width of the image in pixels.
        size: (height, width) of the sample in pixels.

    Returns:
        source int32 [4], the visible rows and columns of the image (ymin, xmin, ymax, xmax), never
        empty; target int32 [4], the rows and columns of the sample that they fill, empty when the
        window shows no part of the image; and the window, float32 [4], that maps the source exactly
        onto the target, so that boxes do not suffer from the rounding.
    """
    image_size_float = tf.cast(image_size, tf.float32)
    size_float = tf.constant(size, tf.float32)
    origin, extent = window[:2], window[2:] - window[:2]
    low, high = tf.maximum(window[:2], 0.0), tf.minimum(window[2:], 1.0)

    source_low = tf.clip_by_value(_round(low * image_size_float), 0, image_size - 1)
    source_high = tf.clip_by_value(_round(high * image_size_float), source_low + 1, image_size)
    target_low = tf.clip_by_value(_round((low - origin) / extent * size_float), 0, size)
    target_high = tf.clip_by_value(_round((high - origin) / extent * size_float), target_low, size)
    # A target that is empty in one direction shows nothing, so it is made empty in both.
    target_high = tf.where(tf.reduce_all(target_high > target_low), target_high, target_low)

    shown = tf.cast(source_high - source_low, tf.float32) / image_size_float
    share = tf.cast(tf.maximum(target_high - target_low, 1), tf.float32) / size_float
    new_extent = shown / share
    new_origin = tf.cast(source_low, tf.float32) / image_size_float
    new_origin -= tf.cast(target_low, tf.float32) / size_float * new_extent
    return (
        tf.concat([source_low, source_high], axis=0),
        tf.concat([target_low, target_high], axis=0),
        tf.concat([new_origin, new_origin + new_extent], axis=0),
    )


def _round(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(values), tf.int32)


def _resample(
    image: tf.Tensor,
    source: tf.Tensor,
    target: tf.Tensor,
    seed: tf.Tensor,
    augmentation_config: AugmentationConfig,
) -> tf.Tensor:
    """Resizes the `source` part of the image to the size of `target`: float32, may overshoot 0..255."""
    crop = image[source[0] : source[2], source[1] : source[3]]
    shape = target[2:] - target[:2]
    # A kernel writes at least one pixel; an empty target is cut to its size at the end.
    out_size = tf.maximum(shape, 1)

    def with_kernel(name: str) -> Callable[[], tf.Tensor]:
        return lambda: _resize(crop, out_size, name)

    if augmentation_config.random_interpolation:
        kernel = tf.random.stateless_uniform([], seed, 0, len(_KERNELS), tf.int32, alg="philox")
        # Averaging over areas makes sense only when shrinking; OpenCV also interpolates otherwise.
        enlarges = tf.reduce_any(out_size > tf.shape(crop)[:2])
        kernel = tf.where(enlarges & (kernel == _KERNELS.index("area")), 0, kernel)
        resampled = tf.switch_case(kernel, [with_kernel(name) for name in _KERNELS])
    else:
        resampled = with_kernel("bilinear")()
    return tf.ensure_shape(resampled, [None, None, 3])[: shape[0], : shape[1]]


def _resize(image: tf.Tensor, size: tf.Tensor, kernel: str) -> tf.Tensor:
    """Resizes uint8 [H, W, 3] to float32 [*size, 3], with the values of `tf.image.resize`."""
    if kernel == "nearest":
        shape = tf.shape(image)
        rows = tf.gather(image, _nearest_pixels(shape[0], size[0]))
        return tf.cast(tf.gather(rows, _nearest_pixels(shape[1], size[1]), axis=1), tf.float32)
    if kernel == "lanczos3":
        # TensorFlow's kernel is fast across rows only, so that the columns are made rows.
        return _resize_rows(_resize_rows(image, size[0]), size[1])
    return tf.cast(tf.image.resize(image, size, method=kernel), tf.float32)


def _nearest_pixels(length: tf.Tensor, new_length: tf.Tensor) -> tf.Tensor:
    """Returns which of `length` pixels is nearest to each of `new_length` pixels: int32 [new_length]."""
    step = tf.cast(length, tf.float32) / tf.cast(new_length, tf.float32)
    centers = (tf.range(new_length, dtype=tf.float32) + 0.5) * step
    return tf.minimum(tf.cast(tf.floor(centers), tf.int32), length - 1)


def _resize_rows(image: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Resizes the first axis of [H, W, 3] and swaps the axes: float32 [W, length, 3]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    flat = tf.reshape(image, [height, 1, width * 3])
    flat = tf.image.resize(flat, [length, 1], method="lanczos3")
    return tf.transpose(tf.reshape(flat, [length, width, 3]), [1, 0, 2])


def _place(visible: tf.Tensor, target: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Puts `visible` at `target` of an array of zeros: float32 [height, width, 3]."""
    after = tf.constant(size) - target[2:]
    padding = tf.pad(tf.stack([target[:2], after], axis=1), [[0, 1], [0, 0]])
    canvas = tf.cond(tf.reduce_any(padding > 0), lambda: tf.pad(visible, padding), lambda: visible)
    return tf.ensure_shape(canvas, [*size, 3])


@tf.function(jit_compile=True, autograph=False)
def _finish(canvas: tf.Tensor, target: tf.Tensor, distortion: Distortion, flip: tf.Tensor) -> tf.Tensor:
    """Distorts the colours, fills all but `target` with `FILL_COLOR`, and flips: uint8 [height, width, 3].

    XLA needs few passes over the pixels. It compiles once, because the canvas has the size of the sample,
    and vectorises whole planes of one colour best. Random numbers are drawn elsewhere, because XLA draws
    other ones than TensorFlow from the same seed.
    """
    height, width, _ = canvas.shape
    planes = distort_color(tf.transpose(canvas, [2, 0, 1]), distortion)
    planes = tf.cast(tf.round(planes), tf.uint8)
    rows, columns = tf.range(height), tf.range(width)
    inside_rows = (rows >= target[0]) & (rows < target[2])
    inside_columns = (columns >= target[1]) & (columns < target[3])
    fill = tf.constant(FILL_COLOR, tf.uint8)[:, None, None]
    planes = tf.where(inside_rows[:, None] & inside_columns, planes, fill)
    for axis in (0, 1):
        planes = tf.cond(flip[axis], lambda x=planes, a=axis: tf.reverse(x, [a + 1]), lambda x=planes: x)
    return tf.transpose(planes, [1, 2, 0])


def _flip_boxes(boxes: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    """Mirrors boxes along y where flip[0], along x where flip[1]."""
    mirrored = 1 - tf.concat([boxes[:, 2:], boxes[:, :2]], axis=1)
    return tf.where(tf.tile(flip, [2]), mirrored, boxes)
