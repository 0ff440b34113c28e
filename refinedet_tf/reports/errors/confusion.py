"""The confusion matrix of a detector: which class is taken for which, with the background as a class."""

import numpy as np

from refinedet_tf.reports.errors.matched_detections import MATCH_IOU, MatchedDetections, overlaps_by_image


def kept_detections(matches: MatchedDetections, thresholds: np.ndarray) -> np.ndarray:
    """Returns which detections count at the thresholds: bool [D].

    Args:
        matches: the matched detections.
        thresholds: float [C], the smallest score of each class, label 1 first; nan keeps none.
    """
    scores, labels = matches.detections.scores, matches.detections.labels
    return (scores >= thresholds[labels - 1]) & ~matches.ignored


def confusion_matrix(matches: MatchedDetections, thresholds: np.ndarray) -> np.ndarray:
    """Counts the pairs of the true class and the detected class.

    Detections of the right class are paired first, as in the metric, so that the diagonal agrees with
    precision and recall at the thresholds. What is left is paired by descending IoU, whatever its class,
    from IoU 0.5 on. Difficult objects, and the detections on them, are left out.

    Args:
        matches: the matched detections.
        thresholds: float [C], the smallest score of each class, label 1 first; nan keeps none.

    Returns:
        int64 [C + 1, C + 1]; the rows are the true classes, the columns the detected ones. Index 0 is the
        background: row 0 counts detections without an object, column 0 objects without a detection.
    """
    detections, ground_truth = matches.detections, matches.ground_truth
    matrix = np.zeros((len(thresholds) + 1, len(thresholds) + 1), np.int64)
    kept = kept_detections(matches, thresholds)
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
