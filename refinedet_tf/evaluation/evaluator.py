"""The evaluation of a model on a dataset: its detections, their accuracy, and the speed."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import evaluation_batches, explain_failure
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import coco_ap, voc_ap
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.results import (
    EvaluationResult,
    MultiScaleCost,
    Throughput,
    mean_average_precision,
)
from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
from refinedet_tf.inference.detections import DatasetDetections, ImageDetections
from refinedet_tf.inference.merging import merge_detections, soft_nms
from refinedet_tf.inference.multiscale import MultiScaleDetector
from refinedet_tf.progress import Progress


def evaluate(
    model: keras.Model, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> EvaluationResult:
    """Detects the objects on every image of a dataset and measures accuracy and speed.

    Args:
        model: the network, as `build_model(config)` makes it.
        config: `model.image_size`, `model.design`, `data.classes`, `evaluation` and `postprocess` are
            used.
        dataset: the images and their ground truth.
        progress: is called after each batch; None: no progress is reported.

    Raises:
        InputError: `model.image_size` or `data.classes` is null, the dataset is empty or has other
            classes than the config, an image cannot be read, or a detection is not finite.
    """
    detections, throughput = detect_all(model, config, dataset, progress)
    result = score_detections(detections, dataset, config.evaluation.metric)
    return dataclasses.replace(result, throughput=throughput)


def detect_all_multi_scale(
    model: keras.Model, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> tuple[DatasetDetections, MultiScaleCost]:
    """Detects the objects on every image of a dataset by multi-scale testing (see `MultiScaleDetector`).

    Args:
        model: the network with free input size, built with `model.image_size` null.
        config: `model.image_size` is the size that the network was trained at; the other keys are used
            as by `detect_all`, except for `evaluation.soft_nms`.
        dataset: the images.
        progress: is called after each batch; None: no progress is reported.

    Returns:
        The detections, in the order of the images, and the cost of the passes.

    Raises:
        InputError: the reasons are those of `evaluate`, or `model.image_size` is not square.
    """
    _check(config, dataset)
    detector = MultiScaleDetector(model, config)
    batch_size, num_images = config.evaluation.batch_size, len(dataset)
    results: list[ImageDetections] = []
    start = time.perf_counter()
    for first in range(0, num_images, batch_size):
        results += detector(dataset.image_paths[first : first + batch_size], batch_size)
        if progress is not None:
            progress(min(first + batch_size, num_images), num_images, time.perf_counter() - start)
    detections = _join_images(results, range(num_images))
    seconds, single_seconds = detector.seconds / num_images, detector.single_seconds / num_images
    return detections, MultiScaleCost(2 * len(detector.passes), seconds, single_seconds)


def score_detections(
    detections: DatasetDetections, dataset: DetectionDataset, metric: str
) -> EvaluationResult:
    """Measures the accuracy of the detections of a dataset.

    Args:
        detections: the detections on all images of the dataset.
        dataset: the images and their ground truth.
        metric: "voc07", "voc" or "coco", as in `EvaluationConfig`.

    Raises:
        InputError: a label or an image index is out of range; or, for "coco", a class or an image of the
            dataset is not in the COCO ground truth.
    """
    num_images = len(dataset.image_sizes)
    if metric == "coco":
        summary, classes, sizes = coco_ap.evaluate_coco(detections, dataset)
        return EvaluationResult(metric, summary["AP"], classes, num_images, coco=summary, sizes=sizes)
    ground_truth = GroundTruth.from_dataset(dataset)
    classes = voc_ap.average_precisions(detections, ground_truth, dataset.class_names, metric)
    return EvaluationResult(metric, mean_average_precision(classes), classes, num_images)


def detect_all(
    model: keras.Model, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> tuple[DatasetDetections, Throughput]:
    """Detects the objects on every image of a dataset, with soft-NMS if `evaluation.soft_nms` is true.

    The arguments and errors are those of `evaluate`.

    Returns:
        The detections, in the order of the images, and the speed of the two stages.
    """
    _check(config, dataset)
    batch_size = config.evaluation.batch_size
    detector = CompiledDetector(inference_network(model), config)
    results: list[ImageDetections] = []
    indices: list[int] = []
    stage_seconds = np.zeros(2)
    num_images, start = len(dataset), time.perf_counter()
    for batch in _read_batches(dataset, detector.image_size, batch_size):
        images, batch_indices = batch["images"], batch["image_indices"].numpy()
        if not results:
            _run_timed(detector, images)  # The times do not include tracing and the choice of kernels.
        outputs, seconds = _run_timed(detector, images)
        stage_seconds += seconds
        results += detector.unpack(outputs, dataset.image_sizes[batch_indices].tolist())
        indices.extend(batch_indices)
        if progress is not None:
            progress(len(indices), num_images, time.perf_counter() - start)
    detections = _join_images(results, indices)
    if config.evaluation.soft_nms:
        limit = config.postprocess.max_detections
        # `postprocess` has clipped the boxes already.
        detections = merge_detections(detections, dataset.image_sizes, soft_nms, limit, clip=False)
    return detections, Throughput(batch_size, *(stage_seconds / len(indices)).tolist())


def _check(config: Config, dataset: DetectionDataset) -> None:
    """Refuses an open image size, and a dataset with other classes than the config."""
    if config.model.image_size is None:
        raise InputError("model.image_size is null: give the size to evaluate at, [height, width]")
    classes = config.data.classes
    if classes is not None and tuple(classes) != tuple(dataset.class_names):
        raise InputError(
            f"the data set's classes ({', '.join(dataset.class_names)}) are not those of data.classes "
            f"({', '.join(classes)}), so labels would mean something else"
        )


def _read_batches(
    dataset: DetectionDataset, image_size: tuple[int, int], batch_size: int
) -> Iterator[dict[str, tf.Tensor]]:
    """Yields the evaluation batches.

    Raises:
        InputError: an image cannot be read; the message names it.
    """
    done = 0
    try:
        for batch in evaluation_batches(dataset, image_size, batch_size):
            yield batch
            done += batch_size
    except tf.errors.OpError as error:
        raise explain_failure(dataset, error, range(done, len(dataset))) from error


def _run_timed(
    detector: CompiledDetector, images: tf.Tensor
) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """Returns the dict of `postprocess` as arrays, and the seconds of (network, post-processing)."""
    # Reading a number waits for the device that computes it.
    images[0, 0, 0].numpy()
    start = time.perf_counter()
    heads = detector.heads(images)
    for head in heads.values():
        head[0, 0, 0].numpy()
    middle = time.perf_counter()
    outputs = {name: value.numpy() for name, value in detector.detections(heads).items()}
    return outputs, (middle - start, time.perf_counter() - middle)


def _join_images(results: Sequence[ImageDetections], indices: Sequence[int]) -> DatasetDetections:
    """Joins the detections of images; `indices` are the places of the images in the dataset."""
    counts = [len(result.scores) for result in results]
    return DatasetDetections(
        images=np.repeat(np.asarray(indices, np.int64), counts),
        labels=np.concatenate([result.labels for result in results]),
        scores=np.concatenate([result.scores for result in results]),
        boxes=np.concatenate([result.normalized_boxes for result in results]),
    )
