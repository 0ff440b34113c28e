"""The tiled anchors (paper, section 3.2, "Anchors Design and Matching")."""

import math

import numpy as np

STRIDES = (8, 16, 32, 64)
"""The distance in pixels between neighbouring cells, for each of the four levels."""

SCALE = 4
"""The side of a level's square anchor in units of its stride, which gives 32, 64, 128 and 256 pixels."""

ASPECT_RATIOS = (1.0, 2.0, 0.5)
"""Width / height, in the order of the heads' channels. All anchors of a level have the same area."""

ANCHORS_PER_CELL = len(ASPECT_RATIOS)


def level_grids(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns (rows, columns) of each level's grid, stride 8 first, for (height, width) in pixels."""
    height, width = image_size
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]


def tile_anchors(image_size: tuple[int, int]) -> np.ndarray:
    """Returns all anchors for images of one size.

    Args:
        image_size: (height, width) in pixels.

    Returns:
        float32 [A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped to the image. They are
        ordered by level (stride 8 first), then row, column and aspect ratio. There are 6,375 for
        320 x 320 pixels and 16,320 for 512 x 512.
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
