"""Draws what a trained model detects: python detect.py --config runs/voc320 photos/ --output detections"""

import argparse
import glob
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf import cli
from refinedet_tf.errors import InputError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
"""What is taken from a folder. Files that are named, also by a pattern, may have any ending."""

SECONDS_BETWEEN_REPORTS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The output folder holds one picture for every image, and detections.json with all "
        "detections above the post-processing's score threshold, boxes in pixels of the image. "
        "Images that cannot be read are named at the end; the results of the others are kept.",
    )
    cli.add_model_options(parser)
    cli.add_multi_scale_option(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or quoted patterns")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="a folder that is new or empty"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="draw detections of at least this score (default: 0.5)",
    )
    arguments = parser.parse_args(arguments)
    if not 0 <= arguments.score_threshold <= 1:
        raise InputError(f"--score-threshold must lie in 0..1, got {arguments.score_threshold}")
    paths = find_images(arguments.images)
    _make_output_folder(arguments.output)
    config, model = cli.load_model(arguments)

    from refinedet_tf.detector import Detector
    from refinedet_tf.multiscale import MultiScaleDetector

    detector = (MultiScaleDetector if arguments.multi_scale else Detector)(model, config)
    detect_files(detector, paths, arguments.output, arguments.score_threshold, config.evaluation.batch_size)


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that `names` (files, folders, patterns with `*`, `?`, `[]`, `**`) stand for.

    A folder stands for the image files directly in it. Each file comes once, in the given order.

    Raises:
        InputError: a name stands for no image.
    """
    found = []
    for name in names:
        # Path.glob refuses absolute patterns.
        matches = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
        files = []
        for path in map(Path, matches):
            if path.is_dir():
                inside = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
                files += sorted(file for file in inside if file.is_file())
            else:
                files.append(path)
        if not files:
            raise InputError(f"no image found: {name}; name files, folders with images, or patterns")
        found += files
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def detect_files(
    detector, paths: Sequence[Path], output: Path, score_threshold: float, batch_size: int
) -> None:
    """Detects, draws and writes batch after batch, so that any number of images fits in memory.

    detections.json is a list with one object an image: "image" (its path), "picture" (the file in
    `output`), "height" and "width" in pixels, and "detections" by descending score, each with
    "class", "score" and "box" {"xmin", "ymin", "xmax", "ymax"} in pixels of the image.

    Raises:
        InputError: images cannot be read (all the others have been written), or `output` cannot be
            written.
    """
    unreadable, num_drawn, names = [], 0, set()
    reported = time.monotonic()
    try:
        with (output / "detections.json").open("w", encoding="utf-8") as file:
            file.write("[")
            try:
                for batch in _read_batches(paths, batch_size, unreadable):
                    results = detector([image for _, image in batch], batch_size)
                    for (path, image), result in zip(batch, results, strict=True):
                        entry = _json_entry(path, result, _free_name(path, names))
                        file.write(",\n" if len(names) > 1 else "\n")
                        file.write(json.dumps(entry, ensure_ascii=False))
                        num_drawn += _write_picture(
                            output / entry["picture"], image, result, detector.class_names, score_threshold
                        )
                    if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                        reported = time.monotonic()
                        print(f"{len(names)} of {len(paths)} images", file=sys.stderr, flush=True)
            finally:
                # Also an interrupted run leaves whole JSON.
                file.write("\n]\n")
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror or error}") from None
    print(f"{len(names)} images, {num_drawn} detections of score {score_threshold:g} or more: {output}")
    if unreadable:
        raise InputError(f"{len(unreadable)} of {len(paths)} images left out: {'; '.join(unreadable)}")


def _make_output_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--output {folder} is not empty: name a new folder, so that nothing is mixed")
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from None


def _read_batches(
    paths: Sequence[Path], batch_size: int, unreadable: list[str]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Batches of (path, pixels); what is wrong with unreadable images is added to `unreadable`."""
    from refinedet_tf.detector import read_image

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


def _free_name(path: Path, taken: set[str]) -> str:
    """A name for the picture of `path`: its own, with a number where another image took that already."""
    ending = path.suffix if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
    name, number = f"{path.stem}{ending}", 2
    while name.lower() in taken:  # Some file systems do not tell cases apart.
        name, number = f"{path.stem}-{number}{ending}", number + 1
    taken.add(name.lower())
    return name


def _json_entry(path: Path, result: dict, picture: str) -> dict:
    height, width = result["image_size"]
    detections = []
    for name, score, box in zip(result["names"], result["scores"], result["boxes"], strict=True):
        ymin, xmin, ymax, xmax = (round(float(side), 2) for side in box)
        corners = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
        detections.append({"class": name, "score": round(float(score), 6), "box": corners})
    return {
        "image": str(path),
        "picture": picture,
        "height": height,
        "width": width,
        "detections": detections,
    }


def _write_picture(
    file: Path, image: np.ndarray, result: dict, class_names: Sequence[str], score_threshold: float
) -> int:
    """Draws the detections of at least `score_threshold` and returns their number."""
    from PIL import Image

    from refinedet_tf.drawing import draw_detections

    drawn = result["scores"] >= score_threshold
    height, width = result["image_size"]
    boxes = result["boxes"][drawn] / np.array([height, width, height, width], np.float32)
    picture = draw_detections(
        image, boxes, result["labels"][drawn], class_names, scores=result["scores"][drawn]
    )
    # `quality` concerns JPEG only.
    Image.fromarray(picture).save(file, quality=95)
    return int(drawn.sum())


if __name__ == "__main__":
    cli.run(main)
