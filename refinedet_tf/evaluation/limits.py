"""The limits that a result has met: sentences that name them, for the terminal."""

from collections.abc import Sequence

import numpy as np

from refinedet_tf.config import Config, EvaluationConfig
from refinedet_tf.data.coco_ground_truth import MAX_DETECTIONS
from refinedet_tf.data.dataset import DetectionDataset


def reached_limits(limited: Sequence[int], num_inputs: int, num_images: int, config: Config) -> list[str]:
    """Returns a line for each limit on the candidates before NMS that inputs of the network have reached.

    Args:
        limited: the number of inputs that reach each limit of `postprocess_and_limits`.
        num_inputs: the number of all inputs, which in multi-scale testing and with tiles are several views
            of each image.
        num_images: the number of images.
        config: `postprocess` is used.
    """
    inputs = "views" if num_inputs > num_images else "images"
    keys = {"pre_nms_per_image": "", "pre_nms_per_class": " of a class"}
    return [
        f"{number:,} of {num_inputs:,} {inputs} have {limit:,} or more candidates{of_class} before NMS, and "
        f"only the best {limit:,} are used: a larger postprocess.{key} uses more, which may find more objects"
        for number, (key, of_class) in zip(limited, keys.items(), strict=True)
        if number and (limit := getattr(config.postprocess, key))
    ]


def count_too_crowded(dataset: DetectionDataset) -> int:
    """Counts the images with more objects of a class than COCO's metric counts detections.

    Difficult objects need not be found.
    """
    pairs = np.stack([dataset.image_of, dataset.labels])[:, ~dataset.difficult]
    pairs, counts = np.unique(pairs, axis=1, return_counts=True)
    return len(np.unique(pairs[0, counts > MAX_DETECTIONS]))


def too_crowded(dataset: DetectionDataset, evaluation_config: EvaluationConfig) -> list[str]:
    """Returns a line if the metric is COCO's and images have more objects than it counts detections."""
    if evaluation_config.metric != "coco":
        return []
    number = count_too_crowded(dataset)
    if not number:
        return []
    return [
        f"{number:,} of {len(dataset):,} images have more than {MAX_DETECTIONS} objects of a class, but "
        f"COCO's metric counts the {MAX_DETECTIONS} best detections of an image and class, so that not all "
        "can be found; evaluation.metric voc counts all"
    ]
