"""Numbers about the objects of a data set: how many, how large, of what shape, how crowded."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset

SIZE_LIMITS = (0.0, *(0.0125 * 2 ** (step / 2) for step in range(12)), 1.0)
"""The limits of the histogram of relative sizes, where 1 is the size of the image: steps of sqrt(2). Every
limit of `anchor_coverage.SIZE_LIMITS` is one of them."""

ASPECT_RATIO_LIMITS = (0.0, *(2 ** (step / 2 - 0.25) for step in range(-3, 5)), math.inf)
"""The limits of the histogram of width / height. The buckets lie around 1/4, 1/2.8, 1/2 and so on to 4, the
first and the last hold all that is beyond."""

ASPECT_RATIO_NAMES = ("1:4", "1:2.8", "1:2", "1:1.4", "1:1", "1.4:1", "2:1", "2.8:1", "4:1")
"""The names of these buckets."""

TWICE_IOU = 0.8
"""Two boxes of one class that overlap more are taken for one object that was annotated twice."""

USUAL_SHARE = 0.9
"""A class on at least this share of the images is expected on every image."""

_ROWS_AT_ONCE = 512
"""The number of boxes of an image whose overlaps with all others are in memory at the same time."""


@dataclasses.dataclass(frozen=True)
class ObjectCounts:
    """The objects of a split, of one class or of all."""

    images: int
    """The number of images with such an object; for all classes, of all images."""
    objects: int
    difficult: int
    """The number of objects marked difficult (VOC) or as crowd regions (COCO)."""
    sides: tuple[float, float, float] | None
    """The smallest, the median and the largest side, sqrt(height * width), in pixels of the network's input;
    None without objects."""
    sizes: tuple[int, ...]
    """The number of objects per bucket of `SIZE_LIMITS`."""
    aspect_ratios: tuple[int, ...]
    """The number of objects per bucket of `ASPECT_RATIO_LIMITS`; the shapes are those that the network sees,
    after the image was warped."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two boxes of one class on one image, which overlap by more than `TWICE_IOU`."""

    image: int
    label: int
    boxes: np.ndarray
    """float32 [2, 4], normalised `[ymin, xmin, ymax, xmax]`."""
    iou: float


def object_sides(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Returns sqrt(height * width) in pixels of the network's input, float64 [n].

    The boxes are float32 [n, 4], normalised `[ymin, xmin, ymax, xmax]`; the size is height and width.
    """
    return np.sqrt(np.prod(_extents(boxes), axis=1) * math.prod(image_size))


def count_objects(
    dataset: DetectionDataset, image_size: tuple[int, int]
) -> tuple[ObjectCounts, dict[str, ObjectCounts]]:
    """Counts the objects of all classes together and of each class.

    The image size is height and width of the network's input in pixels.
    """
    sides = object_sides(dataset.boxes, image_size)
    scale = math.sqrt(math.prod(image_size))
    buckets = np.clip(np.digitize(sides / scale, SIZE_LIMITS) - 1, 0, len(SIZE_LIMITS) - 2)
    height, width = (_extents(dataset.boxes) * image_size).T
    ratios = np.clip(np.digitize(width / height, ASPECT_RATIO_LIMITS) - 1, 0, len(ASPECT_RATIO_NAMES) - 1)
    images = dataset.image_of

    def count(rows: np.ndarray, num_images: int) -> ObjectCounts:
        chosen = sides[rows]
        return ObjectCounts(
            images=num_images,
            objects=len(rows),
            difficult=int(dataset.difficult[rows].sum()),
            sides=(float(chosen.min()), float(np.median(chosen)), float(chosen.max())) if len(rows) else None,
            sizes=tuple(np.bincount(buckets[rows], minlength=len(SIZE_LIMITS) - 1).tolist()),
            aspect_ratios=tuple(np.bincount(ratios[rows], minlength=len(ASPECT_RATIO_NAMES)).tolist()),
        )

    per_class = {}
    for label, name in enumerate(dataset.class_names, start=1):
        rows = np.flatnonzero(dataset.labels == label)
        per_class[name] = count(rows, len(np.unique(images[rows])))
    return count(np.arange(len(dataset.boxes)), len(dataset)), per_class


def images_without_usual_class(dataset: DetectionDataset) -> dict[str, list[int]]:
    """Finds images on which somebody may have forgotten a class.

    Returns:
        The name of each class that is on at least `USUAL_SHARE` of the images with objects, but not on all
        -> the indices of the images with objects that lack it. A data set of one class has no such class.
    """
    with_objects = dataset.objects_per_image > 0
    lacking_images = {}
    for label, name in enumerate(dataset.class_names, start=1):
        has_class = np.zeros(len(dataset), bool)
        has_class[dataset.image_of[dataset.labels == label]] = True
        lacking = np.flatnonzero(with_objects & ~has_class)
        if len(lacking) and has_class.sum() >= USUAL_SHARE * with_objects.sum():
            lacking_images[name] = lacking.tolist()
    return lacking_images


def overlaps(dataset: DetectionDataset, nms_iou: float) -> tuple[list[Pair], int]:
    """Compares the boxes of each image with those of the same class; difficult objects are left out.

    Returns:
        The pairs above `TWICE_IOU`, in the order of the images, and the number of objects that overlap
        another one of their class by more than `nms_iou`.
    """
    pairs = []
    crowded = 0
    for image in np.flatnonzero(dataset.objects_per_image > 1).tolist():
        boxes, labels, difficult = dataset.image_annotations(image)
        boxes, labels = boxes[~difficult], labels[~difficult]
        for first, ious in _ious_of_same_class(boxes, labels):
            crowded += int((ious > nms_iou).any(axis=1).sum())
            for row, column in np.argwhere(ious > TWICE_IOU).tolist():
                if first + row < column:
                    two = boxes[[first + row, column]]
                    pairs.append(Pair(image, int(labels[column]), two, float(ious[row, column])))
    return pairs, crowded


def _ious_of_same_class(boxes: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first row and the IoUs [rows, n] of a block of boxes with all boxes.

    The IoU of a box with itself and with boxes of other classes is 0.
    """
    areas = np.prod(_extents(boxes), axis=1)
    for first in range(0, len(boxes), _ROWS_AT_ONCE):
        block = boxes[first : first + _ROWS_AT_ONCE, None]
        sides = np.minimum(block[..., 2:], boxes[:, 2:]) - np.maximum(block[..., :2], boxes[:, :2])
        intersection = np.prod(np.maximum(sides, 0), axis=2, dtype=np.float64)
        rows = np.arange(first, first + len(block))
        intersection[labels[rows, None] != labels] = 0
        intersection[np.arange(len(block)), rows] = 0
        yield first, intersection / (areas[rows, None] + areas - intersection)


def _extents(boxes: np.ndarray) -> np.ndarray:
    """Returns height and width, float64 [n, 2]."""
    return np.asarray(boxes[:, 2:], np.float64) - boxes[:, :2]
