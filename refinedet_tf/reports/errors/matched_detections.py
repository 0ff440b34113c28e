"""Which detection counts for which object at IoU 0.5, by COCO's matching, and which class is taken for which.

The report of an evaluation needs more than AP: the kind of every error, the confused classes, the worst
images. All of it starts from this one matching, so that its numbers agree with each other, and the AP of
the matching is COCO's AP50.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
from pycocotools import mask

from refinedet_tf.data.coco_ground_truth import MAX_DETECTIONS
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.pixel_boxes import coco_pixels

MATCH_IOU = 0.5
"""The IoU that a detection and its object must reach."""

DifficultRule: TypeAlias = Literal["crowd", "once", "always"]
"""How detections on difficult objects are ignored, which depends on the metric.

"crowd": COCO's crowd regions; any number of detections that lie with half of their own area inside.
"once": difficult objects under the COCO metric; a single detection, by IoU.
"always": difficult objects of VOC; any number of detections, by IoU.
"""


@dataclasses.dataclass(frozen=True)
class MatchedDetections:
    """The detections that count, and the object that each of them is matched with.

    Attributes:
        detections: D detections, by image, then by descending score; of each image and class the best
            `MAX_DETECTIONS`.
        ground_truth: the M objects.
        objects: int64 [D], the row of the object in `ground_truth`; -1 without one.
        ignored: bool [D], whether the detection lies on a difficult object, so that it is neither right
            nor wrong.
    """

    detections: DatasetDetections
    ground_truth: GroundTruth
    objects: np.ndarray
    ignored: np.ndarray

    @property
    def true_positive(self) -> np.ndarray:
        """bool [D], whether the detection is matched with an object."""
        return self.objects >= 0

    @property
    def false_positive(self) -> np.ndarray:
        """bool [D], whether the detection counts and has no object."""
        return ~self.true_positive & ~self.ignored

    @property
    def matched_objects(self) -> np.ndarray:
        """bool [M], whether the object is matched with a detection."""
        matched = np.zeros(len(self.ground_truth.labels), bool)
        matched[self.objects[self.true_positive]] = True
        return matched

    def kept(self, thresholds: np.ndarray) -> np.ndarray:
        """Returns which detections, bool [D], count at the smallest scores of the classes, float [C].

        Label 1 comes first; nan keeps none.
        """
        return (self.detections.scores >= thresholds[self.detections.labels - 1]) & ~self.ignored


def match_detections(
    detections: DatasetDetections, ground_truth: GroundTruth, difficult_rule: DifficultRule
) -> MatchedDetections:
    """Matches detections with objects of their image and class, from the highest score down.

    A detection takes the object of the largest IoU among those that are not taken yet; of equal ones, the
    last, as in pycocotools. Difficult objects come after all others. Labels and images must be in range
    (`check_labels`).
    """
    detections = _counted(detections)
    matched = np.full(len(detections.scores), -1, np.int64)
    ignored = np.zeros(len(matched), bool)
    difficult = ground_truth.difficult
    for rows, objects, iou in overlaps_by_image(detections, ground_truth, difficult_rule == "crowd"):
        same_class = detections.labels[rows][:, None] == ground_truth.labels[objects][None, :]
        near = same_class & (iou >= MATCH_IOU)
        free = np.ones(len(objects), bool)
        for place in np.flatnonzero(near.any(axis=1)):
            candidates = np.flatnonzero(near[place] & free)
            regular = candidates[~difficult[objects[candidates]]]
            if regular.size:
                best = _last_largest(regular, iou[place])
                matched[rows[place]] = objects[best]
                free[best] = False
            elif candidates.size:
                ignored[rows[place]] = True
                if difficult_rule == "once":
                    free[_last_largest(candidates, iou[place])] = False
    return MatchedDetections(detections, ground_truth, matched, ignored)


def overlaps_by_image(
    detections: DatasetDetections, ground_truth: GroundTruth, crowd_regions: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the overlaps of each image that has both detections and objects, or detections alone.

    The detections are ordered by image. With `crowd_regions`, the overlap with a difficult object is measured
    by the detection's own area instead of the union.

    Yields:
        (rows of the detections int64 [d], rows of the objects int64 [g], IoU float64 [d, g]).
    """
    boxes = coco_pixels(detections.boxes, ground_truth.image_sizes[detections.images])
    object_boxes = coco_pixels(ground_truth.boxes, ground_truth.image_sizes[ground_truth.images])
    by_image = np.argsort(ground_truth.images, kind="stable")
    object_images = ground_truth.images[by_image]
    images, starts = np.unique(detections.images, return_index=True)
    ends = np.searchsorted(detections.images, images, side="right")
    for image, start, end in zip(images.tolist(), starts.tolist(), ends.tolist(), strict=True):
        rows = np.arange(start, end)
        first, last = np.searchsorted(object_images, [image, image + 1])
        objects = by_image[first:last]
        if not objects.size:
            yield rows, objects, np.zeros((len(rows), 0))
            continue
        crowd = ground_truth.difficult[objects] & crowd_regions
        yield rows, objects, mask.iou(boxes[rows], object_boxes[objects], crowd.astype(np.uint8).tolist())


def confusion_matrix(matches: MatchedDetections, thresholds: np.ndarray) -> np.ndarray:
    """Counts the pairs of the true class and the detected class.

    Detections of the right class are paired first, as in the metric, so that the diagonal agrees with
    precision and recall at the thresholds. What is left is paired by descending IoU, whatever its class,
    from IoU 0.5 on. Difficult objects, and the detections on them, are left out. The thresholds are those of
    `MatchedDetections.kept`.

    Returns:
        int64 [C + 1, C + 1]; the rows are the true classes, the columns the detected ones. Index 0 is the
        background: row 0 counts detections without an object, column 0 objects without a detection.
    """
    detections, ground_truth = matches.detections, matches.ground_truth
    matrix = np.zeros((len(thresholds) + 1, len(thresholds) + 1), np.int64)
    kept = matches.kept(thresholds)
    right = kept & matches.true_positive
    labels = detections.labels[right]
    np.add.at(matrix, (labels, labels), 1)
    free_detections = kept & ~right
    free_objects = ~ground_truth.difficult
    free_objects[matches.objects[right]] = False
    for rows, objects, iou in overlaps_by_image(detections, ground_truth):
        rows_here, objects_here = np.nonzero(iou >= MATCH_IOU)
        for pair in np.argsort(-iou[rows_here, objects_here], kind="stable").tolist():
            row, item = rows[rows_here[pair]], objects[objects_here[pair]]
            if free_detections[row] and free_objects[item]:
                matrix[ground_truth.labels[item], detections.labels[row]] += 1
                free_detections[row] = free_objects[item] = False
    np.add.at(matrix, (0, detections.labels[free_detections]), 1)
    np.add.at(matrix, (ground_truth.labels[free_objects], 0), 1)
    return matrix


def _counted(detections: DatasetDetections) -> DatasetDetections:
    """Returns the detections that count, by image, then by descending score; ties keep their order."""
    order = np.lexsort((-detections.scores, detections.images))
    by_class = order[np.lexsort((detections.labels[order], detections.images[order]))]
    group = np.stack([detections.images[by_class], detections.labels[by_class]])
    is_first = np.ones(len(by_class), bool)
    is_first[1:] = (group[:, 1:] != group[:, :-1]).any(axis=0)
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(by_class)), 0))
    counts = np.zeros(len(order), bool)
    counts[by_class] = np.arange(len(by_class)) - first < MAX_DETECTIONS
    kept = order[counts[order]]
    return DatasetDetections(
        detections.images[kept], detections.labels[kept], detections.scores[kept], detections.boxes[kept]
    )


def _last_largest(candidates: np.ndarray, values: np.ndarray) -> int:
    """Returns the candidate with the largest value, of equal ones the last."""
    return int(candidates[::-1][np.argmax(values[candidates[::-1]])])
