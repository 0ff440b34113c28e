"""Random outputs of the network, float32 numpy arrays as `build_model` describes them."""

import numpy as np

NAMES = ("arm_loc", "arm_conf", "odm_loc", "odm_conf")


def normal_heads(batch, num_anchors, num_classes, seed, deviations):
    """Normally distributed heads around 0; one standard deviation for each of `NAMES`."""
    generator = np.random.default_rng(seed)
    widths = (4, 2, 4, num_classes + 1)
    return {
        name: generator.normal(0, deviation, (batch, num_anchors, width)).astype(np.float32)
        for name, width, deviation in zip(NAMES, widths, deviations, strict=True)
    }


def training_heads(batch, num_anchors, num_classes, seed=0, deviation=1.0):
    """Heads whose ARM finds an object in few anchors, as that of a network in training does."""
    heads = normal_heads(batch, num_anchors, num_classes, seed, [deviation] * 4)
    heads["arm_conf"][..., 0] += 3 * deviation
    return heads


def detection_heads(batch, num_anchors, num_classes, seed=0):
    """Heads whose scores lie anywhere between 0 and 1, so that every threshold divides them."""
    return normal_heads(batch, num_anchors, num_classes, seed, [1.0, 3.0, 1.0, 2.0])
