"""The interface of the readers of all data formats."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from refinedet_tf.errors import InputError


class AnnotatedImage(NamedTuple):
    """One image and its objects, as the files describe them."""

    image_id: str
    path: str
    height: int
    """The height in pixels."""
    width: int
    """The width in pixels."""
    boxes: list[tuple[float, float, float, float]]
    """One box per object, in the numbers and the order of the format."""
    class_names: list[str]
    difficult: list[bool]


class Reader(Protocol):
    """One part of a dataset, such as a split of VOC or an annotation file of COCO.

    Iterating yields one `AnnotatedImage` per image, in the order of the files.
    """

    name: str
    """The part's name in the config."""
    clash_prefix: str
    """This prefix goes before the image ids that another part also has."""
    labelled: bool
    """Whether the part has annotations."""

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __iter__(self) -> Iterator[AnnotatedImage]: ...

    def annotation_file(self, image_id: str) -> Path:
        """Returns the file that holds the annotation of an image, which messages name."""
        ...

    @staticmethod
    def corners(file_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turns boxes of the files, float64 [M, 4], into continuous pixel coordinates.

        Returns:
            corners: float64 [M, 4], xmin, ymin, xmax, ymax.
            has_area: bool [M], whether each box has an area by the convention of the format.
        """
        ...


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Reads height and width in pixels from the header of an image file.

    Raises:
        InputError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
