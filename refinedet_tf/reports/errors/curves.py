"""The precision-recall curve of a class from matched detections, its AP, and the best threshold on it."""

import dataclasses

import numpy as np

from refinedet_tf.reports.errors.matched_detections import MatchedDetections

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads the precision."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Precision and recall of a class at each score.

    Attributes:
        scores: float64 [P], descending.
        recall: float64 [P], 0..1; nan if there is no object to find.
        precision: float64 [P], 0..1, of the detections with at least this score, not interpolated.
        num_objects: the number of objects to find.
    """

    scores: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    num_objects: int


@dataclasses.dataclass(frozen=True)
class BestThreshold:
    """The score at which F1, the harmonic mean of precision and recall, is largest.

    Attributes:
        score: detections of this score or more are kept, 0..1.
        precision: the share of these detections that are right, 0..1.
        recall: the share of the objects that they find, 0..1.
        f1: the F1, 0..1.
    """

    score: float
    precision: float
    recall: float
    f1: float


def precision_recall_curve(scores: np.ndarray, true_positive: np.ndarray, num_objects: int) -> Curve:
    """Computes the curve of one class.

    Args:
        scores: float [P], the scores of the detections that are not ignored, in any order; equal ones
            keep theirs.
        true_positive: bool [P], whether the detection has an object.
        num_objects: the number of objects to find.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    hits = np.cumsum(true_positive[order])
    precision = hits / np.arange(1, len(order) + 1)
    recall = hits / num_objects if num_objects else np.full(len(order), np.nan)
    return Curve(np.asarray(scores, np.float64)[order], recall, precision, num_objects)


def class_curves(matches: MatchedDetections, num_classes: int) -> list[Curve]:
    """Computes the curves of the classes 1..C."""
    num_objects = count_objects(matches, num_classes)
    counted, labels = ~matches.ignored, matches.detections.labels
    curves = []
    for label in range(1, num_classes + 1):
        rows = np.flatnonzero(counted & (labels == label))
        curves.append(
            precision_recall_curve(
                matches.detections.scores[rows], matches.true_positive[rows], int(num_objects[label - 1])
            )
        )
    return curves


def count_objects(matches: MatchedDetections, num_classes: int) -> np.ndarray:
    """Returns the number of objects to find of each class, without difficult ones: int64 [C]."""
    labels = matches.ground_truth.labels[~matches.ground_truth.difficult]
    return np.bincount(labels, minlength=num_classes + 1)[1:]


def interpolated_precision(curve: Curve) -> np.ndarray:
    """Returns the best precision from each of the 101 recalls on: float64 [101], 0 where none is reached.

    The class must have objects to find.
    """
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    places = np.searchsorted(curve.recall, RECALL_LEVELS, side="left")
    return np.append(envelope, 0.0)[places]


def interpolated_ap(curve: Curve) -> float:
    """Computes COCO's AP, 0..1, the mean of the interpolated precision; nan if there is nothing to find."""
    return float(interpolated_precision(curve).mean()) if curve.num_objects else float("nan")


def best_threshold(curve: Curve) -> BestThreshold | None:
    """Finds the threshold with the largest F1, of equal ones the highest; None if no detection is right."""
    if not curve.num_objects or not curve.recall.any():
        return None
    # A threshold keeps all detections of one score or none of them.
    ends = np.flatnonzero(np.append(curve.scores[1:] != curve.scores[:-1], True))
    precision, recall = curve.precision[ends], curve.recall[ends]
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = int(np.argmax(f1))
    return BestThreshold(
        float(curve.scores[ends[best]]), float(precision[best]), float(recall[best]), float(f1[best])
    )
