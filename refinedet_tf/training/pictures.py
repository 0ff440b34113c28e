"""Pictures of a run: a training batch, and detections."""

from collections.abc import Mapping, Sequence

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.images import read_image
from refinedet_tf.drawing import contact_sheet, draw_detections
from refinedet_tf.inference.detector import Detector

SHOWN_SCORE = 0.3
"""The smallest score of detections that are drawn; early in training, boxes of low score cover the image."""

MAX_IMAGES = 16
"""The largest number of images on the sheet of a training batch."""


def batch_picture(batch: Mapping[str, np.ndarray], class_names: Sequence[str]) -> np.ndarray:
    """Draws one training batch with its boxes on a sheet, uint8 [H, W, 3].

    Args:
        batch: "images" uint8 [b, H, W, 3] RGB; "boxes" float32 [b, G, 4], normalised
            `[ymin, xmin, ymax, xmax]`; "labels" int [b, G], 1..C, and 0 for padding.
        class_names: C names, label 1 first.
    """
    drawn = []
    for image, boxes, labels in zip(batch["images"], batch["boxes"], batch["labels"], strict=True):
        real = labels > 0
        drawn.append(draw_detections(image, boxes[real], labels[real], class_names))
    return contact_sheet(drawn[:MAX_IMAGES])


def detection_pictures(
    detector: Detector, dataset: DetectionDataset, max_images: int = 4
) -> list[np.ndarray]:
    """Draws the detections on the first images of a data set and returns them, uint8 [H, W, 3] each."""
    drawn = []
    files = zip(dataset.image_paths[:max_images], dataset.image_sizes, strict=False)
    images = [read_image(path, size) for path, size in files]
    for image, found in zip(images, detector(images), strict=True):
        shown = found.above(SHOWN_SCORE)
        drawn.append(
            draw_detections(image, shown.normalized_boxes, shown.labels, shown.class_names, shown.scores)
        )
    return drawn
