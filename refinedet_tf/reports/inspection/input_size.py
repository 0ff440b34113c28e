"""The size of the network's input that has the aspect ratio of the photographs."""

import dataclasses
import itertools
import math

import numpy as np

MULTIPLE = 32
"""Height and width are multiples of it, the stride of the deepest level of a backbone."""

COMMON_SHARE = 0.8
"""The share of the images from which on their aspect ratio is that of the set."""

SAME_RATIO = 1.1
"""Aspect ratios count as equal up to this factor."""

SAME_COST = 1.1
"""Sizes cost as much as each other if their numbers of pixels differ by at most this factor."""


@dataclasses.dataclass(frozen=True)
class InputSize:
    """A size of the network's input for images of one aspect ratio.

    Attributes:
        size: (height, width) in pixels.
        ratio: width / height of the images.
        share: the share of the images that have about this ratio, 0..1.
        cost: the pixels of the size as a multiple of those of the size that is given now.
    """

    size: tuple[int, int]
    ratio: float
    share: float
    cost: float

    def __str__(self) -> str:
        """Returns the advice in a sentence."""
        return (
            f"{100 * self.share:.0f} % of the training images are about {self.ratio:.2f} times as wide as "
            "high, and the network's input is not: all objects are squeezed. model.image_size "
            f"{list(self.size)} has their shape and {self.cost:.2f} of the pixels, which the computation "
            "follows."
        )


def better_input_size(image_sizes: np.ndarray, now: tuple[int, int]) -> InputSize | None:
    """Finds a size with the aspect ratio of the images and about as many pixels as the size that is given.

    Every image is warped to the network's input. Where most images have one aspect ratio and the input has
    another, all objects are squeezed in one direction, and pixels are spent on the other.

    Args:
        image_sizes: int [N, 2], (height, width) in pixels of each image.
        now: (height, width) in pixels of the network's input.

    Returns:
        The size; None if the images have no common ratio, or if no size is nearer to it than the one given.
    """
    if not len(image_sizes):
        return None
    heights, widths = np.asarray(image_sizes, np.float64).T
    logs = np.log(widths / heights)
    ratio = float(np.median(logs))
    share = float(np.mean(np.abs(logs - ratio) <= math.log(SAME_RATIO)))
    distance = abs(math.log(now[1] / now[0]) - ratio)
    if share < COMMON_SHARE or distance <= math.log(SAME_RATIO):
        return None
    pixels = now[0] * now[1]
    sides = range(MULTIPLE, int(math.sqrt(pixels) * 4), MULTIPLE)
    sizes = [
        (height, width)
        for height, width in itertools.product(sides, sides)
        if 1 / SAME_COST <= height * width / pixels <= SAME_COST
    ]
    # Of sizes of one ratio, the one of the most equal cost.
    best = min(
        sizes,
        key=lambda size: (
            round(abs(math.log(size[1] / size[0]) - ratio), 6),
            abs(math.log(size[0] * size[1] / pixels)),
        ),
    )
    if abs(math.log(best[1] / best[0]) - ratio) >= distance:
        return None
    return InputSize(best, math.exp(ratio), share, best[0] * best[1] / pixels)
