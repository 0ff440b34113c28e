"""The kinds of errors of TIDE, and what each of them costs in mAP.

Bolya, Foley, Hays, Hoffman: "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
sections 2.2 and 2.3. Each false positive has one kind, decided by its largest IoU with the objects of its
own class and of the others; objects that no detection finds, and that no false positive of the first two
kinds lies on, are missed. The cost of a kind is the rise of mAP at IoU 0.5 when that kind alone is fixed.
"""

import dataclasses

import numpy as np

from refinedet_tf.reports.errors.curves import count_objects, interpolated_ap, precision_recall_curve
from refinedet_tf.reports.errors.matched_detections import (
    MATCH_IOU,
    MatchedDetections,
    overlaps_by_image,
)

BACKGROUND_IOU = 0.1
"""A detection whose IoU with every object is at most this lies on the background."""

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
"""The kinds, in the order of the paper."""

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))

MEANINGS = {
    "classification": "the box fits an object of another class (IoU of at least 0.5)",
    "localisation": "the class is right, but the box is not (IoU of 0.1 to 0.5)",
    "both": "the box lies near an object of another class only (IoU of 0.1 to 0.5)",
    "duplicate": "the object was found already by a detection of a higher score",
    "background": "there is no object (IoU of at most 0.1)",
    "missed": "an object that nothing lies on",
}
"""What each kind means, for readers of a report."""


@dataclasses.dataclass(frozen=True)
class ErrorKinds:
    """The kind of each error.

    Attributes:
        kinds: int64 [D], the index in `KINDS` of each false positive of the matched detections; -1 for
            true positives and ignored detections.
        targets: int64 [D], the row of the object that an error of classification or localisation would
            find if it were fixed; -1 if there is none, because the object is found already or a
            detection of a higher score would find it.
        missed: bool [M], the objects that are missed.
    """

    kinds: np.ndarray
    targets: np.ndarray
    missed: np.ndarray

    def count(self) -> dict[str, int]:
        """Returns the number of errors by kind."""
        counts = [int(np.count_nonzero(self.kinds == kind)) for kind in range(MISSED)]
        return dict(zip(KINDS, [*counts, int(np.count_nonzero(self.missed))], strict=True))


def find_error_kinds(matches: MatchedDetections) -> ErrorKinds:
    """Decides the kind of each error.

    Where a detection fits several kinds, the order is that of the authors' program: localisation,
    classification, duplicate, background, both. Difficult objects are left out.
    """
    detections, ground_truth = matches.detections, matches.ground_truth
    is_matched = matches.matched_objects
    kinds = np.full(len(detections.scores), -1, np.int64)
    near_objects = np.full(len(detections.scores), -1, np.int64)
    for rows, objects, iou in overlaps_by_image(detections, ground_truth):
        regular = ~ground_truth.difficult[objects]
        objects, iou = objects[regular], iou[:, regular]
        if not objects.size:
            kinds[rows] = BACKGROUND
            continue
        same_class = detections.labels[rows][:, None] == ground_truth.labels[objects][None, :]
        same, different = np.where(same_class, iou, 0.0), np.where(same_class, 0.0, iou)
        best_same = same.max(axis=1)
        kinds[rows] = np.select(
            [
                (best_same >= BACKGROUND_IOU) & (best_same < MATCH_IOU),
                different.max(axis=1) >= MATCH_IOU,
                (same * is_matched[objects]).max(axis=1) >= MATCH_IOU,
                iou.max(axis=1) <= BACKGROUND_IOU,
            ],
            [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
            BOTH,
        )
        nearest = np.where(kinds[rows] == LOCALISATION, same.argmax(axis=1), different.argmax(axis=1))
        near_objects[rows] = objects[nearest]
    kinds[~matches.false_positive] = -1

    # Of all the detections that would find an object, only the one of the highest score is fixed.
    fixable = np.flatnonzero(np.isin(kinds, (CLASSIFICATION, LOCALISATION)))
    fixable = fixable[~is_matched[near_objects[fixable]]]
    near_and_unmatched, first = np.unique(near_objects[fixable], return_index=True)
    targets = np.full(len(kinds), -1, np.int64)
    targets[fixable[first]] = near_and_unmatched
    missed = ~is_matched & ~ground_truth.difficult
    missed[near_and_unmatched] = False
    return ErrorKinds(kinds, targets, missed)


def error_costs(
    matches: MatchedDetections, errors: ErrorKinds, num_classes: int
) -> tuple[float, dict[str, float]]:
    """Computes mAP at IoU 0.5, and how much it rises when one kind of error is fixed.

    Fixed means: an error of classification gets the object's class, an error of localisation the
    object's box, and both then count as right; all other false positives disappear, and so do those of
    the two kinds that would only make a duplicate. Missed objects are no longer to be found.

    Returns:
        (mAP, {kind: rise of mAP}), each 0..1. The mean is over the classes with objects to find; all
        numbers are nan if no class has any.
    """
    num_objects = count_objects(matches, num_classes)
    labels, right, kept = matches.detections.labels, matches.true_positive, ~matches.ignored
    measured = np.flatnonzero(num_objects) + 1
    mean_ap = _mean_ap(matches, labels, right, kept, num_objects, measured)
    costs = {}
    for kind, name in enumerate(KINDS):
        fixed = errors.kinds == kind
        found = fixed & (errors.targets >= 0)
        new_labels, new_num_objects = labels.copy(), num_objects
        new_labels[found] = matches.ground_truth.labels[errors.targets[found]]
        if kind == MISSED:
            missed = np.bincount(matches.ground_truth.labels[errors.missed], minlength=num_classes + 1)
            new_num_objects = num_objects - missed[1:]
        fixed_ap = _mean_ap(
            matches, new_labels, right | found, kept & (~fixed | found), new_num_objects, measured
        )
        costs[name] = fixed_ap - mean_ap
    return mean_ap, costs


def _mean_ap(
    matches: MatchedDetections,
    labels: np.ndarray,
    right: np.ndarray,
    kept: np.ndarray,
    num_objects: np.ndarray,
    measured: np.ndarray,
) -> float:
    """Computes mAP from labels int [D], whether a detection is right and kept, bool [D], and the numbers of
    objects int [C].

    `measured` are the labels of the classes that count. One of them without objects, because all were
    missed, has AP 0 as long as it has false positives, and is left out otherwise.
    """
    if not measured.size:
        return float("nan")
    values = []
    for label in measured.tolist():
        rows = np.flatnonzero(kept & (labels == label))
        if num_objects[label - 1]:
            scores = matches.detections.scores[rows]
            values.append(
                interpolated_ap(precision_recall_curve(scores, right[rows], int(num_objects[label - 1])))
            )
        elif rows.size:
            values.append(0.0)
    return float(np.mean(values)) if values else 1.0
