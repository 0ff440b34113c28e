"""The results of an evaluation: the accuracy on each class and on the whole dataset, and the speed."""

import dataclasses
import math

import numpy as np

from refinedet_tf.inference.replicas import ReplicaWork


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """The accuracy on one class.

    Attributes:
        ap: average precision, 0..1; nan where the class has no object to find.
        recall: float64 [P], 0..1, at the points of the precision-recall curve, from the highest score
            down; nan if there is no object to find. VOC: P is the number of detections. COCO: the 101
            recall thresholds.
        precision: float64 [P], 0..1, at these points. COCO: interpolated, at IoU 0.50.
        scores: [P], the scores at these points.
        num_objects: the number of objects to find, without difficult objects and crowd regions.
        num_detections: the number of detections of the class.
    """

    ap: float
    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    num_objects: int
    num_detections: int


def mean_average_precision(classes: dict[str, ClassResult]) -> float:
    """Returns the mean AP over the classes that have objects to find, or nan if none has."""
    values = np.array([result.ap for result in classes.values()], np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def or_none(value: float) -> float | None:
    """Returns a number for JSON: None in the place of nan."""
    return None if math.isnan(value) else float(value)


@dataclasses.dataclass(frozen=True)
class SizeResult:
    """The accuracy on the objects of one class and one size range.

    Attributes:
        ap: AP, the mean over IoU 0.50:0.95, 0..1; nan if there is no object to find.
        ap50: AP at IoU 0.50, 0..1; nan if there is no object to find.
        num_objects: the number of objects to find.
    """

    ap: float
    ap50: float
    num_objects: int


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The seconds per image of the two stages on one replica, measured on whole batches.

    Reading and decoding files and copying images to the device are not included; copying the detections
    back is part of the post-processing.

    Attributes:
        batch_size: the images per batch.
        network_seconds: the seconds per image of the network.
        postprocess_seconds: the seconds per image of the post-processing.
    """

    batch_size: int
    network_seconds: float
    postprocess_seconds: float


@dataclasses.dataclass(frozen=True)
class MultiScaleCost:
    """The cost of multi-scale testing, with warping included.

    Attributes:
        passes: the number of passes over each image; the mirrored image is a pass of its own.
        seconds: the seconds per image of all passes.
        single_seconds: the seconds per image of the single pass that a `Detector` makes.
    """

    passes: int
    seconds: float
    single_seconds: float


@dataclasses.dataclass(frozen=True)
class TilingCost:
    """The cost of detection on tiles, with warping included.

    Attributes:
        views: the number of views per image, the whole image and its tiles, as a mean over the images.
        passes: the number of passes over each view, 1 without multi-scale testing.
        seconds: the seconds per image of all views.
        whole_seconds: the seconds per image of the whole image alone.
    """

    views: float
    passes: int
    seconds: float
    whole_seconds: float


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """The result of `evaluate`.

    Attributes:
        metric: "voc07", "voc" or "coco".
        mean_ap: mean AP over the classes with objects to find ("coco": COCO's AP at IoU 0.50:0.95),
            0..1; nan if no class has any.
        classes: {class name: ClassResult} in label order.
        num_images: the number of images of the dataset.
        throughput: the speed; None if given detections were scored.
        multi_scale: the cost of multi-scale testing; None for a single scale, and with tiles.
        tiling: the cost of tiles; None without them.
        coco: COCO's 12 numbers by name for the metric "coco", otherwise None.
        work: what each replica has done; empty if given detections were scored.
        sizes: {class name: {size: SizeResult}} for COCO's sizes for the metric "coco", otherwise None.
    """

    metric: str
    mean_ap: float
    classes: dict[str, ClassResult]
    num_images: int
    throughput: Throughput | None = None
    multi_scale: MultiScaleCost | None = None
    tiling: TilingCost | None = None
    coco: dict[str, float] | None = None
    work: tuple[ReplicaWork, ...] = ()
    sizes: dict[str, dict[str, SizeResult]] | None = None
