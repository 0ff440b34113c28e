"""The index of a data set of a few images, without files of annotations."""

from pathlib import Path

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset


def dataset_of(images, image_sizes=(100, 200), class_names=("a", "b"), paths=None, difficult=False):
    """The data set of some images.

    Args:
        images: for each image, its objects as (label, ymin, xmin, ymax, xmax), with normalised boxes.
        image_sizes: (height, width) of all images, or [N, 2].
        class_names: those of the labels 1..C.
        paths: the image files, whose stems are the ids; None: 0.jpg, 1.jpg and so on, which do not exist.
        difficult: of all objects, or bool [M].
    """
    count, objects = len(images), [row for image in images for row in image]
    paths = [Path(f"{number}.jpg") for number in range(count)] if paths is None else paths
    return DetectionDataset(
        class_names=tuple(class_names),
        image_ids=tuple(path.stem for path in paths),
        image_paths=tuple(map(str, paths)),
        image_sizes=np.broadcast_to(np.int32(image_sizes), (count, 2)).copy(),
        orientations=np.ones(count, np.uint8),
        boxes=np.array([row[1:] for row in objects], np.float32).reshape(-1, 4),
        labels=np.array([row[0] for row in objects], np.int32),
        difficult=np.broadcast_to(np.array(difficult, bool), len(objects)).copy(),
        offsets=np.concatenate([[0], np.cumsum([len(image) for image in images])]).astype(np.int64),
    )
