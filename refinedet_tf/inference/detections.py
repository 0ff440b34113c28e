"""Detections as values: of one image, and of a whole data set."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.pixel_boxes import to_normalized, to_pixels


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDetections:
    """The detections of one image, by descending score.

    Attributes:
        normalized_boxes: float32 [n, 4], normalised `[ymin, xmin, ymax, xmax]`, 0..1.
        scores: float32 [n], 0..1.
        labels: int32 [n], 1..C.
        class_names: the C names of all classes, label 1 first.
        image_size: (height, width) of the image in pixels.

    It can be read by key too, `result["boxes"]`, with the keys "boxes", "scores", "labels", "names"
    and "image_size".
    """

    normalized_boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    image_size: tuple[int, int]

    KEYS = ("boxes", "scores", "labels", "names", "image_size")

    @classmethod
    def from_pixels(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        image_size: tuple[int, int],
    ) -> "ImageDetections":
        """The detections of `boxes` [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of the image; the other
        arguments as above."""
        return cls(
            to_normalized(boxes.astype(np.float32), image_size),
            scores.astype(np.float32),
            labels.astype(np.int32),
            class_names,
            image_size,
        )

    @property
    def boxes(self) -> np.ndarray:
        """float32 [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of the image, 0 <= y <= H, 0 <= x <= W."""
        return to_pixels(self.normalized_boxes, self.image_size)

    @property
    def names(self) -> list[str]:
        """The class names of the n detections."""
        return [self.class_names[label - 1] for label in self.labels]

    def __getitem__(self, key: str) -> object:
        if key not in self.KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def keys(self) -> Sequence[str]:
        """What `result[key]` takes, so that `dict(result)` works."""
        return self.KEYS

    def above(self, score_threshold: float) -> "ImageDetections":
        """The detections of at least this score."""
        kept = self.scores >= score_threshold
        return dataclasses.replace(
            self,
            normalized_boxes=self.normalized_boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
        )


@dataclasses.dataclass(frozen=True)
class DatasetDetections:
    """The detections of a whole data set, in flat arrays: one row per detection, whatever image it lies in.

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
        check_rows("detection", self.boxes, self.images, self.labels, self.scores)
        for name, values in (("score", self.scores[:, None]), ("box", self.boxes)):
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                row = bad[0]
                raise InputError(
                    f"detection {row} (image {self.images[row]}) has the {name} {values[row].tolist()}; "
                    "every score and coordinate must be finite: has the training diverged?"
                )


def check_rows(name: str, boxes: np.ndarray, *columns: np.ndarray) -> None:
    """Refuses boxes and columns that do not fit together.

    Args:
        name: what a row is, for the message.
        boxes: must be [n, 4]. columns: each must be [n].

    Raises:
        InputError: they are not; names the shapes.
    """
    shape = np.shape(boxes)
    if len(shape) != 2 or shape[1] != 4 or any(np.shape(column) != shape[:1] for column in columns):
        shapes = [list(np.shape(array)) for array in (boxes, *columns)]
        raise InputError(f"{name}s need boxes [n, 4] and columns [n] of one length, got the shapes {shapes}")
