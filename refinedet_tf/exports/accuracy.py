"""The accuracy of the exported files in int8 on labelled data, compared with that of the network."""

import time
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.evaluator import (
    check_dataset,
    evaluate,
    read_batches,
    score_detections,
    with_soft_nms,
)
from refinedet_tf.evaluation.portions import join_images
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.exports.routes import INT8_FILES, load_files
from refinedet_tf.exports.runtimes import ExportedFile
from refinedet_tf.inference.compiled_detector import CompiledDetector
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.progress import Progress

NETWORK = "network"
"""The name of the network in float32 among the results."""


def measure_int8(
    folder: Path,
    model: keras.Model,
    config: Config,
    dataset: DetectionDataset,
    progress: Progress | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluates the network and each file in int8 of a version.

    Args:
        folder: the folder of the version.
        model: the network that was exported.
        config: the config of the network, as for `evaluate`.
        dataset: the images and their ground truth.
        progress: is called after each batch of each form; None: no progress is reported.

    Returns:
        The results by name; the first one is that of the network, `NETWORK`.

    Raises:
        InputError: the reasons are those of `evaluate`.
    """
    results = {NETWORK: evaluate(model, config, dataset, progress)}
    for name, file in load_files(folder, INT8_FILES).items():
        results[name] = evaluate_file(file, config, dataset, progress)
    return results


def evaluate_file(
    file: ExportedFile, config: Config, dataset: DetectionDataset, progress: Progress | None = None
) -> EvaluationResult:
    """Evaluates an exported file as `evaluate` evaluates the network, without times.

    Args:
        file: heads.onnx, heads.tflite, one of them in int8, or a file for MediaPipe.
        config: the config of the network, as for `evaluate`.
        dataset: the images and their ground truth.
        progress: is called after each batch; None: no progress is reported.

    Raises:
        InputError: the reasons are those of `evaluate`.
    """
    check_dataset(config, dataset)
    # Its stages after the network; the network is the file.
    detector = CompiledDetector(file, config)
    start = time.perf_counter()
    indices = np.arange(len(dataset))
    results: list[ImageDetections] = []
    for batch in read_batches(dataset, detector.image_size, config.evaluation.batch_size, indices):
        outputs = file(batch["images"].numpy())
        suppressed = outputs if "num_detections" in outputs else detector.detections(outputs)
        sizes = dataset.image_sizes[batch["image_indices"].numpy()].tolist()
        results += detector.unpack(suppressed, sizes)
        if progress is not None:
            progress(len(results), len(dataset), time.perf_counter() - start)
    detections = join_images(results, indices)
    if config.evaluation.soft_nms:
        detections = with_soft_nms(detections, dataset, config.postprocess.max_detections)
    return score_detections(detections, dataset, config.evaluation.metric)


def accuracy_lines(results: Mapping[str, EvaluationResult]) -> list[str]:
    """Returns a line per form: its name, its mAP in percent, and the difference from the network's."""
    width = max(map(len, results))
    expected = results[NETWORK].mean_ap
    return [
        f"{name:<{width}}  {100 * result.mean_ap:6.2f} %  ({100 * (result.mean_ap - expected):+.2f} points)"
        for name, result in results.items()
    ]
