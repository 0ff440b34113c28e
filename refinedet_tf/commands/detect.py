"""Draws what a trained model detects on images."""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from refinedet_tf.commands.options import (
    add_model_options,
    add_multi_scale_option,
    add_score_threshold_option,
    check_score_threshold,
    find_images,
)
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detection_files import make_output_folder, write_detections

if TYPE_CHECKING:
    from refinedet_tf.inference.detections import ImageDetections
    from refinedet_tf.inference.detector import Detector
    from refinedet_tf.inference.multiscale import MultiScaleDetector
    from refinedet_tf.inference.replicas import Replicas


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, detects and writes."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog="The output folder holds one picture for every image, and detections.json with all "
        "detections above the post-processing's score threshold, boxes in pixels of the image. "
        "Images that cannot be read are named at the end; the results of the others are kept.",
    )
    add_model_options(parser)
    add_multi_scale_option(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or quoted patterns")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="a folder that is new or empty"
    )
    add_score_threshold_option(parser)
    options = parser.parse_args(arguments)
    check_score_threshold(options.score_threshold)
    paths = find_images(options.images)
    make_output_folder(options.output)
    config, model = load_model(options, on_all_devices=True)

    from refinedet_tf.inference.detector import Detector
    from refinedet_tf.inference.multiscale import MultiScaleDetector
    from refinedet_tf.inference.replicas import Replicas

    kind = MultiScaleDetector if options.multi_scale else Detector
    replicas = Replicas(model, lambda: kind(model, config))
    detect_files(replicas, paths, options.output, options.score_threshold, config.evaluation.batch_size)


def detect_files(
    replicas: "Replicas[Detector | MultiScaleDetector]",
    paths: Sequence[Path],
    output: Path,
    score_threshold: float,
    batch_size: int,
) -> None:
    """Detects, draws and writes batch after batch, so that any number of images fits in memory.

    A batch consists of those of `batch_size` successive files that can be read. Some batches per replica
    are in memory. If there are several replicas, the number of images of each is printed at the end.

    Raises:
        InputError: images cannot be read (all the others have been written), or `output` cannot be
            written.
    """
    unreadable: list[str] = []

    def detect(detector: "Detector | MultiScaleDetector", reading: Future[_Batch]) -> "list[ImageDetections]":
        return detector([image for _, image in reading.result().images], batch_size)

    def results() -> "Iterator[tuple[Path, np.ndarray, ImageDetections]]":
        with ThreadPoolExecutor(len(replicas.devices)) as readers:
            starts = range(0, len(paths), batch_size)
            batches = (readers.submit(_read_batch, paths[start : start + batch_size]) for start in starts)
            for reading, batch_detections in replicas.run(batches, detect):
                batch = reading.result()
                unreadable.extend(batch.unreadable)
                for (path, image), detections in zip(batch.images, batch_detections, strict=True):
                    yield path, image, detections

    try:
        write_detections(results(), len(paths), output, score_threshold, unreadable)
    finally:
        if len(replicas.devices) > 1:
            print("\n".join(map(str, replicas.work)))


class _Batch(NamedTuple):
    """Images that were read from successive files."""

    images: list[tuple[Path, np.ndarray]]
    unreadable: list[str]
    """What is wrong with each file that could not be read."""


def _read_batch(paths: Sequence[Path]) -> _Batch:
    contents = [(path, _read(path)) for path in paths]
    return _Batch(
        [(path, image) for path, image in contents if not isinstance(image, str)],
        [problem for _, problem in contents if isinstance(problem, str)],
    )


def _read(path: Path) -> np.ndarray | str:
    """Returns the pixels of an image, or what is wrong with it."""
    from refinedet_tf.inference.detector import read_image

    try:
        return read_image(path)
    except InputError as error:
        return str(error)
