"""The objects that detections are measured against."""

import dataclasses

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import DatasetDetections, check_rows


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The objects of a whole data set, in flat arrays: one row per object, whatever image it lies in.

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
        check_rows("object", self.boxes, self.images, self.labels, self.difficult)
        if np.ndim(self.image_sizes) != 2 or np.shape(self.image_sizes)[1] != 2:
            raise InputError(f"image_sizes must be [N, 2], got {list(np.shape(self.image_sizes))}")

    @classmethod
    def from_dataset(cls, dataset) -> "GroundTruth":
        """The ground truth of a `refinedet_tf.data.dataset.DetectionDataset`."""
        images = np.repeat(np.arange(len(dataset.image_sizes)), np.diff(dataset.offsets))
        return cls(images, dataset.labels, dataset.boxes, dataset.difficult, dataset.image_sizes)


def check_labels(detections: DatasetDetections, ground_truth: GroundTruth, num_classes: int) -> None:
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
