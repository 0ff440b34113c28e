"""Detection on the files of photographs: a picture of each, and detections.json."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from refinedet_tf.data.images import read_image
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detection_files import write_detections
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.image_detector import ImageDetector
from refinedet_tf.inference.replicas import Replicas

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
    are in memory.

    Raises:
        InputError: images cannot be read (all the others have been written), or `output` cannot be
            written.
    """
    unreadable: list[str] = []

    def detect(detector: ImageDetector, reading: Future[_Batch]) -> list[ImageDetections]:
        images, _ = reading.result()
        return detector([image for _, image in images], batch_size)

    def results() -> Iterator[tuple[Path, np.ndarray, ImageDetections]]:
        with ThreadPoolExecutor(len(replicas.devices)) as readers:
            starts = range(0, len(paths), batch_size)
            batches = (readers.submit(_read_batch, paths[start : start + batch_size]) for start in starts)
            for reading, batch_detections in replicas.run(batches, detect):
                images, problems = reading.result()
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
