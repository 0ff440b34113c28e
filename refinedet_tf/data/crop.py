"""Where to look: the random expansion and crop of SSD and RefineDet, as one window on the image.

A window is float32 `[ymin, xmin, ymax, xmax]` in units of the original image (0..1 is the image);
it may reach beyond the image, which is what expansion means.
"""

import tensorflow as tf

from refinedet_tf.boxes import area, clip, pairwise_iou

_NO_LIMIT = float("-inf")


def into_window(boxes, window):
    """`boxes` [..., 4] of the image in units of `window` [4] (0..1 is the window), not clipped."""
    origin, extent = window[:2], window[2:] - window[:2]
    return (boxes - tf.tile(origin, [2])) / tf.tile(extent, [2])


def out_of_window(boxes, window):
    """The inverse of `into_window`: `boxes` [..., 4] of the window in units of the image."""
    origin, extent = window[:2], window[2:] - window[:2]
    return boxes * tf.tile(extent, [2]) + tf.tile(origin, [2])


def boxes_in_window(boxes, window):
    """The objects that a window shows.

    An object stays if its centre lies in the window, and is cut to it (SSD's centre rule).

    Args:
        boxes: float32 [G, 4] of the image.
        window: float32 [4].

    Returns:
        boxes float32 [G, 4] in units of the window, clipped to 0..1, and keep bool [G].
    """
    moved = into_window(boxes, window)
    center = (moved[:, :2] + moved[:, 2:]) / 2
    inside = tf.reduce_all((center >= 0) & (center <= 1), axis=-1)
    cut = clip(moved)
    return cut, inside & (area(cut) > 0)


def sample_window(boxes, seed, config):
    """Draws the window of one training sample: an expansion, then a crop of the expanded image.

    Args:
        boxes: float32 [G, 4], G may be 0.
        seed: integer [2]; the window depends on it and the boxes alone.
        config: AugmentationConfig.

    Returns:
        float32 [4], the window.
    """
    expansion_seed, crop_seed = tf.unstack(tf.random.split(seed, 2))
    canvas = sample_expansion(expansion_seed, config)
    if not config.crop_min_ious:
        return canvas
    return out_of_window(sample_crop(into_window(boxes, canvas), crop_seed, config), canvas)


def sample_expansion(seed, config):
    """Draws the canvas on which the image is placed ("zoom out").

    With `expand_probability` the canvas is r times as high and wide as the image, r uniform in
    `expand_ratio`, and the image lies anywhere on it; otherwise the canvas is the image.

    Returns:
        float32 [4], a window that covers the image.
    """
    uniform = tf.random.stateless_uniform([4], seed, alg="philox")
    smallest, largest = config.expand_ratio
    ratio = smallest + uniform[1] * (largest - smallest)
    ratio = tf.where(uniform[0] < config.expand_probability, ratio, 1.0)
    origin = -uniform[2:] * (ratio - 1)
    return tf.concat([origin, origin + ratio], axis=0)


def sample_crop(boxes, seed, config):
    """Draws a crop as SSD's batch sampler does.

    The samplers are: the whole image; one for each of `crop_min_ious`; an unconstrained one. Each
    proposes at most one crop, the first of its `crop_trials` trials that has at least the wanted
    IoU with at least one object. One of the proposals made is drawn evenly. Without objects only
    the whole image and the unconstrained crop are proposed.

    Args:
        boxes: float32 [G, 4] in units of the image that is cropped; they may lie anywhere.
        seed: integer [2].
        config: AugmentationConfig.

    Returns:
        float32 [4], a window inside 0..1.
    """
    trial_seed, choice_seed = tf.unstack(tf.random.split(seed, 2))
    min_ious = tf.constant([*config.crop_min_ious, _NO_LIMIT])
    trials = _sample_trials(min_ious.shape[0], trial_seed, config)
    # The maximum over no objects is -inf, which fails every limit but the unconstrained one.
    best_iou = tf.reduce_max(pairwise_iou(trials, boxes), axis=-1)
    accepted = best_iou >= min_ious[:, None]
    first = tf.argmax(accepted, axis=-1, output_type=tf.int32)
    found = tf.reduce_any(accepted, axis=-1)
    proposals = tf.boolean_mask(tf.gather(trials, first, batch_dims=1), found)
    proposals = tf.concat([[[0.0, 0.0, 1.0, 1.0]], proposals], axis=0)
    count = tf.shape(proposals)[0]
    return proposals[tf.random.stateless_uniform([], choice_seed, 0, count, tf.int32, alg="philox")]


def _sample_trials(samplers, seed, config):
    """Candidate crops inside 0..1, float32 [samplers, crop_trials, 4].

    `scale` is the square root of the crop's share of the image's area; the aspect ratio is limited
    so that no side is longer than the image's.
    """
    shape = [samplers, config.crop_trials, 4]
    uniform = tf.unstack(tf.random.stateless_uniform(shape, seed, alg="philox"), axis=-1)
    scale = config.crop_scale[0] + uniform[0] * (config.crop_scale[1] - config.crop_scale[0])
    narrowest = tf.maximum(config.crop_aspect_ratio[0], tf.square(scale))
    widest = tf.minimum(config.crop_aspect_ratio[1], 1 / tf.square(scale))
    aspect_root = tf.sqrt(narrowest + uniform[1] * (widest - narrowest))
    height = tf.minimum(scale / aspect_root, 1.0)
    width = tf.minimum(scale * aspect_root, 1.0)
    ymin = uniform[2] * (1 - height)
    xmin = uniform[3] * (1 - width)
    return tf.stack([ymin, xmin, ymin + height, xmin + width], axis=-1)
