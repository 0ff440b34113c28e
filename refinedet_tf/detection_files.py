"""The folder that detection commands write: a picture for every image, and detections.json."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refinedet_tf.drawing import draw_detections
from refinedet_tf.errors import InputError

SECONDS_BETWEEN_REPORTS = 5


def make_output_folder(folder: Path) -> None:
    """Makes the folder, or accepts one that is there and empty.

    Raises:
        InputError: it holds something, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--output {folder} is not empty: name a new folder, so that nothing is mixed")
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from None


def write_detections(
    results: Iterable[tuple[Path, np.ndarray, dict]],
    num_images: int,
    output: Path,
    class_names: Sequence[str],
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
        class_names: C names, label 1 first.
        score_threshold: smallest score of what is drawn.
        left_out: what is wrong with images that have no result; may grow while `results` is read.

    Raises:
        InputError: images were left out (all the others have been written), or `output` cannot be
            written.
    """
    num_drawn, names = 0, set()
    reported = time.monotonic()
    try:
        with (output / "detections.json").open("w", encoding="utf-8") as file:
            file.write("[")
            try:
                for path, image, result in results:
                    entry = _json_entry(path, result, _free_name(path, names))
                    file.write(",\n" if len(names) > 1 else "\n")
                    file.write(json.dumps(entry, ensure_ascii=False))
                    num_drawn += _write_picture(
                        output / entry["picture"], image, result, class_names, score_threshold
                    )
                    if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                        reported = time.monotonic()
                        print(f"{len(names)} of {num_images} images", file=sys.stderr, flush=True)
            finally:
                # Also an interrupted run leaves whole JSON.
                file.write("\n]\n")
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror or error}") from None
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
    drawn = result["scores"] >= score_threshold
    height, width = result["image_size"]
    boxes = result["boxes"][drawn] / np.array([height, width, height, width], np.float32)
    picture = draw_detections(
        image, boxes, result["labels"][drawn], class_names, scores=result["scores"][drawn]
    )
    # `quality` concerns JPEG only.
    Image.fromarray(picture).save(file, quality=95)
    return int(drawn.sum())
