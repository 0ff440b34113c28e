"""Runs a model over a data set and measures accuracy and speed."""

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
    """Detects on every image of a data set and measures the result by `config.evaluation`.

    Args:
        model: images float32 [B, H, W, 3] RGB 0..255 -> heads, as `build_model` makes it.
        config: `model.image_size`, `evaluation` and `postprocess` are used.
        dataset: what to detect on, and its ground truth.
        progress: called after each batch; None: silent.

    Raises:
        InputError: the image size is open, the data set is empty or names other classes than the
            config, an image cannot be read, or a detection is not finite.
    """
    detections, throughput = detect_all(model, config, dataset, progress)
    result = score_detections(detections, dataset, config.evaluation.metric)
    return dataclasses.replace(result, throughput=throughput)


def detect_all_multi_scale(
    model: keras.Model, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> tuple[DatasetDetections, MultiScaleCost]:
    """`detect_all` with multi-scale testing (see `MultiScaleDetector`).

    `model` takes any size, and `config.model.image_size` is the one that it was trained at.
    """
    _check(config, dataset)
    detector = MultiScaleDetector(model, config)
    batch_size, num_images = config.evaluation.batch_size, len(dataset)
    results, start = [], time.perf_counter()
    for first in range(0, num_images, batch_size):
        results += detector(dataset.image_paths[first : first + batch_size], batch_size)
        if progress is not None:
            progress(min(first + batch_size, num_images), num_images, time.perf_counter() - start)
    detections = _joined(results, np.arange(num_images))
    seconds = (value / num_images for value in (detector.seconds, detector.single_seconds))
    return detections, MultiScaleCost(2 * len(detector.passes), *seconds)


def score_detections(
    detections: DatasetDetections, dataset: DetectionDataset, metric: str
) -> EvaluationResult:
    """Accuracy of given detections of a data set; `metric` as in `EvaluationConfig`."""
    num_images = len(dataset.image_sizes)
    if metric == "coco":
        summary, classes = coco_ap.coco_average_precisions(detections, dataset)
        return EvaluationResult(metric, summary["AP"], classes, num_images, coco=summary)
    ground_truth = GroundTruth.from_dataset(dataset)
    classes = voc_ap.average_precisions(detections, ground_truth, dataset.class_names, metric)
    return EvaluationResult(metric, mean_average_precision(classes), classes, num_images)


def detect_all(
    model: keras.Model, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> tuple[DatasetDetections, Throughput]:
    """The detections of every image of a data set, and how long the two stages took.

    Arguments and errors are those of `evaluate`. `config.evaluation.soft_nms` is applied.
    """
    _check(config, dataset)
    batch_size = config.evaluation.batch_size
    detector = CompiledDetector(inference_network(model), config)
    results, indices, stage_seconds = [], [], np.zeros(2)
    num_images, start = len(dataset), time.perf_counter()
    for batch in _read_batches(dataset, detector.image_size, batch_size):
        images, batch_indices = batch["images"], batch["image_indices"].numpy()
        if not results:
            _run_timed(detector, images)  # Tracing and the choice of kernels stay out of the times.
        found, seconds = _run_timed(detector, images)
        stage_seconds += seconds
        results += detector.unpack(found, dataset.image_sizes[batch_indices].tolist())
        indices.extend(batch_indices)
        if progress is not None:
            progress(len(indices), num_images, time.perf_counter() - start)
    detections = _joined(results, indices)
    if config.evaluation.soft_nms:
        limit = config.postprocess.max_detections
        # `postprocess` has cut the boxes to the image already.
        detections = merge_detections(detections, dataset.image_sizes, soft_nms, limit, clip=False)
    return detections, Throughput(batch_size, *(stage_seconds / len(indices)).tolist())


def _check(config: Config, dataset: DetectionDataset) -> None:
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
    """The evaluation batches; an image that cannot be read is named."""
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
    """The post-processed numpy arrays of a batch, and the seconds of (network, post-processing)."""
    # Reading a number waits for the device that computes it.
    images[0, 0, 0].numpy()
    start = time.perf_counter()
    heads = detector.heads(images)
    for head in heads.values():
        head[0, 0, 0].numpy()
    middle = time.perf_counter()
    found = {name: value.numpy() for name, value in detector.detections(heads).items()}
    return found, (middle - start, time.perf_counter() - middle)


def _joined(results: Sequence[ImageDetections], indices: Sequence[int]) -> DatasetDetections:
    """The detections of images as those of the data set; `indices` are the images' places in it."""
    counts = [len(result.scores) for result in results]
    return DatasetDetections(
        images=np.repeat(np.asarray(indices, np.int64), counts),
        labels=np.concatenate([result.labels for result in results]),
        scores=np.concatenate([result.scores for result in results]),
        boxes=np.concatenate([result.normalized_boxes for result in results]),
    )
