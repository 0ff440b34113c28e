"""What every reader of a data format offers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from refinedet_tf.errors import InputError


class AnnotatedImage(NamedTuple):
    """One image and its objects as they stand in the files."""

    image_id: str
    path: str
    height: int
    width: int
    boxes: list[tuple[float, float, float, float]]
    """In the numbers and the order of the format."""
    class_names: list[str]
    difficult: list[bool]


class Reader(Protocol):
    """One part of a data set, such as a split of VOC or an annotation file of COCO.

    Iterating yields an `AnnotatedImage` for every image, in the order of the files.
    """

    name: str
    """As in the config."""
    clash_prefix: str
    """Goes before the image ids of this part that another part has too."""
    labelled: bool
    """Whether there are annotations."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[AnnotatedImage]: ...

    def annotation_file(self, image_id: str) -> Path:
        """The file that holds the annotation of an image, for messages."""
        ...

    @staticmethod
    def corners(file_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of the files, float64 [M, 4], as continuous pixels.

        Returns:
            corners float64 [M, 4], xmin, ymin, xmax, ymax; has_area bool [M].
        """
        ...


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width in pixels from an image file's header.

    Raises:
        InputError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
