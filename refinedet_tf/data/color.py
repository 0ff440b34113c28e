"""Photometric distortion (paper, section 3.2; the procedure is SSD's)."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig

_SECTORS_PER_HUE_UNIT = 6 / 180
"""OpenCV's 8-bit hue divides the circle into 180 units; here the circle has 6 sectors."""

DISTORTION_NUMBERS = 9
"""How many random numbers `draw_distortion` takes: two for each change, and one for the order."""


class Distortion(NamedTuple):
    """What is done to the colours of one image; every field is a scalar."""

    brightness: tf.Tensor
    """float32, what is added; 0 changes nothing."""
    contrast: tf.Tensor
    """float32, the factor (relative to 0, as in the authors' code); 1 changes nothing."""
    contrast_first: tf.Tensor
    """bool, whether contrast comes before saturation and hue."""
    saturation: tf.Tensor
    """float32, the factor; 1 changes nothing."""
    hue: tf.Tensor
    """float32, in OpenCV's 8-bit units; 0 changes nothing."""
    changes_saturation_or_hue: tf.Tensor
    """bool, whether saturation or hue changes."""


def draw_distortion(uniform: tf.Tensor, augmentation_config: AugmentationConfig) -> Distortion:
    """Draws the distortion of one image.

    Each of the four changes happens with `distortion_probability`. Contrast comes before or after
    saturation and hue with equal probability.

    Args:
        uniform: float32 [DISTORTION_NUMBERS], uniform random numbers in 0..1, without 1.
        augmentation_config: `distortion_probability` and the ranges of the distortions are used.
    """
    happens = uniform[:4] < augmentation_config.distortion_probability

    def draw(which: int, smallest: float, largest: float, neutral: float) -> tf.Tensor:
        value = smallest + uniform[4 + which] * (largest - smallest)
        return tf.where(happens[which], value, neutral)

    return Distortion(
        brightness=draw(0, -augmentation_config.brightness, augmentation_config.brightness, 0.0),
        contrast=draw(1, *augmentation_config.contrast, 1.0),
        contrast_first=uniform[8] < 0.5,
        saturation=draw(2, *augmentation_config.saturation, 1.0),
        hue=draw(3, -augmentation_config.hue, augmentation_config.hue, 0.0),
        changes_saturation_or_hue=happens[2] | happens[3],
    )


def distort_color(channels: Sequence[tf.Tensor], distortion: Distortion) -> list[tf.Tensor]:
    """Distorts the colours of one image.

    Values are clipped to 0..255 after each change. A turned hue goes round the circle; in the authors'
    code it stops at red where the 8-bit value would fall below 0.

    Args:
        channels: red, green and blue, each float32 [H, W]; values outside 0..255 (a cubic kernel overshoots)
            are clipped.
        distortion: the changes.

    Returns:
        Red, green and blue, each float32 [H, W], 0..255.
    """
    contrast, contrast_first = distortion.contrast, distortion.contrast_first
    factor_before = tf.where(contrast_first, contrast, 1.0)
    factor_after = tf.where(contrast_first, 1.0, contrast)
    changed = [_clip(_clip(channel + distortion.brightness) * factor_before) for channel in channels]
    changed = tf.cond(
        distortion.changes_saturation_or_hue,
        lambda: adjust_saturation_and_hue(changed, distortion.saturation, distortion.hue),
        lambda: changed,
    )
    return [_clip(channel * factor_after) for channel in changed]


def _clip(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 255.0)


def adjust_saturation_and_hue(
    channels: Sequence[tf.Tensor], saturation: tf.Tensor, hue: tf.Tensor
) -> list[tf.Tensor]:
    """Scales the saturation and then turns the hue, both in HSV space; the value V does not change.

    Args:
        channels: red, green and blue, each float32 [H, W], 0..255.
        saturation: float32 scalar, the factor; the scaled saturation is at most 1.
        hue: float32 scalar, in OpenCV's 8-bit units (180 is the full circle).

    Returns:
        Red, green and blue, each float32 [H, W], 0..255.
    """
    # Arithmetic on whole channels is several times faster than TensorFlow's HSV kernels, which work pixel by
    # pixel.
    red, green, blue = channels
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    per_chroma = tf.math.reciprocal(tf.maximum(chroma, 1e-6))
    sector = tf.where(
        tf.equal(value, red),
        (green - blue) * per_chroma,
        tf.where(tf.equal(value, green), (blue - red) * per_chroma + 2, (red - green) * per_chroma + 4),
    )
    sector += hue * _SECTORS_PER_HUE_UNIT
    sector -= 6 * tf.floor(sector * (1 / 6))
    new_chroma = tf.minimum(chroma * saturation, value)

    # A channel has its highest value within one sector of its hue (red 0, green 2, blue 4), and its
    # lowest value at a distance of two sectors or more; red's hue is both 0 and 6.
    below_peak = (2 - tf.abs(sector - 3), tf.abs(sector - 2) - 1, tf.abs(sector - 4) - 1)
    return [value - new_chroma * tf.clip_by_value(x, 0.0, 1.0) for x in below_peak]
