"""Photometric distortion (paper, section 3.2; the procedure is SSD's)."""

from collections.abc import Callable

import tensorflow as tf

from refinedet_tf.config import AugmentationConfig

_SECTORS_PER_HUE_UNIT = 6 / 180
"""OpenCV's 8-bit hue divides the circle into 180 units; here the circle has 6 sectors."""


def distort_color(image: tf.Tensor, seed: tf.Tensor, augmentation_config: AugmentationConfig) -> tf.Tensor:
    """Randomly distorts the colours of one image.

    There are four distortions: adding a brightness, multiplying by a contrast (relative to 0, as in
    the authors' code), scaling the saturation, and turning the hue in HSV space. Each happens with
    `distortion_probability`. Contrast comes before or after saturation and hue with equal
    probability. Values are clipped to 0..255 after each step. A turned hue goes round the circle; in
    the authors' code it stops at red where the 8-bit value would fall below 0.

    Args:
        image: float32 [H, W, 3], RGB; values outside 0..255 (a cubic kernel overshoots) are clipped.
        seed: integer [2].
        augmentation_config: `distortion_probability` and the ranges of the distortions are used.

    Returns:
        float32 [H, W, 3], 0..255.
    """
    uniform = tf.unstack(tf.random.stateless_uniform([9], seed, alg="philox"))
    happens = [value < augmentation_config.distortion_probability for value in uniform[:4]]

    def draw(which: int, smallest: float, largest: float, neutral: float) -> tf.Tensor:
        value = smallest + uniform[4 + which] * (largest - smallest)
        return tf.where(happens[which], value, neutral)

    brightness = draw(0, -augmentation_config.brightness, augmentation_config.brightness, 0.0)
    contrast = draw(1, *augmentation_config.contrast, 1.0)
    saturation = draw(2, *augmentation_config.saturation, 1.0)
    hue = draw(3, -augmentation_config.hue, augmentation_config.hue, 0.0)
    contrast_first = uniform[8] < 0.5

    def change_if(
        condition: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor
    ) -> tf.Tensor:
        return tf.cond(condition, lambda: change(image), lambda: image)

    image = _clip(image + brightness)
    image = change_if(happens[1] & contrast_first, lambda x: _clip(x * contrast), image)
    image = change_if(happens[2] | happens[3], lambda x: adjust_saturation_and_hue(x, saturation, hue), image)
    return change_if(happens[1] & ~contrast_first, lambda x: _clip(x * contrast), image)


def _clip(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 255.0)


def adjust_saturation_and_hue(image: tf.Tensor, saturation: tf.Tensor, hue: tf.Tensor) -> tf.Tensor:
    """Scales the saturation and then turns the hue, both in HSV space; the value V does not change.

    Args:
        image: float32 [H, W, 3], RGB, 0..255.
        saturation: float32 scalar, the factor; the scaled saturation is at most 1.
        hue: float32 scalar, in OpenCV's 8-bit units (180 is the full circle).

    Returns:
        float32 [H, W, 3], 0..255.
    """
    # Arithmetic on whole colour planes is several times faster than TensorFlow's HSV kernels, which work
    # pixel by pixel.
    red, green, blue = tf.unstack(image, axis=-1)
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
    return tf.stack([value - new_chroma * tf.clip_by_value(x, 0.0, 1.0) for x in below_peak], axis=-1)
