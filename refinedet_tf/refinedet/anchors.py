"""The tiled anchors (paper, section 3.2, "Anchors Design and Matching"), and those of a config's own."""

from collections.abc import Sequence

import numpy as np

from refinedet_tf.config.values import DEFAULT_LEVELS, AnchorLevel, level_grids


def tile_anchors(
    image_size: tuple[int, int], anchor_levels: Sequence[AnchorLevel] | None = None
) -> np.ndarray:
    """Returns all anchors for images of one size.

    Args:
        image_size: (height, width) in pixels.
        anchor_levels: the value of `model.anchors`; None: the paper's anchors.

    Returns:
        float32 [A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped to the image. They are
        ordered by level (the smallest stride first), then row, column, scale and aspect ratio. The
        paper's are 6,375 for 320 x 320 pixels and 16,320 for 512 x 512.
    """
    anchor_levels = DEFAULT_LEVELS if anchor_levels is None else anchor_levels
    tiled = []
    for level, (rows, columns) in zip(anchor_levels, level_grids(image_size, anchor_levels), strict=True):
        heights, widths = level.shapes().T
        cy, cx = np.meshgrid(
            (np.arange(rows) + 0.5) * level.stride, (np.arange(columns) + 0.5) * level.stride, indexing="ij"
        )
        cy, cx = cy[..., None], cx[..., None]
        corners = [cy - heights / 2, cx - widths / 2, cy + heights / 2, cx + widths / 2]
        tiled.append(np.stack(corners, axis=-1).reshape(-1, 4))
    height, width = image_size
    scale = np.array([height, width, height, width], np.float64)
    return (np.concatenate(tiled) / scale).astype(np.float32)
