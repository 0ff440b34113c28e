"""The random expansion and crop of SSD and RefineDet, drawn as one window on the image.

A window is float32 `[ymin, xmin, ymax, xmax]` in units of the original image (0..1 is the image).
After an expansion it reaches beyond the image.

All randomness is an argument: numbers that are uniform in 0..1. So XLA may compile these functions, although
it draws other random numbers than TensorFlow from the same seed.
"""

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig
from refinedet_tf.refinedet.boxes import area, clip, pairwise_iou

_NO_LIMIT = float("-inf")
_EXPANSION_NUMBERS = 4
_TRIAL_NUMBERS = 4


def into_window(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Converts boxes [..., 4] of the image to units of `window` [4] (0..1 is the window), not clipped."""
    origin, extent = window[:2], window[2:] - window[:2]
    return (boxes - tf.tile(origin, [2])) / tf.tile(extent, [2])


def out_of_window(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Converts boxes [..., 4] of `window` [4] to units of the image: the inverse of `into_window`."""
    origin, extent = window[:2], window[2:] - window[:2]
    return boxes * tf.tile(extent, [2]) + tf.tile(origin, [2])


def boxes_in_window(boxes: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the objects that a window shows.

    An object stays if its centre lies in the window; its box is then clipped to the window (SSD's
    centre rule).

    Args:
        boxes: float32 [G, 4] of the image.
        window: float32 [4].

    Returns:
        boxes float32 [G, 4] in units of the window, clipped to 0..1, and keep bool [G], whether the
        object stays.
    """
    moved = into_window(boxes, window)
    center = (moved[:, :2] + moved[:, 2:]) / 2
    inside = tf.reduce_all((center >= 0) & (center <= 1), axis=-1)
    cut = clip(moved)
    return cut, inside & (area(cut) > 0)


def window_numbers(augmentation_config: AugmentationConfig) -> int:
    """Returns how many random numbers `sample_window` takes."""
    return _EXPANSION_NUMBERS + crop_numbers(augmentation_config)


def crop_numbers(augmentation_config: AugmentationConfig) -> int:
    """Returns how many random numbers `sample_crop` takes: those of every trial, and one for the choice."""
    if not augmentation_config.crop_min_ious:
        return 0
    samplers = len(augmentation_config.crop_min_ious) + 1
    return samplers * augmentation_config.crop_trials * _TRIAL_NUMBERS + 1


def sample_window(
    boxes: tf.Tensor, is_object: tf.Tensor, uniform: tf.Tensor, augmentation_config: AugmentationConfig
) -> tf.Tensor:
    """Draws the window of one training sample: an expansion, then a crop of the expanded image.

    Args:
        boxes: float32 [G, 4], G may be 0.
        is_object: bool [G]; the other rows are padding.
        uniform: float32 [window_numbers(augmentation_config)], uniform random numbers in 0..1, without 1.
        augmentation_config: the `expand_` and `crop_` fields are used.

    Returns:
        float32 [4], the window.
    """
    canvas = sample_expansion(uniform[:_EXPANSION_NUMBERS], augmentation_config)
    if not augmentation_config.crop_min_ious:
        return canvas
    boxes_on_canvas = into_window(boxes, canvas)
    crop = sample_crop(boxes_on_canvas, is_object, uniform[_EXPANSION_NUMBERS:], augmentation_config)
    return out_of_window(crop, canvas)


def sample_expansion(uniform: tf.Tensor, augmentation_config: AugmentationConfig) -> tf.Tensor:
    """Draws the canvas on which the image is placed ("zoom out").

    With `expand_probability` the canvas is r times as high and wide as the image, where r is uniform
    in `expand_ratio`, and the image lies anywhere on it. Otherwise the canvas is the image.

    Args:
        uniform: float32 [4], uniform random numbers in 0..1, without 1.
        augmentation_config: the `expand_` fields are used.

    Returns:
        float32 [4], a window that covers the image.
    """
    smallest, largest = augmentation_config.expand_ratio
    ratio = smallest + uniform[1] * (largest - smallest)
    ratio = tf.where(uniform[0] < augmentation_config.expand_probability, ratio, 1.0)
    origin = -uniform[2:] * (ratio - 1)
    return tf.concat([origin, origin + ratio], axis=0)


def sample_crop(
    boxes: tf.Tensor, is_object: tf.Tensor, uniform: tf.Tensor, augmentation_config: AugmentationConfig
) -> tf.Tensor:
    """Draws a crop as SSD's batch sampler does.

    There is one sampler that proposes the whole image, one sampler per value of `crop_min_ious`, and
    one that is unconstrained. Each proposes at most one crop: the first of its `crop_trials` trials
    that has at least the wanted IoU with at least one object. One of the proposals is then drawn with
    equal probability. Without objects only the whole image and the unconstrained crop are proposed.

    Args:
        boxes: float32 [G, 4] in units of the image that is cropped; they may lie anywhere.
        is_object: bool [G]; the other rows are padding.
        uniform: float32 [crop_numbers(augmentation_config)], uniform random numbers in 0..1, without 1.
        augmentation_config: the `crop_` fields are used.

    Returns:
        float32 [4], a window inside 0..1 of the image that is cropped.
    """
    min_ious = tf.constant([*augmentation_config.crop_min_ious, _NO_LIMIT])
    shape = [min_ious.shape[0], augmentation_config.crop_trials, _TRIAL_NUMBERS]
    trials = _sample_trials(tf.reshape(uniform[:-1], shape), augmentation_config)
    # The maximum over no objects is -inf, which fails every limit but the unconstrained one.
    best_iou = tf.reduce_max(tf.where(is_object, pairwise_iou(trials, boxes), _NO_LIMIT), axis=-1)
    accepted = best_iou >= min_ious[:, None]
    first = tf.argmax(tf.cast(accepted, tf.int32), axis=-1, output_type=tf.int32)
    proposals = tf.gather(trials, first, batch_dims=1)
    proposals = tf.concat([[[0.0, 0.0, 1.0, 1.0]], proposals], axis=0)
    proposes = tf.concat([[True], tf.reduce_any(accepted, axis=-1)], axis=0)
    rank = tf.cumsum(tf.cast(proposes, tf.int32))
    chosen_rank = 1 + tf.cast(uniform[-1] * tf.cast(rank[-1], tf.float32), tf.int32)
    # Each rank is reached at a sampler that proposes. XLA would compile a slice anew for each index.
    chosen = tf.argmax(tf.cast(rank == chosen_rank, tf.int32), output_type=tf.int32)
    return tf.gather(proposals, chosen)


def _sample_trials(uniform: tf.Tensor, augmentation_config: AugmentationConfig) -> tf.Tensor:
    """Draws candidate crops inside 0..1, float32 [..., 4], from random numbers [..., 4].

    `scale` is the square root of the crop's share of the image's area. The aspect ratio is limited so
    that no side of the crop is longer than that of the image.
    """
    scale_draw, aspect_draw, y_draw, x_draw = tf.unstack(uniform, axis=-1)
    smallest, largest = augmentation_config.crop_scale
    scale = smallest + scale_draw * (largest - smallest)
    narrowest = tf.maximum(augmentation_config.crop_aspect_ratio[0], tf.square(scale))
    widest = tf.minimum(augmentation_config.crop_aspect_ratio[1], 1 / tf.square(scale))
    aspect_root = tf.sqrt(narrowest + aspect_draw * (widest - narrowest))
    height = tf.minimum(scale / aspect_root, 1.0)
    width = tf.minimum(scale * aspect_root, 1.0)
    ymin = y_draw * (1 - height)
    xmin = x_draw * (1 - width)
    return tf.stack([ymin, xmin, ymin + height, xmin + width], axis=-1)
