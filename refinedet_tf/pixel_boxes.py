"""Boxes in pixels: to and from normalised boxes, in the conventions of VOC and COCO.

Inside the project a box is normalised `[ymin, xmin, ymax, xmax]`; pixels exist only where images, files
and the metrics of others are met. Everything here is NumPy.
"""

import numpy as np

VOC_ORIGIN = np.array([1.0, 1.0, 0.0, 0.0])
"""VOC counts pixels from 1 and includes both ends: its minimum is one more than the continuous one."""


def to_pixels(boxes: np.ndarray, image_sizes: np.ndarray | tuple[int, int]) -> np.ndarray:
    """Normalised boxes in continuous pixels.

    Args:
        boxes: float [..., n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        image_sizes: [n, 2] or [2], height and width of the image of each box or of all.

    Returns:
        `[ymin * H, xmin * W, ymax * H, xmax * W]`, of the type of `boxes`.
    """
    boxes = np.asarray(boxes)
    return boxes * _sides(image_sizes, boxes.dtype)


def to_normalized(boxes: np.ndarray, image_sizes: np.ndarray | tuple[int, int]) -> np.ndarray:
    """The inverse of `to_pixels`: same arguments, boxes in pixels."""
    boxes = np.asarray(boxes)
    return boxes / _sides(image_sizes, boxes.dtype)


def voc_pixels(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """Normalised boxes in the pixels of the VOC devkit: the inverse of what the VOC reader does.

    Args:
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        image_sizes: int [n, 2], height and width of the image of each box.

    Returns:
        float64 [n, 4], `[ymin * H + 1, xmin * W + 1, ymax * H, xmax * W]`.
    """
    return to_pixels(np.asarray(boxes, np.float64), image_sizes) + VOC_ORIGIN


def coco_pixels(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """Normalised boxes as COCO writes them.

    Args:
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        image_sizes: int [n, 2], height and width of the image of each box.

    Returns:
        float64 [n, 4], `[x, y, width, height]` in pixels from 0, `width = (xmax - xmin) * W` without "+1".
    """
    ymin, xmin, ymax, xmax = to_pixels(np.asarray(boxes, np.float64), image_sizes).T
    return np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1)


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes in pixels that include both ends, as Caffe's programs and the VOC devkit count.

    A box is `xmax - xmin + 1` wide.

    Args:
        a, b: float [..., 4], `[ymin, xmin, ymax, xmax]`; leading axes broadcast.

    Returns:
        [...] of the boxes' type; 0 where the boxes do not meet, and of an inverted box.
    """
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
    extent_a, extent_b = a[..., 2:] - a[..., :2] + 1, b[..., 2:] - b[..., :2] + 1
    union = extent_a[..., 0] * extent_a[..., 1] + extent_b[..., 0] * extent_b[..., 1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _sides(image_sizes, dtype) -> np.ndarray:
    sizes = np.asarray(image_sizes)
    return np.concatenate([sizes, sizes], axis=-1).astype(dtype)
