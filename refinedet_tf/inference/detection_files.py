"""The folder that detection commands write: one picture per image, and detections.json."""

import itertools
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refinedet_tf.drawing import draw_detections
from refinedet_tf.errors import InputError
from refinedet_tf.files import check_unused, explain_os_errors, is_folder, list_folder
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.progress import QUIET_SECONDS, ProgressPrinter

LONGEST_JPEG_SIDE = 65_500
"""libjpeg writes no longer side in pixels."""


def free_folder() -> Path:
    """Returns the folder `detections`, or the first of `detections-2` and so on that is new or empty."""
    names = itertools.chain(["detections"], (f"detections-{number}" for number in itertools.count(2)))
    return next(
        folder
        for folder in map(Path, names)
        if not folder.exists() or (is_folder(folder) and not list_folder(folder))
    )


def make_output_folder(folder: Path) -> None:
    """Makes the folder, or accepts one that exists and is empty.

    Raises:
        InputError: the folder is not empty, or cannot be written.
    """
    check_unused(folder)
    with explain_os_errors(f"--output {folder}"):
        folder.mkdir(parents=True, exist_ok=True)


def write_detections(
    results: Iterable[tuple[Path, np.ndarray, ImageDetections]],
    num_images: int,
    output: Path,
    score_threshold: float,
    left_out: Sequence[str],
) -> None:
    """Draws the detections on each image and writes detections.json, image by image as they come.

    detections.json is a list with one object per image: "image" (its path), "picture" (the file in
    `output`), "height" and "width" in pixels, and "detections" by descending score, each with
    "class", "score" and "box" {"xmin", "ymin", "xmax", "ymax"} in pixels of the image.

    Args:
        results: (path, pixels uint8 [H, W, 3], RGB, detections as `Detector` returns them) of each image.
        num_images: the number of images, including those that are left out.
        output: an existing folder.
        score_threshold: the smallest score of the detections that are drawn.
        left_out: what is wrong with each image that has no result; it may grow while `results` is read.

    Raises:
        InputError: images were left out (all the others have been written), or `output` cannot be
            written.
    """
    num_drawn = 0
    names: set[str] = set()
    progress, start = ProgressPrinter(quiet_seconds=QUIET_SECONDS), time.monotonic()
    with (
        explain_os_errors(f"--output {output}"),
        # The bytes of a file name that is not UTF-8 become escapes, which are valid in JSON's strings.
        (output / "detections.json").open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write("[")
        try:
            for path, image, result in results:
                picture = free_name(path.stem, _ending(path, image), names)
                entry = {"image": str(path), "picture": picture, **json_entry(result)}
                file.write(",\n" if len(names) > 1 else "\n")
                file.write(json.dumps(entry, ensure_ascii=False))
                num_drawn += _write_picture(output / picture, image, result, score_threshold)
                progress(len(names), num_images, time.monotonic() - start)
        finally:
            # Even an interrupted run leaves valid JSON.
            file.write("\n]\n")
    print(f"{len(names)} images, {num_drawn} detections of score {score_threshold:g} or more: {output}")
    if left_out:
        raise InputError(f"{len(left_out)} of {num_images} images left out: {'; '.join(left_out)}")


def free_name(stem: str, ending: str, taken: set[str]) -> str:
    """Chooses the name of a file of the output folder, and adds it in lower case to `taken`.

    It is `stem` with the ending, and with a number if another file has that name already.
    """
    name, number = f"{stem}{ending}", 2
    while name.lower() in taken:  # Some file systems ignore upper and lower case.
        name, number = f"{stem}-{number}{ending}", number + 1
    taken.add(name.lower())
    return name


def _ending(path: Path, image: np.ndarray) -> str:
    """Returns the ending of the picture of an image: that of the image's file, where it can be written so."""
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if path.suffix.lower() == ".png" or (is_jpeg and max(image.shape) <= LONGEST_JPEG_SIDE):
        return path.suffix
    return ".png"


def json_entry(result: ImageDetections) -> dict[str, object]:
    """Returns the "height", the "width" and the "detections" of an image, as `write_detections` says."""
    height, width = result.image_size
    detections: list[dict[str, object]] = []
    for name, score, box in zip(result.names, result.scores, result.boxes, strict=True):
        ymin, xmin, ymax, xmax = (round(float(side), 2) for side in box)
        corners = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
        detections.append({"class": name, "score": round(float(score), 6), "box": corners})
    return {"height": height, "width": width, "detections": detections}


def _write_picture(file: Path, image: np.ndarray, result: ImageDetections, score_threshold: float) -> int:
    """Draws the detections of at least `score_threshold` and returns their number."""
    shown = result.above(score_threshold)
    picture = draw_detections(
        image, shown.normalized_boxes, shown.labels, shown.class_names, scores=shown.scores
    )
    # Only JPEG uses `quality`.
    Image.fromarray(picture).save(file, quality=95)
    return len(shown.scores)
