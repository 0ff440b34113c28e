"""What an evaluation measures: accuracy by class and in all, and speed."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """The accuracy on one class.

    Attributes:
        ap: average precision, 0..1; nan where the class has no object to find.
        recall, precision, scores: float64 [P], the precision-recall curve, from the highest score
            down. VOC: one point a detection; recall is nan where there is no object to find.
            COCO: 101 points of interpolated precision at IoU 0.50.
        num_objects: objects to find, without difficult and crowd ones.
        num_detections: detections of the class.
    """

    ap: float
    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    num_objects: int
    num_detections: int


def mean_average_precision(classes: dict[str, ClassResult]) -> float:
    """Mean AP over the classes that have objects to find; nan where none has."""
    values = np.array([result.ap for result in classes.values()], np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Seconds per image of the two stages, measured on whole batches.

    Reading and decoding files and copying images to the device are not in it; copying the detections
    back is part of the post-processing.
    """

    batch_size: int
    network_seconds: float
    postprocess_seconds: float


@dataclasses.dataclass(frozen=True)
class MultiScaleCost:
    """Seconds per image of all passes, warping included, and of a single look at it."""

    passes: int
    seconds: float
    single_seconds: float


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` measured.

    Attributes:
        metric: "voc07", "voc" or "coco".
        mean_ap: the headline number, 0..1: mean AP over the classes with objects to find ("coco":
            COCO's AP at IoU 0.50:0.95); nan where no class has any.
        classes: {class name: ClassResult} in label order.
        num_images: images of the data set.
        throughput: None where only detections were scored.
        multi_scale: what multi-scale testing cost; None for a single scale.
        coco: COCO's 12 numbers by name, for the metric "coco".
    """

    metric: str
    mean_ap: float
    classes: dict[str, ClassResult]
    num_images: int
    throughput: Throughput | None = None
    multi_scale: MultiScaleCost | None = None
    coco: dict[str, float] | None = None
