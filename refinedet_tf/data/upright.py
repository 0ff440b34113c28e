"""Images with an EXIF orientation: their upright sizes, and the boxes that have to be turned with them.

Phones store the raster of their sensor together with the turn that makes it upright. Inside the project all
images are upright, and so are all boxes. Most tools for annotation show the upright image; others ignore the
tag. Which of them wrote a file shows in the size that it states.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refinedet_tf.data.image_header import read_image_headers
from refinedet_tf.errors import InputError
from refinedet_tf.progress import QUIET_SECONDS, ProgressPrinter, with_progress

INVERSE_ORIENTATIONS = np.array([0, 1, 2, 3, 4, 5, 8, 7, 6], np.uint8)
"""The turn from the upright image back to the stored raster; the index is the orientation, 1..8."""


class UprightImages(NamedTuple):
    """N images and the frames of their boxes."""

    sizes: np.ndarray
    """int32 [N, 2], height and width in pixels of the upright images."""
    orientations: np.ndarray
    """uint8 [N], 1..8, the turn from the stored raster to the upright image (see `ImageHeader`)."""
    turned: np.ndarray
    """bool [N], whether the boxes of the annotation refer to the stored raster and are turned with it."""
    unclear: np.ndarray
    """bool [N], whether an image is turned and the annotation does not tell to which of the two the boxes
    refer, because it states no size or both have the same; they are taken for those of the upright image."""

    @property
    def frame_sizes(self) -> np.ndarray:
        """int32 [N, 2], height and width in pixels of the raster to which the boxes refer."""
        swapped = self.turned & (self.orientations >= 5)
        return np.where(swapped[:, None], self.sizes[:, ::-1], self.sizes)


def read_upright_images(paths: Sequence[str], stated_sizes: np.ndarray) -> UprightImages:
    """Reads the headers of all images and decides to what the boxes of each refer.

    Where the annotation states the size of the stored raster, which is not that of the upright image, the
    boxes refer to the raster; elsewhere they refer to the upright image. A stated size that is neither is
    kept, and a file whose header cannot be read has the stated one: decoding refuses both.

    Args:
        paths: the N files.
        stated_sizes: int32 [N, 2], height and width as the annotation states them; 0 where it does not.

    Raises:
        InputError: the header of a file cannot be read, and no size is stated.
    """
    printer = ProgressPrinter("reading the headers of the images", QUIET_SECONDS)
    stored = stated_sizes.copy()
    orientations = np.ones(len(paths), np.uint8)
    headers = with_progress(read_image_headers(paths), len(paths), printer)
    for index, header in enumerate(headers):
        if not isinstance(header, InputError):
            stored[index] = header.height, header.width
            orientations[index] = header.orientation
        elif not stated_sizes[index].any():
            raise header
    upright = np.where((orientations >= 5)[:, None], stored[:, ::-1], stored)
    is_stated = stated_sizes.any(axis=1)
    has_raster_size = is_stated & (stated_sizes == stored).all(axis=1)
    has_upright_size = is_stated & (stated_sizes == upright).all(axis=1)
    return UprightImages(
        sizes=np.where((is_stated & ~has_raster_size)[:, None], stated_sizes, upright),
        orientations=orientations,
        turned=has_raster_size & ~has_upright_size,
        unclear=(orientations > 1) & (~is_stated | (has_raster_size & has_upright_size)),
    )


def turn_boxes(corners: np.ndarray, sizes: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Turns boxes with the raster to which they refer.

    Args:
        corners: float64 [M, 4], xmin, ymin, xmax, ymax in continuous pixels of the stored raster.
        sizes: int [M, 2], height and width in pixels of the upright image of each box.
        orientations: uint8 [M], 1..8, the orientation of the image of each box (see `ImageHeader`).

    Returns:
        float64 [M, 4], xmin, ymin, xmax, ymax in continuous pixels of the upright image; a box without
        area, whose corners are in the wrong order, stays one.
    """
    # Every turn is a reflection at the diagonal, or none, after which the axes are mirrored, or not.
    step = orientations - 1
    turned = np.where((step >= 4)[:, None], corners[:, [1, 0, 3, 2]], corners)
    height, width = np.asarray(sizes, np.float64).T
    mirror_x, mirror_y = np.isin(step % 4, (1, 2)), np.isin(step % 4, (2, 3))
    xmin, ymin, xmax, ymax = turned.T
    return np.stack(
        [
            np.where(mirror_x, width - xmax, xmin),
            np.where(mirror_y, height - ymax, ymin),
            np.where(mirror_x, width - xmin, xmax),
            np.where(mirror_y, height - ymin, ymax),
        ],
        axis=1,
    )
