"""Anchors that are not the paper's, with other numbers per level, and their boxes by loops."""

import math

from refinedet_tf.config.values import AnchorLevel


def level(stride, scales, aspect_ratios=(1.0, 2.0, 0.5)):
    return AnchorLevel(stride=stride, scales=tuple(scales), aspect_ratios=tuple(aspect_ratios))


FOUR_LEVELS = (level(8, [12, 20]), level(16, [40], [1]), level(32, [60], [1, 3]), level(64, [64], [1.5]))
"""For images of at least 64 pixels: 6, 1, 2 and 1 anchors per cell."""

FIVE_LEVELS = (level(4, [6, 9], [0.8, 1.25]), *FOUR_LEVELS)
"""The same with a level of stride 4 and 4 anchors per cell."""


def tile_by_loops(image_size, levels):
    """The normalised boxes by level, row, column, scale and ratio; the levels are dicts, as in JSON."""
    height, width = image_size
    boxes = []
    for entry in levels:
        for row in range(math.ceil(height / entry["stride"])):
            for column in range(math.ceil(width / entry["stride"])):
                for scale in entry["scales"]:
                    for ratio in entry["aspect_ratios"]:
                        h, w = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                        y, x = (row + 0.5) * entry["stride"], (column + 0.5) * entry["stride"]
                        top_left = [(y - h / 2) / height, (x - w / 2) / width]
                        boxes.append([*top_left, (y + h / 2) / height, (x + w / 2) / width])
    return boxes
