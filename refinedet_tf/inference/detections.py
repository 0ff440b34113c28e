"""The types of detections: those of one image, and those of a whole dataset."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.pixel_boxes import to_normalized, to_pixels

if TYPE_CHECKING:
    import supervision


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDetections:
    """The detections of one image, by descending score.

    Attributes:
        normalized_boxes: float32 [n, 4], normalised `[ymin, xmin, ymax, xmax]`, 0..1.
        scores: float32 [n], 0..1.
        labels: int32 [n], 1..C.
        class_names: the names of all C classes, label 1 first.
        image_size: (height, width) of the image in pixels.

    The values can also be read by key, `result["boxes"]`; the keys are "boxes", "scores", "labels",
    "names" and "image_size".
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
        """Makes detections from boxes in pixels.

        Args:
            boxes: number [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of the image.
            scores: number [n], 0..1.
            labels: number [n], 1..C.
            class_names: the names of all C classes, label 1 first.
            image_size: (height, width) of the image in pixels.
        """
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

    def __getitem__(self, key: str) -> Any:
        """Returns the attribute that has the name `key`.

        Raises:
            KeyError: `key` is none of `KEYS`.
        """
        if key not in self.KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def keys(self) -> Sequence[str]:
        """Returns the keys of `result[key]`, so that `dict(result)` works."""
        return self.KEYS

    def above(self, score_threshold: float) -> "ImageDetections":
        """Returns the detections whose score is `score_threshold` or more."""
        kept = self.scores >= score_threshold
        return dataclasses.replace(
            self,
            normalized_boxes=self.normalized_boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
        )

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Returns COCO's form of results, which pycocotools and annotation tools read.

        Args:
            image_id: the id of the image in the annotation file.

        Returns:
            For each detection {"image_id", "category_id" (the label, 1..C), "bbox" ([x, y, width, height] in
            pixels of the image, from 0), "score"}, in values that JSON can hold.
        """
        ymin, xmin, ymax, xmax = self.boxes.astype(np.float64).T
        boxes = np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1).tolist()
        rows = zip(self.labels.tolist(), boxes, self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in rows
        ]

    def to_supervision(self) -> "supervision.Detections":
        """Returns the `Detections` of the package supervision: for its trackers, counting zones and drawings.

        `class_id` counts from 0, in the order of `class_names`; `data["class_name"]` holds the names.

        Raises:
            InputError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise InputError("supervision is not installed: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes[:, [1, 0, 3, 2]],
            confidence=self.scores,
            class_id=self.labels.astype(int) - 1,
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclasses.dataclass(frozen=True)
class DatasetDetections:
    """The D detections of a whole dataset in flat arrays, one row per detection of any image.

    Args:
        images: int64 [D], the index of the image in the dataset, 0..N-1.
        labels: int32 [D], 1..C.
        scores: float32 [D], finite. Equal scores keep the order of the rows.
        boxes: float32 [D, 4], normalised `[ymin, xmin, ymax, xmax]`, finite.

    Raises:
        InputError: the lengths differ, or a score or box is not finite.
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def __post_init__(self) -> None:
        check_rows("detection", self.boxes, self.images, self.labels, self.scores)
        for name, values in (("score", self.scores[:, None]), ("box", self.boxes)):
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                row = bad[0]
                raise InputError(
                    f"detection {row} (image {self.images[row]}) has the {name} {values[row].tolist()}; "
                    "every score and coordinate must be finite: has the training diverged?"
                )


def best_of_each_image(images: np.ndarray, scores: np.ndarray, limit: int | None) -> np.ndarray:
    """Returns the rows of the best `limit` detections of each image (None: of all detections).

    They are ordered by image and then by descending score; equal scores keep their order. `images` are the
    index of each row's image.
    """
    order = np.lexsort((-scores, images))
    if limit is None:
        return order
    images = images[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    return order[rank < limit]


def check_rows(name: str, boxes: np.ndarray, *columns: np.ndarray) -> None:
    """Refuses boxes and columns that do not fit together.

    Args:
        name: the name of a row in the message.
        boxes: an array that must be [n, 4].
        columns: arrays that must be [n].

    Raises:
        InputError: an array has another shape; the message names all shapes.
    """
    shape = np.shape(boxes)
    if len(shape) != 2 or shape[1] != 4 or any(np.shape(column) != shape[:1] for column in columns):
        shapes = [list(np.shape(array)) for array in (boxes, *columns)]
        raise InputError(f"{name}s need boxes [n, 4] and columns [n] of one length, got the shapes {shapes}")
