"""Pictures of a data set: objects of every class, and training samples with the anchors of the ARM."""

import collections
import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from keras import ops

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.images import read_image
from refinedet_tf.data.pipeline import training_batches
from refinedet_tf.drawing import class_color, scale_image
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import pairwise_iou
from refinedet_tf.refinedet.matching import match
from refinedet_tf.reports.inspection.objects import object_sides
from refinedet_tf.reports.inspection.outlines import draw_anchors, draw_outlines
from refinedet_tf.reports.pages import Picture

MAX_CLASSES = 100
"""Samples are shown for at most this number of classes."""

SMALL_OBJECT = 0.1
"""Of an image whose chosen object is smaller in both directions, only a part is shown."""

WINDOW = 8
"""The sides of that part, in units of the object's larger side."""

TRAINING_SAMPLES = 12
"""The number of training samples that are shown."""

FORCED_COLOR = (255, 255, 255)
"""The colour of an anchor that is matched only because its object has no better one."""


def annotated_samples(
    dataset: DetectionDataset, unusable: Collection[int], image_size: tuple[int, int]
) -> Iterator[Picture]:
    """Yields pictures of the objects of each class, smaller objects first.

    The objects are chosen at equal distances in the order of their size, so that small and large ones are
    seen. All boxes of the image are drawn.

    The images with the indices `unusable` cannot be read. The image size is height and width of the network's
    input in pixels.
    """
    sides = object_sides(dataset.boxes, image_size)
    images = dataset.image_of
    readable = ~np.isin(images, list(unusable))
    shown_classes = min(len(dataset.class_names), MAX_CLASSES)
    per_class = min(max(24 // shown_classes, 1), 6)
    picture_side = 400 if shown_classes <= 24 else 300
    for label in range(1, shown_classes + 1):
        rows = np.flatnonzero((dataset.labels == label) & readable)
        rows = rows[np.argsort(sides[rows], kind="stable")]
        quantiles = (np.arange(per_class) + 0.5) / per_class
        chosen = rows[(quantiles * len(rows)).astype(int)] if len(rows) else rows
        for row in dict.fromkeys(chosen.tolist()):
            yield _annotated_sample(dataset, int(images[row]), row, float(sides[row]), picture_side)


def _annotated_sample(
    dataset: DetectionDataset, index: int, row: int, side: float, picture_side: int
) -> Picture:
    image = read_image(dataset.image_paths[index], dataset.image_sizes[index])
    boxes, labels, _ = dataset.image_annotations(index)
    name = dataset.class_names[dataset.labels[row] - 1]
    image, boxes, is_part = _part_around(image, boxes, dataset.boxes[row])
    visible = (np.minimum(boxes[:, 2:], 1) > np.maximum(boxes[:, :2], 0)).all(axis=1)
    boxes, labels = np.clip(boxes[visible], 0, 1), labels[visible]
    drawn = draw_outlines(scale_image(image, picture_side), boxes, labels, dataset.class_names)
    file = Path(dataset.image_paths[index]).name
    caption = (
        f"{name} of {side:.0f} px: {'part of ' if is_part else ''}{file} with "
        f"{_counted(labels, dataset.class_names)}"
    )
    return Picture.from_pixels(drawn, alt=f"annotated image {file}", caption=caption)


def _part_around(
    image: np.ndarray, boxes: np.ndarray, box: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Cuts out the surroundings of `box` if it is small.

    Returns the part, the boxes normalised to it (they may leave it), and whether it is not the whole.
    """
    height, width = image.shape[:2]
    sides = np.array([height, width])
    extent = (box[2:] - box[:2]) * sides
    if (box[2:] - box[:2]).max() >= SMALL_OBJECT:
        return image, boxes, False
    window = np.minimum(max(math.ceil(WINDOW * extent.max()), 64), sides)
    centre = (box[:2] + box[2:]) / 2 * sides
    corner = np.clip(np.round(centre - window / 2), 0, sides - window).astype(int)
    top, left = corner.tolist()
    part = image[top : top + window[0], left : left + window[1]]
    moved = (boxes.reshape(-1, 2, 2) * sides - corner) / window
    return np.ascontiguousarray(part), moved.reshape(-1, 4), part.shape != image.shape


def augmented_samples(
    dataset: DetectionDataset, unusable: Collection[int], config: Config
) -> Iterator[Picture]:
    """Yields the first samples of the training, with the anchors that the ARM's loss matches with an object.

    Objects are drawn as in `draw_outlines`, and their anchors in the same colour. Anchors that overlap
    their object by less than `loss.positive_iou` are white.

    The images with the indices `unusable` cannot be read and are left out.
    """
    image_size = config.model.image_size
    usable = np.setdiff1d(np.arange(len(dataset)), list(unusable))
    if image_size is None or not len(usable):
        return
    few = dataclasses.replace(config.training, batch_size=TRAINING_SAMPLES, accumulation_steps=1)
    batches = training_batches(_subset(dataset, usable), dataclasses.replace(config, training=few))
    batch = next(batches.as_numpy_iterator())
    anchors = tile_anchors(image_size, config.model.anchors)
    ious = ops.convert_to_numpy(pairwise_iou(batch["boxes"], anchors[None]))
    matches = ops.convert_to_numpy(match(ious, batch["labels"] > 0, config.loss.positive_iou))
    for row, index in enumerate(usable[batch["image_indices"]].tolist()):
        real = batch["labels"][row] > 0
        boxes, labels = batch["boxes"][row][real], batch["labels"][row][real]
        matched = np.flatnonzero(matches[row] >= 0)
        objects = matches[row][matched]
        forced = ious[row][objects, matched] < config.loss.positive_iou
        colors = [
            FORCED_COLOR if is_forced else class_color(int(labels[number_of_object]))
            for number_of_object, is_forced in zip(objects, forced, strict=True)
        ]
        image = scale_image(batch["images"][row], max(320, *image_size))
        drawn = draw_outlines(
            draw_anchors(image, anchors[matched], colors), boxes, labels, dataset.class_names
        )
        file = Path(dataset.image_paths[index]).name
        caption = f"{file}: {_counted(labels, dataset.class_names)}"
        if len(labels):
            caption += f"; {len(matched)} anchors"
        if forced.any():
            caption += f", {forced.sum()} of them white"
        yield Picture.from_pixels(drawn, alt=f"training sample of {file}", caption=caption)


def _subset(dataset: DetectionDataset, indices: np.ndarray) -> DetectionDataset:
    """Returns the data set of some images, int [n], in their order, without its list of defects."""
    if len(indices) == len(dataset):
        return dataset
    kept = np.isin(dataset.image_of, indices)
    return DetectionDataset(
        class_names=dataset.class_names,
        image_ids=tuple(dataset.image_ids[index] for index in indices),
        image_paths=tuple(dataset.image_paths[index] for index in indices),
        image_sizes=dataset.image_sizes[indices],
        orientations=dataset.orientations[indices],
        boxes=dataset.boxes[kept],
        labels=dataset.labels[kept],
        difficult=dataset.difficult[kept],
        offsets=np.concatenate([[0], np.cumsum(dataset.objects_per_image[indices])]),
    )


def _counted(labels: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns a text such as "3 RBC, 1 WBC"."""
    counts = collections.Counter(labels.tolist())
    return ", ".join(f"{counts[label]} {class_names[label - 1]}" for label in sorted(counts)) or "no object"
