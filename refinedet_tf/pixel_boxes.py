"""Conversion between normalised boxes and boxes in pixels, in the conventions of VOC and COCO.

Inside the project a box is normalised `[ymin, xmin, ymax, xmax]`. Pixels appear only at images, files and
the published metrics. All functions here use NumPy.
"""

import numpy as np

VOC_ORIGIN = np.array([1.0, 1.0, 0.0, 0.0])
"""VOC counts pixels from 1 and includes both ends, so its minimum is one more than the continuous one."""


def to_pixels(boxes: np.ndarray, image_sizes: np.ndarray | tuple[int, int]) -> np.ndarray:
    """Converts normalised boxes to continuous pixels.

    Args:
        boxes: float [..., n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        image_sizes: [n, 2] or [2], height and width of each box's image, or of the one image of all.

    Returns:
        `[ymin * H, xmin * W, ymax * H, xmax * W]`, [..., n, 4] of the same dtype as `boxes`.
    """
    boxes = np.asarray(boxes)
    return boxes * _sides(image_sizes, boxes.dtype)


def to_normalized(boxes: np.ndarray, image_sizes: np.ndarray | tuple[int, int]) -> np.ndarray:
    """Converts boxes in continuous pixels to normalised boxes; this is the inverse of `to_pixels`.

    Args:
        boxes: float [..., n, 4], `[ymin, xmin, ymax, xmax]` in pixels.
        image_sizes: as in `to_pixels`.

    Returns:
        Normalised `[ymin, xmin, ymax, xmax]`, [..., n, 4] of the same dtype as `boxes`.
    """
    boxes = np.asarray(boxes)
    return boxes / _sides(image_sizes, boxes.dtype)


def voc_pixels(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """Converts normalised boxes to the pixels of the VOC devkit; the VOC reader does the inverse.

    Args:
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        image_sizes: int [n, 2], height and width of the image of each box.

    Returns:
        float64 [n, 4], `[ymin * H + 1, xmin * W + 1, ymax * H, xmax * W]`.
    """
    return to_pixels(np.asarray(boxes, np.float64), image_sizes) + VOC_ORIGIN


def coco_pixels(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """Converts normalised boxes to COCO's form.

    Args:
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        image_sizes: int [n, 2], height and width of the image of each box.

    Returns:
        float64 [n, 4], `[x, y, width, height]` in pixels from 0, `width = (xmax - xmin) * W` without "+1".
    """
    ymin, xmin, ymax, xmax = to_pixels(np.asarray(boxes, np.float64), image_sizes).T
    return np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1)


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the IoU of boxes that include both end pixels, as Caffe's programs and the VOC devkit do.

    A box is `xmax - xmin + 1` wide.

    Args:
        a: float [..., 4], `[ymin, xmin, ymax, xmax]` in pixels.
        b: float [..., 4], `[ymin, xmin, ymax, xmax]` in pixels; its leading axes broadcast with those of `a`.

    Returns:
        [...] of the boxes' dtype. It is 0 where the boxes do not overlap and where one of them is inverted.
    """
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
    extent_a, extent_b = a[..., 2:] - a[..., :2] + 1, b[..., 2:] - b[..., :2] + 1
    union = extent_a[..., 0] * extent_a[..., 1] + extent_b[..., 0] * extent_b[..., 1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _sides(image_sizes: np.ndarray | tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Returns (height, width, height, width) of each image, [n, 4] or [4]."""
    sizes = np.asarray(image_sizes)
    return np.concatenate([sizes, sizes], axis=-1).astype(dtype)
