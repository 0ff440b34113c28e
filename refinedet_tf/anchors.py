"""The tiled anchors (paper, section 3.2: anchors design and matching)."""

import math

import numpy as np

STRIDES = (8, 16, 32, 64)
"""Pixels between neighbouring cells of the four levels."""

SCALE = 4
"""Side of a level's square anchor in units of its stride: 32, 64, 128, 256 pixels."""

ASPECT_RATIOS = (1.0, 2.0, 0.5)
"""width / height, in the order of the heads' channels; all anchors of a level have one area."""

ANCHORS_PER_CELL = len(ASPECT_RATIOS)


def level_grids(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of each level's grid for an image of [height, width] pixels."""
    return [tuple(math.ceil(side / stride) for side in image_size) for stride in STRIDES]


def tile_anchors(image_size: tuple[int, int]) -> np.ndarray:
    """All anchors of an image size.

    Args:
        image_size: (height, width) in pixels.

    Returns:
        float32 [A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped to the image: level by
        level (stride 8 first), row by row, column by column, then aspect ratio. 6,375 at 320 x 320,
        16,320 at 512 x 512.
    """
    levels = []
    for stride, (rows, columns) in zip(STRIDES, level_grids(image_size), strict=True):
        side = SCALE * stride
        widths = np.array([side * math.sqrt(ratio) for ratio in ASPECT_RATIOS])
        heights = np.array([side / math.sqrt(ratio) for ratio in ASPECT_RATIOS])
        cy, cx = np.meshgrid(
            (np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, indexing="ij"
        )
        cy, cx = cy[..., None], cx[..., None]
        corners = [cy - heights / 2, cx - widths / 2, cy + heights / 2, cx + widths / 2]
        levels.append(np.stack(corners, axis=-1).reshape(-1, 4))
    height, width = image_size
    scale = np.array([height, width, height, width], np.float64)
    return (np.concatenate(levels) / scale).astype(np.float32)
