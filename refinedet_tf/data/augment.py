"""Training augmentation of one image with its boxes (paper, section 3.2).

Expansion, crop, warp and flip are composed into one window on the original image. Only the part of
the image that the window shows is resampled, once and straight to its place in the output; no
expanded canvas is ever built. The colours are distorted there, at output size, which differs from
distorting first only where interpolation mixes clipped or differently coloured pixels, and costs
less. What lies beyond the image is filled afterwards, so the fill colour is never distorted.
"""

import tensorflow as tf

from refinedet_tf.data.color import distort_color
from refinedet_tf.data.crop import boxes_in_window, sample_window

FILL_COLOR = (123, 117, 104)
"""RGB beyond the image's edge: the mean colour that the network subtracts (rounded)."""

_KERNELS = ("bilinear", "area", "nearest", "bicubic", "lanczos3")
"""Counterparts of OpenCV's LINEAR, AREA, NEAREST, CUBIC and LANCZOS4, between which the authors draw."""


def augment(image, boxes, labels, seed, size, config):
    """Makes one training sample of an image.

    Args:
        image: uint8 [H, W, 3], RGB.
        boxes: float32 [G, 4], normalised [ymin, xmin, ymax, xmax]; G may be 0.
        labels: int32 [G].
        seed: integer [2]; the sample depends on it and the other arguments alone.
        size: (height, width) of the sample in pixels.
        config: AugmentationConfig.

    Returns:
        image uint8 [height, width, 3]; boxes float32 [K, 4] within 0..1 of the sample; labels
        int32 [K]; K <= G, the objects whose centre is in the sample.
    """
    image, boxes, labels = (tf.convert_to_tensor(value) for value in (image, boxes, labels))
    window_seed, color_seed, kernel_seed, flip_seed = tf.unstack(tf.random.split(seed, 4))
    window = sample_window(boxes, window_seed, config)
    source, target, window = _snap_to_pixels(window, tf.shape(image)[:2], size)
    boxes, keep = boxes_in_window(boxes, window)
    boxes, labels = tf.boolean_mask(boxes, keep), tf.boolean_mask(labels, keep)

    visible = _resample(image, source, target, kernel_seed, config)
    visible = tf.cast(tf.round(distort_color(visible, color_seed, config)), tf.uint8)
    image = _place(visible, target, size)

    flip = tf.random.stateless_uniform([2], flip_seed, alg="philox")
    image, boxes = _flip(image, boxes, flip[0] < config.vertical_flip_probability, axis=0)
    image, boxes = _flip(image, boxes, flip[1] < config.horizontal_flip_probability, axis=1)
    return image, boxes, labels


def _snap_to_pixels(window, image_size, size):
    """Rounds the visible part of a window to whole pixels, of the image and of the sample.

    Returns:
        source int32 [4], the rows and columns of the image that are shown (ymin, xmin, ymax, xmax;
        never empty); target int32 [4], those of the sample where they come to lie (empty when the
        window shows no image); and the window that maps the one exactly onto the other, so that
        boxes do not suffer from the rounding.
    """
    image_size_float = tf.cast(image_size, tf.float32)
    size_float = tf.constant(size, tf.float32)
    origin, extent = window[:2], window[2:] - window[:2]
    low, high = tf.maximum(window[:2], 0.0), tf.minimum(window[2:], 1.0)

    source_low = tf.clip_by_value(_round(low * image_size_float), 0, image_size - 1)
    source_high = tf.clip_by_value(_round(high * image_size_float), source_low + 1, image_size)
    target_low = tf.clip_by_value(_round((low - origin) / extent * size_float), 0, size)
    target_high = tf.clip_by_value(_round((high - origin) / extent * size_float), target_low, size)
    # What is empty in one direction shows nothing at all.
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


def _round(values):
    return tf.cast(tf.round(values), tf.int32)


def _resample(image, source, target, seed, config):
    """The `source` part of the image at the size of `target`: float32, may overshoot 0..255."""
    crop = image[source[0] : source[2], source[1] : source[3]]
    shape = target[2:] - target[:2]
    # A kernel needs at least a pixel to write; what is too much is cut off again.
    out_size = tf.maximum(shape, 1)

    def with_kernel(name):
        return lambda: tf.cast(tf.image.resize(crop, out_size, method=name), tf.float32)

    if config.random_interpolation:
        kernel = tf.random.stateless_uniform([], seed, 0, len(_KERNELS), tf.int32, alg="philox")
        # Averaging over areas only makes sense when shrinking; OpenCV interpolates otherwise, too.
        enlarges = tf.reduce_any(out_size > tf.shape(crop)[:2])
        kernel = tf.where(enlarges & (kernel == _KERNELS.index("area")), 0, kernel)
        resampled = tf.switch_case(kernel, [with_kernel(name) for name in _KERNELS])
    else:
        resampled = with_kernel("bilinear")()
    return tf.ensure_shape(resampled, [None, None, 3])[: shape[0], : shape[1]]


def _place(visible, target, size):
    """A sample of `FILL_COLOR` with `visible` (uint8) at `target`: uint8 [height, width, 3]."""
    height, width = size

    def fill(rows, columns):
        return tf.broadcast_to(tf.constant(FILL_COLOR, tf.uint8), [rows, columns, 3])

    rows = target[2] - target[0]
    middle = tf.concat([fill(rows, target[1]), visible, fill(rows, width - target[3])], axis=1)
    sample = tf.concat([fill(target[0], width), middle, fill(height - target[2], width)], axis=0)
    return tf.ensure_shape(sample, [height, width, 3])


def _flip(image, boxes, flip, axis):
    """Mirrors image and boxes along `axis` (0: upside down, 1: left to right) if `flip`."""
    image = tf.cond(flip, lambda: tf.reverse(image, [axis]), lambda: image)
    low, high = axis, axis + 2
    columns = tf.unstack(boxes, axis=1)
    columns[low], columns[high] = 1 - columns[high], 1 - columns[low]
    return image, tf.where(flip, tf.stack(columns, axis=1), boxes)
