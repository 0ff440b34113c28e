"""How MediaPipe detects on whole photographs, which it resizes by itself, and how long it takes.

    python benchmarks/mediapipe_photographs.py exports/mine/1 photos/ --config runs/mine

The folder is that of an export with --litert, --mediapipe and --int8. The line of JSON says how many of the
network's detections there are, and how many of them MediaPipe finds again, in the same class with an IoU of
at least 0.9 and of at least 0.75: on the photographs ("whole"), on the photographs resized here to the
size of the network ("resized"), and on those with each pixel as a square of 4 x 4 ("squares"), as
examples/web/ does it. "milliseconds" has the times per image of the files, measured in turns, and
"to_heads_int8" their ratios to heads_int8.tflite in LiteRT.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timing import measure_in_turns, spread

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.data.images import read_image
from refinedet_tf.exports.check import of_network_size
from refinedet_tf.exports.runtimes import LiteRTFile, MediaPipeFile
from refinedet_tf.inference.detector import Detector, trained_network
from refinedet_tf.refinedet.boxes import pairwise_iou

OVERLAPS = (0.9, 0.75)
"""The smallest IoU of a pair."""


def pairs(
    detector: Detector, file: MediaPipeFile, images: Sequence[np.ndarray], score: float
) -> tuple[np.ndarray, int]:
    """Returns how many of the network's detections of at least that score MediaPipe finds, for each of
    `OVERLAPS`, and how many there are."""
    found, total = np.zeros(len(OVERLAPS), int), 0
    for image, result in zip(images, detector(images), strict=True):
        boxes, _, labels = file(image)
        wanted = result.scores >= score
        total += int(wanted.sum())
        if len(boxes):
            iou = np.asarray(pairwise_iou(result.normalized_boxes[wanted], boxes))
            same = result.labels[wanted][:, None] == labels
            found += [int(((iou >= overlap) & same).any(axis=1).sum()) for overlap in OVERLAPS]
    return found, total


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("export", type=Path, help="the folder of the version")
    parser.add_argument("photos", nargs="+", help="files, folders or quoted patterns")
    parser.add_argument("--config", default="pretrained", help="the run that was exported")
    parser.add_argument("--score", type=float, default=0.5, help="the least score that counts (default: 0.5)")
    parser.add_argument("--runs", type=int, default=20, help="runs per file (default: 20)")
    options = parser.parse_args()
    config, network = trained_network(options.config)
    detector = Detector(network, config)
    photos = [read_image(path) for path in find_images(options.photos)]
    resized = [of_network_size(photo, detector.image_size) for photo in photos]
    folder = options.export / "litert"
    with (
        MediaPipeFile(folder / "mediapipe.tflite", detector.class_names) as mediapipe,
        MediaPipeFile(folder / "mediapipe_int8.tflite", detector.class_names) as mediapipe_int8,
    ):
        result: dict[str, object] = {}
        squares = [image.repeat(4, axis=0).repeat(4, axis=1) for image in resized]
        for what, images in (("whole", photos), ("resized", resized), ("squares", squares)):
            found, total = pairs(detector, mediapipe, images, options.score)
            again = dict(zip(OVERLAPS, found.tolist(), strict=True))
            result[what] = {"detections": total, "found_again": again}
        heads = LiteRTFile(folder / "heads_int8.tflite")
        image, warped = resized[0], resized[0][None].astype(np.float32)
        times = measure_in_turns(
            {
                "mediapipe": lambda: mediapipe(image),
                "mediapipe_int8": lambda: mediapipe_int8(image),
                "heads_int8": lambda: heads(warped),
            },
            options.runs,
        )
    result["milliseconds"] = {name: spread(values) for name, values in times.items()}
    medians = {name: float(np.median(values)) for name, values in times.items()}
    result["to_heads_int8"] = {name: round(ms / medians["heads_int8"], 2) for name, ms in medians.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
