"""Accuracy: what detections and ground truth look like to every metric, and what a metric returns.

All arrays are flat: one row a detection or an object, whatever image it lies in. Only numpy is
needed here and in `voc_ap`, `coco_ap` and `report`; `evaluator` runs a model with TensorFlow.
"""

import dataclasses

import numpy as np

from refinedet_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Detections:
    """The detections of a whole data set.

    Args:
        images: int64 [D], index of the image in the data set, 0..N-1.
        labels: int32 [D], 1..C.
        scores: float32 [D], finite. Ties keep the order of the rows.
        boxes: float32 [D, 4], normalised `[ymin, xmin, ymax, xmax]`, finite.

    Raises:
        InputError: the lengths differ, or a score or box is not finite.
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def __post_init__(self):
        _check_rows("detection", self.boxes, self.images, self.labels, self.scores)
        for name, values in (("score", self.scores[:, None]), ("box", self.boxes)):
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                row = bad[0]
                raise InputError(
                    f"detection {row} (image {self.images[row]}) has the {name} {values[row].tolist()}; "
                    "every score and coordinate must be finite: has the training diverged?"
                )


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The objects of a whole data set.

    Args:
        images: int64 [M], index of the image in the data set, 0..N-1.
        labels: int32 [M], 1..C.
        boxes: float32 [M, 4], normalised `[ymin, xmin, ymax, xmax]`.
        difficult: bool [M], objects that count neither way (COCO: crowd regions).
        image_sizes: int32 [N, 2], height and width in pixels.

    Raises:
        InputError: the lengths differ.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    image_sizes: np.ndarray

    def __post_init__(self):
        _check_rows("object", self.boxes, self.images, self.labels, self.difficult)
        if np.ndim(self.image_sizes) != 2 or np.shape(self.image_sizes)[1] != 2:
            raise InputError(f"image_sizes must be [N, 2], got {list(np.shape(self.image_sizes))}")

    @classmethod
    def from_dataset(cls, dataset) -> "GroundTruth":
        """The ground truth of a `refinedet_tf.data.dataset.DetectionDataset`."""
        images = np.repeat(np.arange(len(dataset.image_sizes)), np.diff(dataset.offsets))
        return cls(images, dataset.labels, dataset.boxes, dataset.difficult, dataset.image_sizes)


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


def check_labels(detections: Detections, ground_truth: GroundTruth, num_classes: int) -> None:
    """Refuses labels and image indices that the data set does not have.

    Raises:
        InputError: names the first wrong row.
    """
    num_images = len(ground_truth.image_sizes)
    for name, rows in (("detection", detections), ("object", ground_truth)):
        for what, values, low, high in (
            ("label", rows.labels, 1, num_classes),
            ("image", rows.images, 0, num_images - 1),
        ):
            bad = np.flatnonzero((values < low) | (values > high))
            if bad.size:
                row = bad[0]
                raise InputError(f"{name} {row} has the {what} {values[row]}; it must lie in {low}..{high}")


def _check_rows(name: str, boxes: np.ndarray, *columns: np.ndarray) -> None:
    shape = np.shape(boxes)
    if len(shape) != 2 or shape[1] != 4 or any(np.shape(column) != shape[:1] for column in columns):
        shapes = [list(np.shape(array)) for array in (boxes, *columns)]
        raise InputError(f"{name}s need boxes [n, 4] and columns [n] of one length, got the shapes {shapes}")
