"""The objects that detections are compared with."""

import dataclasses

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import DatasetDetections, check_rows


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The M objects of a whole dataset in flat arrays, one row per object of any image.

    Args:
        images: int64 [M], the index of the image in the dataset, 0..N-1.
        labels: int32 [M], 1..C.
        boxes: float32 [M, 4], normalised `[ymin, xmin, ymax, xmax]`.
        difficult: bool [M]; such objects need not be found, and finding them is no error. In COCO they
            are the crowd regions.
        image_sizes: int32 [N, 2], height and width in pixels.

    Raises:
        InputError: the lengths differ, or a shape is another one.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    image_sizes: np.ndarray

    def __post_init__(self) -> None:
        check_rows("object", self.boxes, self.images, self.labels, self.difficult)
        if np.ndim(self.image_sizes) != 2 or np.shape(self.image_sizes)[1] != 2:
            raise InputError(f"image_sizes must be [N, 2], got {list(np.shape(self.image_sizes))}")

    @classmethod
    def from_dataset(cls, dataset: DetectionDataset) -> "GroundTruth":
        """Makes the ground truth of a dataset."""
        return cls(dataset.image_of, dataset.labels, dataset.boxes, dataset.difficult, dataset.image_sizes)


def check_labels(detections: DatasetDetections, ground_truth: GroundTruth, num_classes: int) -> None:
    """Refuses labels outside 1..C (`num_classes`), and image indices that the dataset does not have.

    Raises:
        InputError: a label or an index is out of range; the message names the first such row.
    """
    num_images = len(ground_truth.image_sizes)
    for name, rows in (("detection", detections), ("object", ground_truth)):
        for column, values, low, high in (
            ("label", rows.labels, 1, num_classes),
            ("image", rows.images, 0, num_images - 1),
        ):
            bad = np.flatnonzero((values < low) | (values > high))
            if bad.size:
                row = bad[0]
                raise InputError(f"{name} {row} has the {column} {values[row]}; it must lie in {low}..{high}")
