"""Runs a model over a data set and measures accuracy and speed."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.data.pipeline import evaluation_batches, explain_failure
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import (
    ClassResult,
    Detections,
    GroundTruth,
    coco_ap,
    mean_average_precision,
    voc_ap,
)
from refinedet_tf.evaluation.merging import merge_detections, soft_nms
from refinedet_tf.multiscale import MultiScaleDetector
from refinedet_tf.postprocessing import postprocess

Progress = Callable[[int, int, float], None]
"""Called after each batch with images done, images in all, and seconds since the first batch."""


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Seconds per image of the two stages, measured on whole batches.

    Reading and decoding files and copying images to the device are not in it; copying the detections
    back is part of the post-processing.
    """

    batch_size: int
    network_seconds: float
    postprocess_seconds: float


@dataclasses.dataclass(frozen=True)
class MultiScaleCost:
    """Seconds per image of all passes, warping included, and of a single look at it."""

    passes: int
    seconds: float
    single_seconds: float


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` measured.

    Attributes:
        metric: "voc07", "voc" or "coco".
        mean_ap: the headline number, 0..1: mean AP over the classes with objects to find ("coco":
            COCO's AP at IoU 0.50:0.95); nan where no class has any.
        classes: {class name: ClassResult} in label order.
        num_images: images of the data set.
        throughput: None where only detections were scored.
        multi_scale: what multi-scale testing cost; None for a single scale.
        coco: COCO's 12 numbers by name, for the metric "coco".
    """

    metric: str
    mean_ap: float
    classes: dict[str, ClassResult]
    num_images: int
    throughput: Throughput | None = None
    multi_scale: MultiScaleCost | None = None
    coco: dict[str, float] | None = None


def evaluate(model, config: Config, dataset, progress: Progress | None = None) -> EvaluationResult:
    """Detects on every image of a data set and measures the result by `config.evaluation`.

    Args:
        model: images float32 [B, H, W, 3] RGB 0..255 -> heads, as `build_model` makes it.
        config: `model.image_size`, `evaluation` and `postprocess` are used.
        dataset: a `refinedet_tf.data.dataset.DetectionDataset`.
        progress: called after each batch; None: silent.

    Raises:
        InputError: the image size is open, the data set is empty or names other classes than the
            config, an image cannot be read, or a detection is not finite.
    """
    detections, throughput = detect_all(model, config, dataset, progress)
    result = score_detections(detections, dataset, config.evaluation.metric)
    return dataclasses.replace(result, throughput=throughput)


def detect_all_multi_scale(
    model, config: Config, dataset, progress: Progress | None = None
) -> tuple[Detections, MultiScaleCost]:
    """`detect_all` with multi-scale testing (see `MultiScaleDetector`).

    `model` takes any size, and `config.model.image_size` is the one that it was trained at.
    """
    _check(config, dataset)
    detector = MultiScaleDetector(model, config)
    batch_size, num_images = config.evaluation.batch_size, len(dataset)
    rows, start = [], time.perf_counter()
    for first in range(0, num_images, batch_size):
        paths = dataset.image_paths[first : first + batch_size]
        for index, found in enumerate(detector(paths, batch_size), first):
            count = len(found["scores"])
            boxes = found["boxes"] / np.tile(np.array(found["image_size"], np.float32), 2)
            rows.append((np.full(count, index, np.int64), found["labels"], found["scores"], boxes))
        if progress is not None:
            progress(min(first + batch_size, num_images), num_images, time.perf_counter() - start)
    detections = Detections(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    seconds = (value / num_images for value in (detector.seconds, detector.single_seconds))
    return detections, MultiScaleCost(2 * len(detector.passes), *seconds)


def score_detections(detections: Detections, dataset, metric: str) -> EvaluationResult:
    """Accuracy of given detections of a data set; `metric` as in `EvaluationConfig`."""
    num_images = len(dataset.image_sizes)
    if metric == "coco":
        summary, classes = coco_ap.coco_average_precisions(detections, dataset)
        return EvaluationResult(metric, summary["AP"], classes, num_images, coco=summary)
    ground_truth = GroundTruth.from_dataset(dataset)
    classes = voc_ap.average_precisions(detections, ground_truth, dataset.class_names, metric)
    return EvaluationResult(metric, mean_average_precision(classes), classes, num_images)


def detect_all(
    model, config: Config, dataset, progress: Progress | None = None
) -> tuple[Detections, Throughput]:
    """The detections of every image of a data set, and how long the two stages took.

    Arguments and errors are those of `evaluate`. `config.evaluation.soft_nms` is applied.
    """
    image_size, batch_size = config.model.image_size, config.evaluation.batch_size
    _check(config, dataset)
    anchors = tf.constant(tile_anchors(image_size))
    forward = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec([batch_size, *image_size, 3], tf.float32)],
    )
    detect = tf.function(lambda heads: postprocess(heads, anchors, config))

    rows, done, stage_seconds = [], 0, np.zeros(2)
    num_images, start = len(dataset.image_ids), time.perf_counter()
    for number, batch in enumerate(_read_batches(dataset, image_size, batch_size)):
        indices = batch["image_indices"].numpy()
        # A short last batch is filled up, so that the functions are traced for one shape only.
        missing = batch_size - len(indices)
        images = tf.pad(batch["images"], [[0, missing], [0, 0], [0, 0], [0, 0]])
        if number == 0:
            _run_timed(forward, detect, images)  # tracing and kernel selection stay out of the times
        found, seconds = _run_timed(forward, detect, images)
        stage_seconds += seconds
        rows.append(_flatten(found, indices))
        done += len(indices)
        if progress is not None:
            progress(done, num_images, time.perf_counter() - start)
    detections = Detections(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    if config.evaluation.soft_nms:
        limit = config.postprocess.max_detections
        # `postprocess` has cut the boxes to the image already.
        detections = merge_detections(detections, dataset.image_sizes, soft_nms, limit, clip=False)
    return detections, Throughput(batch_size, *(stage_seconds / (len(rows) * batch_size)).tolist())


def _check(config: Config, dataset) -> None:
    if config.model.image_size is None:
        raise InputError("model.image_size is null: give the size to evaluate at, [height, width]")
    classes = config.data.classes
    if classes is not None and tuple(classes) != tuple(dataset.class_names):
        raise InputError(
            f"the data set's classes ({', '.join(dataset.class_names)}) are not those of data.classes "
            f"({', '.join(classes)}), so labels would mean something else"
        )


def _read_batches(dataset, image_size, batch_size):
    """The evaluation batches; an image that cannot be read is named."""
    done = 0
    try:
        for batch in evaluation_batches(dataset, image_size, batch_size):
            yield batch
            done += batch_size
    except tf.errors.OpError as error:
        raise explain_failure(dataset, error, range(done, len(dataset))) from error


def _run_timed(forward, detect, images):
    """Post-processed numpy arrays of a batch, and (network, post-processing) seconds."""
    # Reading a number waits for the device that computes it.
    images[0, 0, 0].numpy()
    start = time.perf_counter()
    heads = forward(images)
    for head in heads.values():
        head[0, 0, 0].numpy()
    middle = time.perf_counter()
    found = {name: value.numpy() for name, value in detect(heads).items()}
    return found, (middle - start, time.perf_counter() - middle)


def _flatten(found: dict[str, np.ndarray], indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns of `Detections` for the first `len(indices)` images of a batch."""
    count = found["num_detections"][: len(indices)]
    scores, classes, boxes = (
        found[f"detection_{name}"][: len(indices)] for name in ("scores", "classes", "boxes")
    )
    kept = np.arange(scores.shape[1]) < count[:, None]
    return (
        np.repeat(indices.astype(np.int64), count),
        classes[kept].astype(np.int32),
        scores[kept].astype(np.float32),
        boxes[kept].astype(np.float32),
    )
