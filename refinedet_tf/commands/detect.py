"""Draws what a trained model detects on images."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    config, model = load_model(options)

    from refinedet_tf.inference.detector import Detector
    from refinedet_tf.inference.multiscale import MultiScaleDetector

    detector = (MultiScaleDetector if options.multi_scale else Detector)(model, config)
    detect_files(detector, paths, options.output, options.score_threshold, config.evaluation.batch_size)


def detect_files(
    detector: "Detector | MultiScaleDetector",
    paths: Sequence[Path],
    output: Path,
    score_threshold: float,
    batch_size: int,
) -> None:
    """Detects, draws and writes batch after batch, so that any number of images fits in memory.

    Raises:
        InputError: images cannot be read (all the others have been written), or `output` cannot be
            written.
    """

    unreadable: list[str] = []

    def results() -> "Iterator[tuple[Path, np.ndarray, ImageDetections]]":
        for batch in _read_batches(paths, batch_size, unreadable):
            batch_detections = detector([image for _, image in batch], batch_size)
            for (path, image), detections in zip(batch, batch_detections, strict=True):
                yield path, image, detections

    write_detections(results(), len(paths), output, score_threshold, unreadable)


def _read_batches(
    paths: Sequence[Path], batch_size: int, unreadable: list[str]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Batches of (path, pixels); what is wrong with unreadable images is added to `unreadable`."""
    from refinedet_tf.inference.detector import read_image

    batch = []
    for path in paths:
        try:
            batch.append((path, read_image(path)))
        except InputError as error:
            unreadable.append(str(error))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
