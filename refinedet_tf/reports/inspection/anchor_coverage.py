"""How well the tiled anchors reach the objects of a data set.

The ARM matches an anchor to an object if their IoU is at least `loss.positive_iou`, 0.5 in the paper; an
object that no anchor reaches gets only its best one (paper, section 3.2).
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from refinedet_tf.config.values import DEFAULT_LEVELS, AnchorLevel, level_grids

SIZE_LIMITS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0)
"""The limits of the size buckets: relative sizes, where 1 is the size of the image. At 320 pixels the inner
limits are objects of 8, 16, 32, 64 and 128 pixels."""

PAPERS_IOU = 0.5
"""The default of `loss.positive_iou`."""

BOXES_AT_ONCE = 2**16
"""The number of boxes whose overlaps are in memory at the same time."""


@dataclasses.dataclass(frozen=True)
class SizeCoverage:
    """The coverage of the objects of some sizes.

    Attributes:
        smallest: the smallest relative size, sqrt(height * width) of the normalised box; it belongs to the
            bucket.
        largest: the largest relative size, which belongs to the next bucket.
        objects: the number of objects of these sizes.
        share_below: the share of them, 0..1, whose best IoU is below `positive_iou`; None without objects.
        mean_best_iou: the mean of their best IoUs; None without objects.
    """

    smallest: float
    largest: float
    objects: int
    share_below: float | None
    mean_best_iou: float | None


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The coverage of all objects, and per size bucket, between each two of `SIZE_LIMITS`, smallest first."""

    objects: int
    share_below: float | None
    mean_best_iou: float | None
    sizes: tuple[SizeCoverage, ...]


def coverage(
    boxes: np.ndarray,
    image_size: tuple[int, int],
    anchor_levels: Sequence[AnchorLevel] | None = None,
    positive_iou: float = PAPERS_IOU,
) -> Coverage:
    """Summarises `best_ious`, whose arguments it takes. `dataclasses.asdict` makes it fit for JSON.

    `positive_iou` is the IoU from which an anchor reaches an object, the value of `loss.positive_iou`.
    """
    ious, sizes = best_ious(boxes, image_size, anchor_levels), relative_sizes(boxes)
    # Larger objects than the image do not exist; the last bucket takes whatever rounding makes of 1.
    buckets = np.clip(np.digitize(sizes, SIZE_LIMITS) - 1, 0, len(SIZE_LIMITS) - 2)
    by_size = []
    for bucket, (smallest, largest) in enumerate(itertools.pairwise(SIZE_LIMITS)):
        by_size.append(SizeCoverage(smallest, largest, *_summary(ious[buckets == bucket], positive_iou)))
    return Coverage(*_summary(ious, positive_iou), tuple(by_size))


def best_ious(
    boxes: np.ndarray, image_size: tuple[int, int], anchor_levels: Sequence[AnchorLevel] | None = None
) -> np.ndarray:
    """Returns the IoU of each object with the best of all tiled anchors.

    For anchors of equal shape, the overlap with a box falls with the distance of the centres along each
    axis. The best one is therefore that of the nearest cell, and no other is looked at.

    Args:
        boxes: float [N, 4], normalised `[ymin, xmin, ymax, xmax]`, of any number of images. As images are
            warped to the network's size, normalised boxes suffice.
        image_size: (height, width) of the network's input in pixels.
        anchor_levels: the value of `model.anchors`; None: the paper's anchors.

    Returns:
        float64 [N], 0..1; 0 for a box without area.
    """
    levels = DEFAULT_LEVELS if anchor_levels is None else anchor_levels
    best = np.zeros(len(boxes))
    for first in range(0, len(boxes), BOXES_AT_ONCE):
        part = slice(first, first + BOXES_AT_ONCE)
        for level, grid in zip(levels, level_grids(image_size, levels), strict=True):
            ious = level_ious(boxes[part], image_size, level.stride, grid, level.shapes())
            best[part] = np.maximum(best[part], ious)
    return best


def level_ious(
    boxes: np.ndarray, image_size: tuple[int, int], stride: int, grid: tuple[int, int], shapes: np.ndarray
) -> np.ndarray:
    """Returns the IoU of each object with the best anchor of a level, as `best_ious` does.

    The level has a grid of (rows, columns) and in each cell anchors of the shapes (height, width) in pixels,
    float64 [n, 2].
    """
    pixels = np.asarray(boxes, np.float64).reshape(-1, 2, 2) * np.asarray(image_size, np.float64)
    low, high = pixels[:, 0], pixels[:, 1]
    cells = np.clip(np.floor((low + high) / 2 / stride), 0, np.array(grid) - 1)
    centres = (cells + 0.5) * stride
    areas = np.prod(np.maximum(high - low, 0), axis=1)
    best = np.zeros(len(pixels))
    for shape in shapes:
        overlap = np.minimum(high, centres + shape / 2) - np.maximum(low, centres - shape / 2)
        intersection = np.prod(np.maximum(overlap, 0), axis=1)
        best = np.maximum(best, intersection / (areas + shape.prod() - intersection))
    return best


def relative_sizes(boxes: np.ndarray) -> np.ndarray:
    """Returns sqrt(height * width), float64 [N], of normalised boxes [N, 4]."""
    sides = np.maximum(np.asarray(boxes[:, 2:], np.float64) - boxes[:, :2], 0)
    return np.sqrt(np.prod(sides, axis=1))


def _summary(ious: np.ndarray, positive_iou: float) -> tuple[int, float | None, float | None]:
    """Returns the number of objects, their share below `positive_iou` and their mean IoU."""
    if not len(ious):
        return 0, None, None
    return len(ious), float(np.mean(ious < positive_iou)), float(np.mean(ious))
