"""What is drawn for one training sample: its window, colours, kernel and flips (paper, section 3.2)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig
from refinedet_tf.data.color import DISTORTION_NUMBERS, Distortion, draw_distortion
from refinedet_tf.data.crop import boxes_in_window, sample_window, window_numbers

KERNELS = ("bilinear", "area", "nearest", "bicubic", "lanczos3")
"""They correspond to OpenCV's LINEAR, AREA, NEAREST, CUBIC and LANCZOS4, from which the authors draw."""

_FLIP_NUMBERS = 2


class SampleDraw(NamedTuple):
    """How a training sample is made of an image."""

    source: tf.Tensor
    """int32 [4], the rows and columns of the image that are shown (ymin, xmin, ymax, xmax), never empty."""
    target: tf.Tensor
    """int32 [4], the rows and columns of the sample that they fill; empty if the window shows no part of the
    image."""
    kernel: tf.Tensor
    """int32 scalar, the index in `KERNELS` of the kernel that resizes the source to the target."""
    distortion: Distortion
    """How the colours change."""
    flip: tf.Tensor
    """bool [2], whether the sample is mirrored top to bottom, and left to right."""
    boxes: tf.Tensor
    """float32 [G, 4], normalised [ymin, xmin, ymax, xmax] in 0..1 of the sample."""
    labels: tf.Tensor
    """int32 [G], 0 for padding and for objects that the sample does not show."""


def draw_sample(
    boxes: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    image_size: tf.Tensor,
    size: tuple[int, int],
    augmentation_config: AugmentationConfig,
) -> SampleDraw:
    """Draws one training sample.

    XLA compiles this once for each G, so that a dataset pads its objects to few lengths.

    Args:
        boxes: float32 [G, 4], normalised [ymin, xmin, ymax, xmax]; G may be 0.
        labels: int32 [G], 0 in padding rows.
        seed: integer [2]; the draw depends only on the seed and the other arguments.
        image_size: int32 [2], height and width of the image in pixels.
        size: (height, width) of the sample in pixels.
        augmentation_config: the probabilities and ranges of the augmentation.
    """
    # They are drawn outside, because XLA draws other numbers than TensorFlow from the same seed.
    count = DISTORTION_NUMBERS + 1 + _FLIP_NUMBERS + window_numbers(augmentation_config)
    uniform = tf.random.stateless_uniform([count], seed, alg="philox")
    return _compiled_draw(size, augmentation_config)(boxes, labels, uniform, image_size)


@functools.cache
def _compiled_draw(
    size: tuple[int, int], augmentation_config: AugmentationConfig
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], SampleDraw]:
    """Makes the compiled function, which all datasets of a process share."""

    @tf.function(jit_compile=True, autograph=False)
    def draw(boxes: tf.Tensor, labels: tf.Tensor, uniform: tf.Tensor, image_size: tf.Tensor) -> SampleDraw:
        return _draw(boxes, labels, uniform, image_size, size, augmentation_config)

    return draw


def _draw(
    boxes: tf.Tensor,
    labels: tf.Tensor,
    uniform: tf.Tensor,
    image_size: tf.Tensor,
    size: tuple[int, int],
    augmentation_config: AugmentationConfig,
) -> SampleDraw:
    """Draws what `draw_sample` returns from uniform random numbers in 0..1."""
    color_draw, kernel_draw, flip_draw, window_draw = tf.split(
        uniform, [DISTORTION_NUMBERS, 1, _FLIP_NUMBERS, window_numbers(augmentation_config)]
    )
    window = sample_window(boxes, labels > 0, window_draw, augmentation_config)
    source, target, window = _snap_to_pixels(window, image_size, size)
    boxes, keep = boxes_in_window(boxes, window)
    flip = flip_draw < [
        augmentation_config.vertical_flip_probability,
        augmentation_config.horizontal_flip_probability,
    ]
    return SampleDraw(
        source=source,
        target=target,
        kernel=_draw_kernel(kernel_draw[0], source, target, augmentation_config),
        distortion=draw_distortion(color_draw, augmentation_config),
        flip=flip,
        boxes=_flip_boxes(boxes, flip),
        labels=tf.where(keep, labels, 0),
    )


def _snap_to_pixels(
    window: tf.Tensor, image_size: tf.Tensor, size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Rounds the visible part of a window to whole pixels, both of the image and of the sample.

    Returns:
        `source` and `target` of `SampleDraw`, and the window, float32 [4], that maps the source exactly
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


def _draw_kernel(
    uniform: tf.Tensor, source: tf.Tensor, target: tf.Tensor, augmentation_config: AugmentationConfig
) -> tf.Tensor:
    """Returns an index in `KERNELS`, int32 scalar."""
    if not augmentation_config.random_interpolation:
        return tf.constant(KERNELS.index("bilinear"))
    kernel = tf.cast(uniform * len(KERNELS), tf.int32)
    # Averaging over areas makes sense only when shrinking; OpenCV also interpolates otherwise.
    enlarges = tf.reduce_any(target[2:] - target[:2] > source[2:] - source[:2])
    return tf.where(enlarges & (kernel == KERNELS.index("area")), KERNELS.index("bilinear"), kernel)


def _flip_boxes(boxes: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    """Mirrors boxes along y where flip[0], along x where flip[1]."""
    mirrored = 1 - tf.concat([boxes[:, 2:], boxes[:, :2]], axis=1)
    return tf.where(tf.tile(flip, [2]), mirrored, boxes)
