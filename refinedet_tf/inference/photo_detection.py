"""Detection on the files of photographs: a picture of each, and detections.json."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.data.images import read_image
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detection_files import write_detections
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.image_detector import ImageDetector
from refinedet_tf.inference.replicas import Replicas
from refinedet_tf.threads import map_in_threads

_Batch = tuple[list[tuple[Path, np.ndarray]], list[str]]
"""The images that were read from successive files, and what is wrong with each of the other files."""


def detect_photos(
    replicas: Replicas[ImageDetector],
    paths: Sequence[Path],
    output: Path,
    score_threshold: float,
    batch_size: int,
) -> None:
    """Detects, draws and writes batch after batch, so that any number of images fits in memory.

    A batch consists of those of `batch_size` successive files that can be read. Some batches per replica
    are in memory; so many are read ahead as there are replicas.

    Raises:
        InputError: images cannot be read (all the others have been written), or `output` cannot be
            written.
    """
    unreadable: list[str] = []

    def detect(detector: ImageDetector, batch: _Batch) -> list[ImageDetections]:
        return detector([image for _, image in batch[0]], batch_size)

    def results() -> Iterator[tuple[Path, np.ndarray, ImageDetections]]:
        count = len(replicas.devices)
        files = (paths[start : start + batch_size] for start in range(0, len(paths), batch_size))
        batches = map_in_threads(_read_batch, files, threads=count, ahead=count)
        for (images, problems), batch_detections in replicas.run(batches, detect):
            unreadable.extend(problems)
            for (path, image), detections in zip(images, batch_detections, strict=True):
                yield path, image, detections

    write_detections(results(), len(paths), output, score_threshold, unreadable)


def _read_batch(paths: Sequence[Path]) -> _Batch:
    contents = [(path, _read(path)) for path in paths]
    images = [(path, image) for path, image in contents if not isinstance(image, str)]
    return images, [problem for _, problem in contents if isinstance(problem, str)]


def _read(path: Path) -> np.ndarray | str:
    """Returns the pixels of an image, or what is wrong with it."""
    try:
        return read_image(path)
    except InputError as error:
        return str(error)
