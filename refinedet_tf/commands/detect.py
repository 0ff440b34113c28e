"""Draws what a trained model detects on images or videos."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.commands.options import (
    add_model_options,
    add_score_threshold_option,
    add_view_options,
    check_score_threshold,
    config_from,
    tiling_from,
)
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.config.files import PRETRAINED
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.inference.detection_files import free_folder, make_output_folder
from refinedet_tf.inference.video_reader import VIDEO_ENDINGS, import_av

if TYPE_CHECKING:
    from refinedet_tf.config import Config
    from refinedet_tf.inference.image_detector import ImageDetector
    from refinedet_tf.inference.replicas import Replicas


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
    add_view_options(parser)
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
    config = config_from(options)
    _refuse_cameras(options.images)
    paths = find_images(options.images)
    are_videos = _are_videos(paths)
    if are_videos:
        import_av()
    options.output = free_folder() if options.output is None else options.output
    make_output_folder(options.output)
    model = load_model(config, options, on_all_devices=True)

    from refinedet_tf.inference.photo_detection import detect_photos
    from refinedet_tf.inference.replicas import Replicas
    from refinedet_tf.inference.tiled_detector import make_detector
    from refinedet_tf.inference.video_detection import detect_videos

    score = options.score_threshold
    replicas = Replicas(model, lambda: make_detector(model, config, options.multi_scale, tiling, score))
    batch_size = config.evaluation.batch_size
    detect = detect_videos if are_videos else detect_photos
    try:
        detect(replicas, paths, options.output, score, batch_size)
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


def print_work(replicas: "Replicas[ImageDetector]", config: "Config") -> None:
    """Prints the number of views where the detectors see tiles, the work of each of several replicas, and the
    limits that left out candidates which might have been drawn."""
    from refinedet_tf.evaluation.limits import reached_limits
    from refinedet_tf.inference.image_detector import total_cost

    cost = total_cost(replicas.detectors)
    images = sum(work.images for work in replicas.work)
    if cost.views and images:
        views = cost.views / images
        print(f"tiles: {views:.1f} views per image; each takes as long as an image without tiles")
    if len(replicas.devices) > 1:
        print("\n".join(map(str, replicas.work)))
    for line in reached_limits(cost.limited, cost.inputs, images, config):
        print(f"note: {line}")
