"""A look at every image file: does it decode, and is it the same image as another one."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.images import read_image
from refinedet_tf.errors import InputError
from refinedet_tf.progress import Progress, with_progress
from refinedet_tf.threads import map_in_threads

_WAITING_PER_WORKER = 8
"""The number of images per worker that are read ahead of the one whose turn it is."""

DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class ImageScan:
    """What the files of N images hold."""

    digests: tuple[bytes | None, ...]
    """N digests of the decoded pixels and their shape; images of equal digest are equal pixel for pixel,
    whatever their format and metadata are. None where the file cannot be used."""
    problems: Mapping[int, str]
    """The index of each image that cannot be used -> the message with which training would stop."""


def scan_images(dataset: DetectionDataset, progress: Progress, workers: int | None = None) -> ImageScan:
    """Decodes all image files of a data set in threads, by default one per core, and few at a time.

    `progress` is called after each image. The result does not depend on the number of threads.
    """
    tasks = zip(dataset.image_paths, dataset.image_sizes, strict=True)
    digests: list[bytes | None] = []
    problems = {}
    threads = workers or os.cpu_count() or 1
    results = map_in_threads(_digest_or_problem, tasks, threads, threads * _WAITING_PER_WORKER)
    for index, result in enumerate(with_progress(results, len(dataset), progress)):
        if isinstance(result, str):
            problems[index] = result
        digests.append(None if isinstance(result, str) else result)
    return ImageScan(tuple(digests), problems)


def find_same_images(scans: Mapping[str, ImageScan]) -> list[list[tuple[str, int]]]:
    """Finds the images that occur more than once, within a split or in several, by the names of the splits.

    Returns one list per such image: the split and the index of each occurrence, in the order of the splits.
    """
    places = collections.defaultdict(list)
    for split, scan in scans.items():
        for index, digest in enumerate(scan.digests):
            if digest is not None:
                places[digest].append((split, index))
    return [occurrences for occurrences in places.values() if len(occurrences) > 1]


def _digest_or_problem(task: tuple[str, np.ndarray]) -> bytes | str:
    """Returns the digest of an image file, given with its annotated size, or what is wrong with it."""
    path, size = task
    try:
        image = read_image(path, size)
    except InputError as error:
        return str(error)
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def shared_images(same_images: Sequence[Sequence[tuple[str, int]]], first: str, second: str) -> list[int]:
    """Returns the indices in the split `second` of the images that the split `first` holds as well."""
    shared = []
    for occurrences in same_images:
        if any(split == first for split, _ in occurrences):
            shared += [index for split, index in occurrences if split == second]
    return sorted(shared)


def repeated_images(same_images: Sequence[Sequence[tuple[str, int]]], split: str) -> list[list[int]]:
    """Returns, for each image that a split holds more than once, its indices there."""
    groups = [[index for name, index in occurrences if name == split] for occurrences in same_images]
    return [group for group in groups if len(group) > 1]
