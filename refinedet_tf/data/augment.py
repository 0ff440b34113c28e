"""Training augmentation of one image with its boxes (paper, section 3.2).

Expansion, crop, warp and flip are composed into one window on the original image. Only the part of
the image that the window shows is resampled, once, directly to its place in the output. No expanded
canvas is ever built. The colours are distorted after resampling, at the size of the output, because
that costs less. The result differs from distorting first only where interpolation mixes clipped or
differently coloured pixels. The area beyond the image is filled last, so the fill colour is never
distorted.
"""

from collections.abc import Callable

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig
from refinedet_tf.data.color import distort_color
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
    visible = tf.cast(tf.round(distort_color(visible, color_seed, augmentation_config)), tf.uint8)
    image = _place(visible, target, size)

    flip = tf.random.stateless_uniform([2], flip_seed, alg="philox")
    image, boxes = _flip(image, boxes, flip[0] < augmentation_config.vertical_flip_probability, axis=0)
    image, boxes = _flip(image, boxes, flip[1] < augmentation_config.horizontal_flip_probability, axis=1)
    return image, boxes, labels


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
        return lambda: tf.cast(tf.image.resize(crop, out_size, method=name), tf.float32)

    if augmentation_config.random_interpolation:
        kernel = tf.random.stateless_uniform([], seed, 0, len(_KERNELS), tf.int32, alg="philox")
        # Averaging over areas makes sense only when shrinking; OpenCV also interpolates otherwise.
        enlarges = tf.reduce_any(out_size > tf.shape(crop)[:2])
        kernel = tf.where(enlarges & (kernel == _KERNELS.index("area")), 0, kernel)
        resampled = tf.switch_case(kernel, [with_kernel(name) for name in _KERNELS])
    else:
        resampled = with_kernel("bilinear")()
    return tf.ensure_shape(resampled, [None, None, 3])[: shape[0], : shape[1]]


def _place(visible: tf.Tensor, target: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Puts `visible` (uint8) at `target` on a sample of `FILL_COLOR`: uint8 [height, width, 3]."""
    height, width = size

    def fill(rows: tf.Tensor | int, columns: tf.Tensor | int) -> tf.Tensor:
        return tf.broadcast_to(tf.constant(FILL_COLOR, tf.uint8), [rows, columns, 3])

    rows = target[2] - target[0]
    middle = tf.concat([fill(rows, target[1]), visible, fill(rows, width - target[3])], axis=1)
    sample = tf.concat([fill(target[0], width), middle, fill(height - target[2], width)], axis=0)
    return tf.ensure_shape(sample, [height, width, 3])


def _flip(image: tf.Tensor, boxes: tf.Tensor, flip: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors image and boxes along `axis` (0: upside down, 1: left to right) if `flip`."""
    image = tf.cond(flip, lambda: tf.reverse(image, [axis]), lambda: image)
    low, high = axis, axis + 2
    columns = tf.unstack(boxes, axis=1)
    columns[low], columns[high] = 1 - columns[high], 1 - columns[low]
    return image, tf.where(flip, tf.stack(columns, axis=1), boxes)
