"""Pictures of a run: what the network is fed, and what it finds."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from refinedet_tf.data.images import decode_image
from refinedet_tf.drawing import contact_sheet, draw_detections
from refinedet_tf.files import write_aside

SHOWN_SCORE = 0.3
"""Detections below are not drawn; early in training there would be a box on every pixel."""


def batch_picture(batch, class_names, most: int = 16) -> np.ndarray:
    """A sheet of one training batch with its boxes, uint8 [H, W, 3].

    Args:
        batch: numpy arrays, "images" uint8 [b, H, W, 3], "boxes" [b, G, 4], "labels" [b, G].
        class_names: label 1 first.
        most: images shown.
    """
    drawn = []
    for image, boxes, labels in zip(batch["images"], batch["boxes"], batch["labels"], strict=True):
        real = labels > 0
        drawn.append(draw_detections(image, boxes[real], labels[real], class_names))
    return contact_sheet(drawn[:most])


def detection_pictures(detector, dataset, most: int = 4) -> list[np.ndarray]:
    """The first images of a data set with the detections of a `Detector`, uint8 [H, W, 3] each."""
    drawn = []
    contents = [tf.io.read_file(path) for path in dataset.image_paths[:most]]
    images = [decode_image(content).numpy() for content in contents]
    for image, found in zip(images, detector(images), strict=True):
        shown = found.above(SHOWN_SCORE)
        drawn.append(
            draw_detections(image, shown.normalized_boxes, shown.labels, shown.class_names, shown.scores)
        )
    return drawn


def save_picture(image: np.ndarray, path: Path) -> None:
    """Writes uint8 [H, W, 3] as an image file."""
    write_aside(path, Image.fromarray(image).save)
