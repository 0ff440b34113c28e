"""Detections and the data sets that they were found in, as the writers of result files take them."""

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.inference.detections import DatasetDetections

CLASSES = ("zebra", "person", "toothbrush")
COLUMNS = {"images": np.int64, "labels": np.int32, "scores": np.float32, "boxes": np.float32}


class OpenDataset(DetectionDataset):
    """A data set whose attributes a test may set."""

    __setattr__ = object.__setattr__


def make_detections(*rows):
    """rows: (image, label, score, [ymin, xmin, ymax, xmax] normalised)."""
    columns = zip(*rows, strict=True) if rows else ([], [], [], np.zeros((0, 4)))
    return DatasetDetections(
        *(np.array(column, kind) for column, kind in zip(columns, COLUMNS.values(), strict=True))
    )


def make_dataset(image_ids, sizes, class_names=CLASSES, objects=(), coco=None):
    """objects: (image, label, normalised box, difficult), ordered by image."""
    images = np.array([row[0] for row in objects], np.int64)
    return OpenDataset(
        class_names=tuple(class_names),
        image_ids=tuple(image_ids),
        image_paths=tuple(image_ids),
        image_sizes=np.array(sizes, np.int32),
        orientations=np.ones(len(image_ids), np.uint8),
        labels=np.array([row[1] for row in objects], np.int32),
        boxes=np.array([row[2] for row in objects], np.float32).reshape(-1, 4),
        difficult=np.array([row[3] for row in objects], bool),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(images, minlength=len(image_ids)))]),
        coco=coco,
    )


def make_scene():
    """12 images with 5 objects each, and detections that miss them more or less, in shuffled rows."""
    random = np.random.default_rng(3)
    sizes = random.integers(200, 640, (12, 2))
    objects, rows = [], []
    for image in range(12):
        for _ in range(5):
            corner, side = random.uniform(0, 0.6, 2), random.uniform(0.1, 0.4, 2)
            box, label = np.concatenate([corner, corner + side]), int(random.integers(1, 4))
            objects.append((image, label, box, random.random() < 0.2))
            for spread in (0.02, 0.05, 0.1):
                near = box + np.tile(side, 2) * random.normal(0, spread, 4)
                rows.append((image, label, random.random(), np.clip(near, 0, 1)))
    random.shuffle(rows)
    ids = [str(number) for number in random.permutation(1000)[:12]]
    return make_detections(*rows), make_dataset(ids, sizes, objects=objects)


def two_detections():
    """One detection of each of two classes on images of 100 x 200 and 50 x 60 pixels."""
    detections = make_detections((1, 3, 0.25, [0, 0, 1, 1]), (0, 1, 0.123456789, [0.1, 0.2, 0.5, 0.6]))
    return detections, make_dataset(["73", "9"], [[100, 200], [50, 60]])
