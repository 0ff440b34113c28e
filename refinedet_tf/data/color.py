"""Photometric distortion (paper, section 3.2; the procedure is SSD's)."""

import tensorflow as tf

_SECTORS_PER_HUE_UNIT = 6 / 180
"""OpenCV's 8-bit hue goes round in 180 units; here the circle has 6 sectors."""


def distort_color(image, seed, config):
    """Randomly distorts the colours of one image.

    Each of these happens with `distortion_probability`: adding a brightness, multiplying by a
    contrast (about 0, as in the authors' code), scaling the saturation and turning the hue in HSV
    space. Contrast comes before saturation and hue or after them, evenly. Values are clipped to
    0..255 after each step. A turned hue goes round the circle; in the authors' code it stops at
    red where the 8-bit value would fall below 0.

    Args:
        image: float32 [H, W, 3], RGB; values outside 0..255 (a cubic kernel overshoots) are clipped.
        seed: integer [2].
        config: AugmentationConfig.

    Returns:
        float32 [H, W, 3], 0..255.
    """
    uniform = tf.unstack(tf.random.stateless_uniform([9], seed, alg="philox"))
    happens = [value < config.distortion_probability for value in uniform[:4]]

    def draw(which, smallest, largest, neutral):
        value = smallest + uniform[4 + which] * (largest - smallest)
        return tf.where(happens[which], value, neutral)

    brightness = draw(0, -config.brightness, config.brightness, 0.0)
    contrast = draw(1, *config.contrast, 1.0)
    saturation = draw(2, *config.saturation, 1.0)
    hue = draw(3, -config.hue, config.hue, 0.0)
    contrast_first = uniform[8] < 0.5

    def change_if(condition, change, image):
        return tf.cond(condition, lambda: change(image), lambda: image)

    image = _clip(image + brightness)
    image = change_if(happens[1] & contrast_first, lambda x: _clip(x * contrast), image)
    image = change_if(happens[2] | happens[3], lambda x: adjust_saturation_and_hue(x, saturation, hue), image)
    return change_if(happens[1] & ~contrast_first, lambda x: _clip(x * contrast), image)


def _clip(image):
    return tf.clip_by_value(image, 0.0, 255.0)


def adjust_saturation_and_hue(image, saturation, hue):
    """Scales the saturation and then turns the hue, both in HSV space; the value V stays.

    Args:
        image: float32 [H, W, 3], RGB, 0..255.
        saturation: float32 scalar, factor; the saturation stops at 1.
        hue: float32 scalar, in OpenCV's 8-bit units (180 is the full circle).

    Returns:
        float32 [H, W, 3], 0..255.
    """
    # Whole colour planes: several times faster than TensorFlow's pixel by pixel HSV kernels.
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

    # A channel is at its highest within one sector of its own hue (red 0, green 2, blue 4), and at
    # its lowest from two sectors on; red's hue is both 0 and 6.
    below_peak = (2 - tf.abs(sector - 3), tf.abs(sector - 2) - 1, tf.abs(sector - 4) - 1)
    return tf.stack([value - new_chroma * tf.clip_by_value(x, 0.0, 1.0) for x in below_peak], axis=-1)
