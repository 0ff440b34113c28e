"""How MediaPipe detects on whole photographs, which it resizes by itself, and how long it takes.

    python benchmarks/mediapipe_photographs.py exports/mine/1 photos/ --config runs/mine

The folder is that of an export with --litert, --mediapipe and --int8. The first lines say how many of the
network's detections MediaPipe finds again, in the same class with an IoU of at least 0.9, and of at least
0.75: on the photographs, and on the photographs resized here to the size of the network. The last lines
compare the times per image of the files, which are measured in turns.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from timing import measure_in_turns

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.data.images import read_image, warp_image
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
    parser.add_argument("export", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--config", default="pretrained")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    config, network = trained_network(options.config)
    detector = Detector(network, config)
    photos = [read_image(path) for path in find_images(options.photos)]
    resized = [
        tf.cast(tf.round(warp_image(photo, detector.image_size)), tf.uint8).numpy() for photo in photos
    ]
    folder = options.export / "litert"
    with (
        MediaPipeFile(folder / "mediapipe.tflite", detector.class_names) as mediapipe,
        MediaPipeFile(folder / "mediapipe_int8.tflite", detector.class_names) as mediapipe_int8,
    ):
        for what, images in (("whole photographs", photos), ("photographs resized here", resized)):
            found, total = pairs(detector, mediapipe, images, options.score)
            print(f"{what}: {' and '.join(map(str, found))} of {total} detections found again")
        heads = LiteRTFile(folder / "heads_int8.tflite")
        image = resized[0]
        warped = image[None].astype(np.float32)
        times = measure_in_turns(
            {
                "mediapipe.tflite in MediaPipe": lambda: mediapipe(image),
                "mediapipe_int8.tflite in MediaPipe": lambda: mediapipe_int8(image),
                "heads_int8.tflite in LiteRT": lambda: heads(warped),
            },
            options.runs,
        )
    reference = np.median(times["heads_int8.tflite in LiteRT"])
    for name, values in times.items():
        median = np.median(values)
        print(f"{name}: {median:.1f} ms per image, {median / reference:.2f} of heads_int8.tflite")


if __name__ == "__main__":
    main()
