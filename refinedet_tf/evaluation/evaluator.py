"""The evaluation of a model on a dataset: its detections, their accuracy, and the speed."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.images import read_image
from refinedet_tf.data.pipeline import evaluation_batches, explain_failure
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import coco_ap, voc_ap
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.portions import Portion, join_images, portion_of
from refinedet_tf.evaluation.results import EvaluationResult, mean_average_precision
from refinedet_tf.evaluation.timed_detector import TimedDetector
from refinedet_tf.inference.detections import DatasetDetections, ImageDetections
from refinedet_tf.inference.image_detector import ImageDetector, total_cost
from refinedet_tf.inference.merging import merge_detections, soft_nms
from refinedet_tf.inference.replicas import Replicas
from refinedet_tf.inference.tiled_detector import make_detector
from refinedet_tf.inference.tiles import Tiling
from refinedet_tf.progress import Progress

DetectorT = TypeVar("DetectorT")
BatchT = TypeVar("BatchT")

ALL: tuple[int, int] = (0, 1)
"""The part of a process that works alone: number 0 of 1."""


def evaluate(
    model: keras.Model, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> EvaluationResult:
    """Detects the objects on every image of a dataset and measures accuracy and speed.

    Args:
        model: the network, as `build_model(config)` makes it. If it was built in the scope of a
            `tf.distribute.MirroredStrategy`, all devices of the strategy work.
        config: `model.image_size`, `model.design`, `data.classes`, `evaluation` and `postprocess` are
            used.
        dataset: the images and their ground truth.
        progress: is called after each batch; None: no progress is reported.

    Raises:
        InputError: `model.image_size` or `data.classes` is null, the dataset is empty or has other
            classes than the config, an image cannot be read, or a detection is not finite.
    """
    portion = detect_portion(timed_replicas(model, config), config, dataset, progress)
    return score_portion(portion, config, dataset)


def score_portion(portion: Portion, config: Config, dataset: DetectionDataset) -> EvaluationResult:
    """Measures the accuracy of a portion that is the whole dataset, and adds the speed.

    The config is the one that it was detected with.

    Raises:
        InputError: the reasons are those of `score_detections`.
    """
    result = score_detections(portion.detections, dataset, config.evaluation.metric)
    return dataclasses.replace(result, **portion.cost_fields(config))


def timed_replicas(
    model: keras.Model, config: Config, dataset: DetectionDataset | None = None
) -> Replicas[TimedDetector]:
    """Compiles a detector for each device of a model; each one is traced when it is first used.

    The model and the config are those of `evaluate`, and the variables may change between two evaluations.
    With a dataset, the sums of the loss on its images are computed as well.
    """
    return Replicas(model, lambda: TimedDetector(model, config, dataset))


def detect_portion(
    replicas: Replicas[TimedDetector],
    config: Config,
    dataset: DetectionDataset,
    progress: Progress | None = None,
    part: tuple[int, int] = ALL,
) -> Portion:
    """Detects the objects on the images of one process, with soft-NMS if `evaluation.soft_nms` is true.

    Args:
        replicas: the result of `timed_replicas` with the same config. What it has measured before is
            forgotten.
        config: the config, as for `evaluate`.
        dataset: the images of all processes.
        progress: is called after each batch with the numbers of this process; None: nothing is.
        part: the number of this process and the number of all processes; see `portions`.

    Raises:
        InputError: the reasons are those of `evaluate`.
    """
    check_dataset(config, dataset)
    replicas.restart()
    for detector in replicas.detectors:
        detector.restart()
    indices = portion_of(len(dataset), config.evaluation.batch_size, *part)

    def detect(detector: TimedDetector, batch: dict[str, tf.Tensor]) -> list[ImageDetections]:
        image_indices = batch["image_indices"].numpy()
        return detector(batch["images"], image_indices, dataset.image_sizes[image_indices].tolist())

    image_size = replicas.detectors[0].detector.image_size
    batches = read_batches(dataset, image_size, config.evaluation.batch_size, indices)
    detections = _run_replicas(replicas, batches, detect, indices, progress)
    if config.evaluation.soft_nms:
        limit = config.postprocess.max_detections
        detections = with_soft_nms(detections, dataset, limit)
    loss_sums = [detector.loss.totals for detector in replicas.detectors if detector.loss is not None]
    return Portion(
        detections,
        total_cost(replicas.detectors),
        replicas.work,
        loss_sums=tuple(np.sum(loss_sums, axis=0).tolist()) if loss_sums else (),
    )


def detect_portion_on_files(
    model: keras.Model,
    config: Config,
    dataset: DetectionDataset,
    progress: Progress | None = None,
    part: tuple[int, int] = ALL,
    *,
    multi_scale: bool = False,
    tiling: Tiling | None = None,
) -> Portion:
    """Detects on the images of one process by multi-scale testing, on tiles, or both (see `make_detector`).

    Args:
        model: the network; for multi-scale testing with free input size, built with `model.image_size` null.
        config: the config, as for `detect_portion`. For multi-scale testing, `model.image_size` is the size
            that the network was trained at, and `evaluation.soft_nms` is not used.
        dataset: the images of all processes.
        progress: is called after each batch of images, as for `detect_portion`.
        part: the number of this process and the number of all processes; see `portions`.
        multi_scale: whether multi-scale testing is applied to each view.
        tiling: where the tiles lie; None: only whole images are seen.

    Raises:
        InputError: the reasons are those of `evaluate`, or for multi-scale testing `model.image_size` is not
            square.
    """
    check_dataset(config, dataset)
    replicas = Replicas(model, lambda: make_detector(model, config, multi_scale, tiling))
    batch_size = config.evaluation.batch_size
    indices = portion_of(len(dataset), batch_size, *part)
    batches = (indices[first : first + batch_size] for first in range(0, len(indices), batch_size))

    def detect(detector: ImageDetector, batch: np.ndarray) -> list[ImageDetections]:
        files = ((dataset.image_paths[index], dataset.image_sizes[index]) for index in batch)
        return detector((read_image(path, size) for path, size in files), batch_size)

    detections = _run_replicas(replicas, batches, detect, indices, progress)
    if config.evaluation.soft_nms and not multi_scale:
        detections = with_soft_nms(detections, dataset, None)
    passes = replicas.detectors[0].num_passes
    return Portion(detections, total_cost(replicas.detectors), replicas.work, passes)


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


def check_dataset(config: Config, dataset: DetectionDataset) -> None:
    """Raises an `InputError` for an open image size, and for a dataset with other classes than the config."""
    if config.model.image_size is None:
        raise InputError("model.image_size is null: give the size to evaluate at, [height, width]")
    classes = config.data.classes
    if classes is not None and tuple(classes) != tuple(dataset.class_names):
        raise InputError(
            f"the data set's classes ({', '.join(dataset.class_names)}) are not those of data.classes "
            f"({', '.join(classes)}), so labels would mean something else"
        )


def with_soft_nms(
    detections: DatasetDetections, dataset: DetectionDataset, limit: int | None
) -> DatasetDetections:
    """Applies soft-NMS, and keeps the best `limit` detections of each image (None: all)."""
    return merge_detections(detections, dataset.image_sizes, soft_nms, limit)


def _run_replicas(
    replicas: Replicas[DetectorT],
    batches: Iterable[BatchT],
    detect: Callable[[DetectorT, BatchT], list[ImageDetections]],
    indices: np.ndarray,
    progress: Progress | None,
) -> DatasetDetections:
    """Detects on batches, whose images have the given indices in this order, and reports the progress."""
    results: list[ImageDetections] = []
    start = time.perf_counter()
    with contextlib.closing(replicas.run(batches, detect)) as batches_of_detections:
        for _, batch_detections in batches_of_detections:
            results += batch_detections
            if progress is not None:
                progress(len(results), len(indices), time.perf_counter() - start)
    return join_images(results, indices)


def read_batches(
    dataset: DetectionDataset, image_size: tuple[int, int], batch_size: int, indices: np.ndarray
) -> Iterator[dict[str, tf.Tensor]]:
    """Yields the evaluation batches of the images with the given indices.

    Raises:
        InputError: an image cannot be read; the message names it.
    """
    done = 0
    try:
        for batch in evaluation_batches(dataset, image_size, batch_size, indices):
            yield batch
            done += batch_size
    except tf.errors.OpError as error:
        raise explain_failure(dataset, error, indices[done:]) from error
