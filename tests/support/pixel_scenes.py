"""Detections and objects of hand-made scenes, in pixels of images of 100 x 200."""

import numpy as np

from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.reports.errors.matched_detections import match_detections

SIZE = (100, 200)


def normalised(pixels):
    return np.array(pixels, np.float64).reshape(-1, 4) / [100, 200, 100, 200]


def detections_of(*rows):
    """rows: (image, label, score, [ymin, xmin, ymax, xmax] in pixels)."""
    return DatasetDetections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.float32),
        normalised([row[3] for row in rows]),
    )


def ground_truth_of(*objects, num_images=2):
    """objects: (image, label, [ymin, xmin, ymax, xmax] in pixels), with True at the end if difficult."""
    return GroundTruth(
        np.array([row[0] for row in objects], np.int64),
        np.array([row[1] for row in objects], np.int32),
        normalised([row[2] for row in objects]),
        np.array([row[3:] == (True,) for row in objects], bool),
        np.full((num_images, 2), SIZE, np.int32),
    )


def matches_of(objects, rows, difficult_rule="always"):
    """The matched detections of `objects` and `rows`."""
    return match_detections(detections_of(*rows), ground_truth_of(*objects), difficult_rule)
