"""What goes wrong in a result: the parts of the report of an evaluation, computed from its detections."""

import dataclasses
import math
from typing import Any

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.coco_ap import evaluate_coco
from refinedet_tf.evaluation.coco_files import coco_objects
from refinedet_tf.evaluation.results import EvaluationResult, SizeResult, or_none
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.reports.errors.curves import (
    RECALL_LEVELS,
    BestThreshold,
    Curve,
    best_threshold,
    class_curves,
    interpolated_precision,
)
from refinedet_tf.reports.errors.error_kinds import KINDS, ErrorKinds, error_costs, find_error_kinds
from refinedet_tf.reports.errors.matched_detections import (
    DifficultRule,
    MatchedDetections,
    confusion_matrix,
    match_detections,
)
from refinedet_tf.reports.errors.worst_images import ImageErrors, worst_images

NUM_WORST_IMAGES = 16
"""The number of images that a report shows."""


@dataclasses.dataclass(frozen=True)
class ClassAnalysis:
    """What is known of one class beyond its AP.

    Attributes:
        curve: precision and recall at IoU 0.5.
        threshold: the threshold with the largest F1; None if no detection is right.
        sizes: {size: SizeResult} for the sizes of `coco_ap.SIZES`.
    """

    curve: Curve
    threshold: BestThreshold | None
    sizes: dict[str, SizeResult]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What is known of a result beyond its AP. All of it is at IoU 0.5, except for the AP per size.

    Attributes:
        matches: the matched detections.
        errors: their kinds of errors.
        mean_ap50: COCO's mAP at IoU 0.5, 0..1; nan without objects.
        costs: {kind of error: rise of `mean_ap50` without these errors}.
        classes: {class name: ClassAnalysis} in label order.
        confusion: int64 [C + 1, C + 1], see `confusion_matrix`, at the best threshold of each class.
        worst: the images with the most errors at these thresholds, the worst first.
    """

    matches: MatchedDetections
    errors: ErrorKinds
    mean_ap50: float
    costs: dict[str, float]
    classes: dict[str, ClassAnalysis]
    confusion: np.ndarray
    worst: list[ImageErrors]


def analyse(detections: DatasetDetections, dataset: DetectionDataset, result: EvaluationResult) -> Analysis:
    """Analyses the detections on all images of a dataset.

    The result is what `score_detections` returns for them; its metric decides how difficult objects and crowd
    regions are ignored.

    Raises:
        InputError: a label or an image index is out of range, or a class or an image of the dataset is not
            in its COCO ground truth.
    """
    sizes = evaluate_coco(detections, dataset)[2] if result.sizes is None else result.sizes
    rule = difficult_rule(result.metric, dataset)
    matches = match_detections(detections, coco_objects(dataset), rule)
    num_classes = len(dataset.class_names)
    curves = class_curves(matches, num_classes)
    best = [best_threshold(curve) for curve in curves]
    thresholds = np.array([math.nan if threshold is None else threshold.score for threshold in best])
    errors = find_error_kinds(matches)
    mean_ap50, costs = error_costs(matches, errors, num_classes)
    return Analysis(
        matches=matches,
        errors=errors,
        mean_ap50=mean_ap50,
        costs=costs,
        classes={
            name: ClassAnalysis(curve, threshold, sizes[name])
            for name, curve, threshold in zip(dataset.class_names, curves, best, strict=True)
        },
        confusion=confusion_matrix(matches, thresholds),
        worst=worst_images(matches, thresholds, NUM_WORST_IMAGES),
    )


def difficult_rule(metric: str, dataset: DetectionDataset) -> DifficultRule:
    """Returns how a metric ignores the difficult objects of a dataset."""
    if metric != "coco":
        return "always"
    return "once" if dataset.coco is None else "crowd"


def to_json(analysis: Analysis, dataset: DetectionDataset) -> dict[str, Any]:
    """Returns the analysis as a tree for `json.dumps`; nan becomes None.

    Returns:
        {"AP50", "error_kinds": {kind: {"count", "cost"}}, "classes": {name: {"objects", "sizes": {size:
        {"AP", "AP50", "objects"}}, "best_threshold": {"score", "precision", "recall", "f1"} or None,
        "precision": 101 values}}, "recall": the 101 recalls of these, "confusion": {"names", "matrix"},
        "worst_images": [{"image", "weight", "not_found": [class], "wrong": [{"class", "score", "kind"}]}]}.
    """
    detections, ground_truth = analysis.matches.detections, analysis.matches.ground_truth
    names, counts = dataset.class_names, analysis.errors.count()
    return {
        "AP50": or_none(analysis.mean_ap50),
        "error_kinds": {
            kind: {"count": counts[kind], "cost": or_none(analysis.costs[kind])} for kind in KINDS
        },
        "recall": RECALL_LEVELS.tolist(),
        "classes": {name: _class_json(item) for name, item in analysis.classes.items()},
        "confusion": {"names": ["background", *names], "matrix": analysis.confusion.tolist()},
        "worst_images": [
            {
                "image": dataset.image_ids[errors.image],
                "weight": errors.weight,
                "not_found": [names[label - 1] for label in ground_truth.labels[errors.not_found].tolist()],
                "wrong": [
                    {
                        "class": names[detections.labels[row] - 1],
                        "score": float(detections.scores[row]),
                        "kind": KINDS[analysis.errors.kinds[row]],
                    }
                    for row in errors.wrong.tolist()
                ],
            }
            for errors in analysis.worst
        ],
    }


def _class_json(item: ClassAnalysis) -> dict[str, Any]:
    return {
        "objects": item.curve.num_objects,
        "sizes": {
            size: {"AP": or_none(found.ap), "AP50": or_none(found.ap50), "objects": found.num_objects}
            for size, found in item.sizes.items()
        },
        "best_threshold": None if item.threshold is None else dataclasses.asdict(item.threshold),
        "precision": interpolated_precision(item.curve).tolist() if item.curve.num_objects else None,
    }
