"""The folder that detection commands write: a picture for every image, and detections.json."""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refinedet_tf.drawing import draw_detections
from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.progress import ProgressPrinter

QUIET_SECONDS = 5.0
"""Shorter work shows no progress."""


def make_output_folder(folder: Path) -> None:
    """Makes the folder, or accepts one that is there and empty.

    Raises:
        InputError: it holds something, or cannot be written.
    """
    with explain_os_errors(f"--output {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--output {folder} is not empty: name a new folder, so that nothing is mixed")


def write_detections(
    results: Iterable[tuple[Path, np.ndarray, ImageDetections]],
    num_images: int,
    output: Path,
    score_threshold: float,
    left_out: Sequence[str],
) -> None:
    """Draws and writes one image after the other, as they come.

    detections.json is a list with one object an image: "image" (its path), "picture" (the file in
    `output`), "height" and "width" in pixels, and "detections" by descending score, each with
    "class", "score" and "box" {"xmin", "ymin", "xmax", "ymax"} in pixels of the image.

    Args:
        results: (path, pixels uint8 [H, W, 3], result as `Detector` gives it) of each image.
        num_images: how many are to come, with those left out.
        output: a folder.
        score_threshold: smallest score of what is drawn.
        left_out: what is wrong with images that have no result; may grow while `results` is read.

    Raises:
        InputError: images were left out (all the others have been written), or `output` cannot be
            written.
    """
    num_drawn, names = 0, set()
    progress, start = ProgressPrinter(quiet_seconds=QUIET_SECONDS), time.monotonic()
    with (
        explain_os_errors(f"--output {output}"),
        # The bytes of a file name that is not UTF-8 become escapes, which are valid in JSON's strings.
        (output / "detections.json").open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write("[")
        try:
            for path, image, result in results:
                entry = _json_entry(path, result, _free_name(path, names))
                file.write(",\n" if len(names) > 1 else "\n")
                file.write(json.dumps(entry, ensure_ascii=False))
                num_drawn += _write_picture(output / entry["picture"], image, result, score_threshold)
                progress(len(names), num_images, time.monotonic() - start)
        finally:
            # Also an interrupted run leaves whole JSON.
            file.write("\n]\n")
    print(f"{len(names)} images, {num_drawn} detections of score {score_threshold:g} or more: {output}")
    if left_out:
        raise InputError(f"{len(left_out)} of {num_images} images left out: {'; '.join(left_out)}")


def _free_name(path: Path, taken: set[str]) -> str:
    """A name for the picture of `path`: its own, with a number where another image took that already."""
    ending = path.suffix if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
    name, number = f"{path.stem}{ending}", 2
    while name.lower() in taken:  # Some file systems do not tell cases apart.
        name, number = f"{path.stem}-{number}{ending}", number + 1
    taken.add(name.lower())
    return name


def _json_entry(path: Path, result: ImageDetections, picture: str) -> dict[str, object]:
    height, width = result.image_size
    detections = []
    for name, score, box in zip(result.names, result.scores, result.boxes, strict=True):
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


def _write_picture(file: Path, image: np.ndarray, result: ImageDetections, score_threshold: float) -> int:
    """Draws the detections of at least `score_threshold` and returns their number."""
    shown = result.above(score_threshold)
    picture = draw_detections(
        image, shown.normalized_boxes, shown.labels, shown.class_names, scores=shown.scores
    )
    # `quality` concerns JPEG only.
    Image.fromarray(picture).save(file, quality=95)
    return len(shown.scores)
