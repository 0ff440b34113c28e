"""Average precision as PASCAL VOC measures it (the development kit, and the authors' voc_eval).

Coordinates are the devkit's: pixels that start at 1 and include both ends, so that a box is
`xmax - xmin + 1` wide. A detection is matched with the object of its class and image that has the largest
IoU with it. If that IoU does not exceed the threshold, the detection is a false positive. Otherwise it is
ignored if the object is difficult, a true positive if it is the first (highest score) on the object, and a
false positive if it is not the first.
"""

from collections.abc import Sequence

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.evaluation.results import ClassResult
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.pixel_boxes import inclusive_iou, voc_pixels


def average_precisions(
    detections: DatasetDetections,
    ground_truth: GroundTruth,
    class_names: Sequence[str],
    metric: str,
    iou: float = 0.5,
) -> dict[str, ClassResult]:
    """Computes the AP and the precision-recall curve of every class.

    Args:
        detections: the detections of the dataset.
        ground_truth: the objects of the dataset.
        class_names: C names, label 1 first.
        metric: "voc07" (11 points) or "voc" (area under the curve, since 2010).
        iou: the IoU that a detection and its object must exceed.

    Returns:
        {class name: ClassResult}, in the order of `class_names`. A class without objects to find has
        AP nan and must be left out of the mean (the authors' program gives 0 with 11 points and nan with
        the area). A class with objects and without detections has AP 0.

    Raises:
        InputError: the metric is unknown, or a label or an image index is out of range.
    """
    check_labels(detections, ground_truth, len(class_names))
    detection_boxes = voc_pixels(detections.boxes, ground_truth.image_sizes[detections.images])
    object_boxes = voc_pixels(ground_truth.boxes, ground_truth.image_sizes[ground_truth.images])
    results = {}
    for label, name in enumerate(class_names, start=1):
        detected, objects = detections.labels == label, ground_truth.labels == label
        results[name] = class_average_precision(
            detections.images[detected],
            detections.scores[detected],
            detection_boxes[detected],
            ground_truth.images[objects],
            object_boxes[objects],
            ground_truth.difficult[objects],
            metric,
            iou,
        )
    return results


def class_average_precision(
    images: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    object_images: np.ndarray,
    object_boxes: np.ndarray,
    difficult: np.ndarray,
    metric: str,
    iou: float = 0.5,
) -> ClassResult:
    """Computes the AP of one class from boxes in the devkit's pixels.

    Args:
        images: int [D], the index of the image of each detection.
        scores: float [D].
        boxes: float [D, 4], `[ymin, xmin, ymax, xmax]` in pixels, from 1, both ends included.
        object_images: int [M], the index of the image of each object.
        object_boxes: float [M, 4], of the form of `boxes`.
        difficult: bool [M].
        metric: "voc07" or "voc".
        iou: the IoU that a detection and its object must exceed.

    Raises:
        InputError: the metric is unknown.
    """
    if metric not in ("voc07", "voc"):
        raise InputError(f'the metric must be "voc07" or "voc", got {metric!r}')
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    difficult = np.asarray(difficult, bool)
    best_object, best_iou = _best_objects(images[order], boxes[order], object_images, object_boxes)
    hit = best_iou > iou
    ignored = hit.copy()
    ignored[hit] = difficult[best_object[hit]]
    candidates = np.flatnonzero(hit & ~ignored)
    first_on_object = np.unique(best_object[candidates], return_index=True)[1]
    true_positive = np.zeros(len(order), bool)
    true_positive[candidates[first_on_object]] = True

    num_objects = int(np.count_nonzero(~difficult))
    true_positives = np.cumsum(true_positive)
    counted = np.cumsum(~ignored)
    precision = true_positives / np.maximum(counted, 1)
    recall = true_positives / num_objects if num_objects else np.full(len(order), np.nan)
    if num_objects:
        ap = eleven_point_ap(recall, precision) if metric == "voc07" else area_ap(recall, precision)
    else:
        ap = float("nan")
    return ClassResult(ap, recall, precision, np.asarray(scores)[order], num_objects, len(order))


def eleven_point_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Computes AP as VOC 2007: the mean over recall 0, 0.1, ..., 1 of the best precision from there on.

    The recall levels are those of `arange`, as in the authors' program. Three of them lie one rounding
    error above the decimal, so that a recall of exactly 0.3, 0.6 or 0.7 does not reach its level.

    Args:
        recall: float [P], 0..1, ascending; P may be 0.
        precision: float [P], 0..1.
    """
    levels = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in levels]))


def area_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Computes AP as VOC since 2010: the area under the curve, with precision made monotonically falling.

    The arguments are those of `eleven_point_ap`.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _best_objects(
    images: np.ndarray, boxes: np.ndarray, object_images: np.ndarray, object_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the object of the same image with the largest IoU: its row, int64 [D], and that IoU [D].

    If the image has no object, the row has no meaning and the IoU is 0; ties take the first row. All
    pairs of a detection and an object of its image form one flat array, ordered by detection, so that
    no loop over images is needed.
    """
    by_image = np.argsort(object_images, kind="stable")
    start = np.searchsorted(object_images[by_image], images, side="left")
    count = np.searchsorted(object_images[by_image], images, side="right") - start
    best_object, best_iou = np.zeros(len(images), np.int64), np.zeros(len(images))
    detection = np.repeat(np.arange(len(images)), count)
    if not detection.size:
        return best_object, best_iou
    place_in_image = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    objects = by_image[np.repeat(start, count) + place_in_image]
    overlap = inclusive_iou(boxes[detection], object_boxes[objects])
    np.maximum.at(best_iou, detection, overlap)
    is_best = overlap == best_iou[detection]
    with_objects, first = np.unique(detection[is_best], return_index=True)
    best_object[with_objects] = objects[is_best][first]
    return best_object, best_iou
