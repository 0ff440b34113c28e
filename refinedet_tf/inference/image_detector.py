"""What all detectors have in common: they take images of any size in batches, and say what that has cost."""

import abc
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from refinedet_tf.data.images import read_image
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.inference.detections import ImageDetections

ImageLike = str | os.PathLike | np.ndarray
"""An image file, or pixels uint8 [H, W, 3], RGB."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What detectors have seen so far, and the time that it took.

    Attributes:
        inputs: the number of images that the network has seen: one for each pass over each view.
        views: the number of whole images and tiles; 0 without tiles.
        limited: the number of inputs in which each limit of `postprocess_and_limits` left out candidates that
            may be wanted.
        seconds: the seconds of everything.
        plain_seconds: the part of `seconds` that the plainer way takes: in multi-scale testing a single pass
            over the whole image, with tiles the whole images alone; 0 where there is no plainer way.
        network_seconds: the part of `seconds` that the network took; 0 where it was not measured.
    """

    inputs: int = 0
    views: int = 0
    limited: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    plain_seconds: float = 0.0
    network_seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Returns the cost of both together."""
        return Cost(
            self.inputs + other.inputs,
            self.views + other.views,
            (self.limited[0] + other.limited[0], self.limited[1] + other.limited[1]),
            self.seconds + other.seconds,
            self.plain_seconds + other.plain_seconds,
            self.network_seconds + other.network_seconds,
        )


class HasCost(Protocol):
    """A detector of any kind, also one that is no `ImageDetector`."""

    @property
    def cost(self) -> Cost:
        """What it has cost so far."""


def total_cost(detectors: Iterable[HasCost]) -> Cost:
    """Adds up what detectors have cost, such as those of all replicas."""
    return sum((detector.cost for detector in detectors), Cost())


class ImageDetector(abc.ABC):
    """A trained network that is called on images of any size.

    Attributes:
        image_size: (height, width) in pixels to which images are warped, in multi-scale testing in its first
            pass.
        class_names: the C names, label 1 first.
        num_classes: C, without background.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    num_classes: int

    @property
    def num_passes(self) -> int:
        """The number of times that the network sees each image or tile."""
        return 1

    def __call__(self, images: Iterable[ImageLike], batch_size: int = 8) -> list[ImageDetections]:
        """Detects the objects of each image.

        Args:
            images: paths (str or Path, see `read_image`) and uint8 arrays [H, W, 3], RGB, of any sizes; both
                kinds may be mixed.
            batch_size: the number of images that the network sees at once, at least 1. No more images than
                these are held in memory.

        Returns:
            The `ImageDetections` of each image, in the given order.

        Raises:
            InputError: an image is of another kind or cannot be read (the message names it), `images` is a
                single path, or `batch_size` is no whole number from 1.
        """
        check_call(images, batch_size)
        pixels = (as_pixels(image, number) for number, image in enumerate(images))
        results: list[ImageDetections] = []
        while batch_results := self._detect(itertools.islice(pixels, batch_size), batch_size):
            results += batch_results
        return results

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What all calls have cost so far."""

    @abc.abstractmethod
    def _detect(self, images: Iterator[np.ndarray], batch_size: int) -> list[ImageDetections]:
        """Returns the detections of each image of a batch, which is read as `images` is; [] without images.

        Args:
            images: at most `batch_size` images, uint8 [H, W, 3], RGB.
            batch_size: the number of images or tiles that the network may see at once.
        """

    def warm_up(self) -> None:  # noqa: B027 - not every detector has something to do
        """Traces what can be traced, so that the time of the calls that follow is without it."""


def check_call(images: object, batch_size: object) -> None:
    """Checks the arguments with which a detector is called.

    Raises:
        InputError: `images` is a single path, or `batch_size` is no whole number from 1.
    """
    if isinstance(images, str | bytes | os.PathLike):
        raise InputError(f"images must be a list of images, got the single path {shortened_text(images)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number of at least 1, got {shortened(batch_size)}")


def as_pixels(image: ImageLike, number: int) -> np.ndarray:
    """Returns the pixels of an image given as path or array: uint8 [H, W, 3], RGB.

    Args:
        image: a path, or uint8 [H, W, 3] with at least one pixel.
        number: the place of the image in the list of images, for the message.

    Raises:
        InputError: the image is of another kind or cannot be read; the message names it.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(
            f"image {number} must be a path or a uint8 array [H, W, 3], RGB, "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels
