"""The images on which the ranges of the numbers in a network are measured, for int8."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.data.images import read_image, warp_image
from refinedet_tf.errors import InputError

MIN_IMAGES = 16
"""With fewer images, a range would be that of an accident."""

MAX_IMAGES = 128
"""The ranges hardly change with more images, but time and memory grow with their number."""


def choose(paths: Sequence[Path]) -> list[Path]:
    """Chooses `MAX_IMAGES` paths that are evenly spread over the given order, or all if there are fewer.

    Raises:
        InputError: there are fewer than `MIN_IMAGES`.
    """
    if len(paths) < MIN_IMAGES:
        raise InputError(
            f"--int8: calibration needs at least {MIN_IMAGES} images like those of the application, "
            f"got {len(paths)}"
        )
    count = min(len(paths), MAX_IMAGES)
    return [paths[index * len(paths) // count] for index in range(count)]


def read_images(paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """Reads images as inference does.

    Args:
        paths: the image files.
        size: (height, width) of the network's input in pixels.

    Returns:
        float32 [n, height, width, 3], RGB 0..255.

    Raises:
        InputError: a file cannot be read or decoded; the message names it.
    """
    return np.stack([warp_image(read_image(path), size).numpy() for path in paths])


def batches(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Yields batches of exactly `batch` images; the last image is repeated where some are missing."""
    for first in range(0, len(images), batch):
        chosen = np.minimum(np.arange(first, first + batch), len(images) - 1)
        yield images[chosen]
