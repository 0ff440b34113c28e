"""Draws what a trained model detects on images or videos."""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.commands.options import (
    add_model_options,
    add_multi_scale_option,
    add_score_threshold_option,
    add_tile_options,
    check_score_threshold,
    tiling_from,
)
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.config.files import PRETRAINED
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.inference.detection_files import free_folder, make_output_folder, write_detections
from refinedet_tf.inference.video_reader import VIDEO_ENDINGS, import_av

if TYPE_CHECKING:
    from refinedet_tf.config import Config
    from refinedet_tf.inference.detections import ImageDetections
    from refinedet_tf.inference.detector import Detector
    from refinedet_tf.inference.multiscale import MultiScaleDetector
    from refinedet_tf.inference.replicas import Replicas
    from refinedet_tf.inference.tiled_detector import TiledDetector

    AnyDetector = Detector | MultiScaleDetector | TiledDetector


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, detects and writes."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{__doc__} Without --config it is the detector of VOC's 20 classes that comes with the "
        "package.",
        epilog="The output folder holds one picture for every image, and detections.json with all "
        "detections above the post-processing's score threshold, boxes in pixels of the image. "
        "Images that cannot be read are named at the end; the results of the others are kept. For a video it "
        "holds the annotated video and a .jsonl file with one line per frame.",
    )
    add_model_options(parser, required=False)
    add_multi_scale_option(parser)
    add_tile_options(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="photos (files, folders or quoted patterns), or videos"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="a folder that is new or empty (default: detections, or detections-2 and so on where that is "
        "taken)",
    )
    add_score_threshold_option(parser)
    options = parser.parse_args(arguments)
    if options.config is None:
        if options.weights is not None:
            raise InputError(
                "--weights needs --config: the config or the run folder that the weights belong to"
            )
        options.config = PRETRAINED
    check_score_threshold(options.score_threshold)
    tiling = tiling_from(options)
    _refuse_cameras(options.images)
    paths = find_images(options.images)
    are_videos = _are_videos(paths)
    if are_videos:
        import_av()
    options.output = free_folder() if options.output is None else options.output
    make_output_folder(options.output)
    config, model = load_model(options, on_all_devices=True)

    from refinedet_tf.inference.detector import Detector
    from refinedet_tf.inference.multiscale import MultiScaleDetector
    from refinedet_tf.inference.replicas import Replicas
    from refinedet_tf.inference.tiled_detector import TiledDetector
    from refinedet_tf.inference.video_detection import detect_videos

    def make_detector() -> "AnyDetector":
        kind = MultiScaleDetector if options.multi_scale else Detector
        detector = kind(model, config, wanted_score=options.score_threshold)
        return detector if tiling is None else TiledDetector(detector, config, tiling)

    replicas = Replicas(model, make_detector)
    batch_size = config.evaluation.batch_size
    detect = detect_videos if are_videos else detect_files
    try:
        detect(replicas, paths, options.output, options.score_threshold, batch_size)
    finally:
        print_work(replicas, config)


def _refuse_cameras(names: Sequence[str]) -> None:
    for name in names:
        if name.startswith(("camera:", "/dev/video", "rtsp://")):
            raise InputError(
                f"{shortened_text(name)}: cameras are not read; record a video first, e.g. "
                "ffmpeg -f v4l2 -i /dev/video0 video.mkv, and name the video"
            )


def _are_videos(paths: Sequence[Path]) -> bool:
    """Says whether the inputs are videos; refuses both kinds together, whose results differ in form."""
    videos = [path for path in paths if path.suffix.lower() in VIDEO_ENDINGS]
    if videos and len(videos) < len(paths):
        photo = next(path for path in paths if path not in videos)
        raise InputError(
            f"{shortened_text(videos[0])} is a video and {shortened_text(photo)} is not: photos and videos "
            "need a command each, because their results differ in form"
        )
    return bool(videos)


def detect_files(
    replicas: "Replicas[AnyDetector]",
    paths: Sequence[Path],
    output: Path,
    score_threshold: float,
    batch_size: int,
) -> None:
    """Detects, draws and writes batch after batch, so that any number of images fits in memory.

    A batch consists of those of `batch_size` successive files that can be read. Some batches per replica
    are in memory.

    Raises:
        InputError: images cannot be read (all the others have been written), or `output` cannot be
            written.
    """
    unreadable: list[str] = []

    def detect(detector: "AnyDetector", reading: Future[_Batch]) -> "list[ImageDetections]":
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

    write_detections(results(), len(paths), output, score_threshold, unreadable)


def print_work(replicas: "Replicas[AnyDetector]", config: "Config") -> None:
    """Prints the number of views where the detectors see tiles, the work of each of several replicas, and the
    limits that left out candidates which might have been drawn."""
    from refinedet_tf.evaluation.evaluator import limited_inputs
    from refinedet_tf.evaluation.limits import reached_limits

    views = sum(getattr(detector, "views", 0) for detector in replicas.detectors)
    images = sum(work.images for work in replicas.work)
    if views and images:
        print(f"tiles: {views / images:.1f} views per image; each takes as long as an image without tiles")
    if len(replicas.devices) > 1:
        print("\n".join(map(str, replicas.work)))
    inputs = sum(detector.inputs for detector in replicas.detectors)
    for line in reached_limits(limited_inputs(replicas.detectors), inputs, images, config):
        print(f"note: {line}")


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
    from refinedet_tf.data.images import read_image

    try:
        return read_image(path)
    except InputError as error:
        return str(error)
