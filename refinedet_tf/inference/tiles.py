"""Tiles of a large image: where they lie, which boxes their borders cut, and how their boxes are merged.

Regions are `[ymin, xmin, ymax, xmax]` in pixels of the whole image.
"""

import dataclasses
import math

import numpy as np

from refinedet_tf.errors import InputError

SMALLEST_SIDE = 32
"""The smallest side of a tile in pixels; smaller tiles show parts of objects, and are too many."""

LARGEST_OVERLAP = 0.9

BORDER = 0.01
"""A box touches the border of its tile if it ends within this share of the tile's side from it."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are divided into overlapping tiles.

    Args:
        side: the shorter side of a tile in pixels of the image, at least `SMALLEST_SIDE`. A tile has the
            shape of the network's input. The network sees the pixels as they are if `side` is its own size,
            and enlarged if it is smaller.
        overlap: the share of the side of a tile that it has in common with the next one, 0..0.9. It is at
            least this, because the tiles are spread evenly over the image.

    Raises:
        InputError: a value is out of its range.
    """

    side: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.side < SMALLEST_SIDE:
            raise InputError(f"the side of a tile must be at least {SMALLEST_SIDE} pixels, got {self.side}")
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            raise InputError(f"the overlap of tiles must lie in 0..{LARGEST_OVERLAP}, got {self.overlap}")

    def regions(self, image_size: tuple[int, int], input_size: tuple[int, int]) -> np.ndarray:
        """Places the tiles on an image.

        Args:
            image_size: (height, width) of the image in pixels.
            input_size: (height, width) of the network's input in pixels, which gives the tiles their shape.

        Returns:
            int64 [T, 4], row by row from the top left. They cover the image. Where the image is shorter than
            a tile, the tile is as short as the image. T is 0 for an image that is not larger than a tile,
            because the pass over the whole image sees as much.
        """
        shortest = min(input_size)
        sides = [round(self.side * length / shortest) for length in input_size]
        rows, columns = (self._starts(length, side) for length, side in zip(image_size, sides, strict=True))
        if len(rows) == len(columns) == 1:
            return np.zeros((0, 4), np.int64)
        height, width = (min(side, length) for length, side in zip(image_size, sides, strict=True))
        corners = [(row, column) for row in rows for column in columns]
        return np.array([(row, column, row + height, column + width) for row, column in corners], np.int64)

    def _starts(self, length: int, side: int) -> list[int]:
        """Returns where the tiles begin on an axis of the image that is `length` pixels long."""
        if length <= side:
            return [0]
        # A step is a whole number of pixels, so that the overlap is not smaller by rounding.
        step = max(1, math.floor(side * (1 - self.overlap)))
        count = 1 + math.ceil((length - side) / step)
        return [(length - side) * number // (count - 1) for number in range(count)]


def seen_better_elsewhere(
    boxes: np.ndarray, tile: int, regions: np.ndarray, image_size: tuple[int, int]
) -> np.ndarray:
    """Finds the boxes that the border of their tile cuts although another tile holds them wholly.

    A box that ends at an inner border of its tile, one that is not a border of the image, is a part of an
    object that goes on. Another tile that contains the box, away from its own inner borders, shows more
    of the object. Where there is none, the object is longer than the overlap, and its parts are all that
    the tiles show of it.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of the whole image, detected on one tile.
        tile: the row of the tile in `regions`.
        regions: int [T, 4], all tiles of the image.
        image_size: (height, width) of the image.

    Returns:
        bool [n].
    """
    inner = regions != np.tile(image_size, 2) * [0, 0, 1, 1]
    # A border of the image does not cut, so that the room there has no end.
    low = np.where(inner[:, :2], regions[:, :2], -np.inf)
    high = np.where(inner[:, 2:], regions[:, 2:], np.inf)
    margins = BORDER * (regions[:, 2:] - regions[:, :2])
    low, high = low + margins, high - margins
    cut = ((boxes[:, :2] <= low[tile]) | (boxes[:, 2:] >= high[tile])).any(axis=1)
    whole = (boxes[:, None, :2] > low) & (boxes[:, None, 2:] < high)
    # The tile itself does not hold its cut boxes in this sense.
    return cut & whole.all(axis=2).any(axis=1)


def suppress_between_views(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, views: np.ndarray, iou: float
) -> np.ndarray:
    """Suppresses greedily, class by class, among the detections of several views of one image.

    The boxes are visited in descending order of score, equal scores in the order of the rows. Each is
    suppressed if its IoU with a kept box of its class and of another view exceeds `iou`. Boxes of one view
    do not suppress each other, because the post-processing of that view has judged them.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]`, normalised or in pixels.
        scores: float [n].
        labels: int [n].
        views: int [n], the view that each box was detected on.
        iou: the IoU above which a box is suppressed, with continuous coordinates.

    Returns:
        int64 [k], the rows that are kept, in descending order of score.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[np.ndarray] = []
    for label in np.unique(labels):
        remaining = order[labels[order] == label]
        alive = np.ones(len(remaining), bool)
        class_boxes, class_views = boxes[remaining].astype(np.float64), views[remaining]
        areas = (class_boxes[:, 2:] - class_boxes[:, :2]).prod(axis=1)
        for row in range(len(remaining)):
            if alive[row]:
                rest = slice(row + 1, None)
                sides = np.minimum(class_boxes[rest, 2:], class_boxes[row, 2:])
                sides = sides - np.maximum(class_boxes[rest, :2], class_boxes[row, :2])
                shared = np.maximum(sides, 0).prod(axis=1)
                overlapping = shared > iou * (areas[rest] + areas[row] - shared)
                alive[rest] &= ~(overlapping & (class_views[rest] != class_views[row]))
        kept.append(remaining[alive])
    if not kept:
        return np.zeros(0, np.int64)
    rows = np.sort(np.concatenate(kept))
    return rows[np.argsort(-scores[rows], kind="stable")]
