"""The interface of the readers of all data formats."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from refinedet_tf.config import training as data_config
from refinedet_tf.errors import InputError
from refinedet_tf.files import is_folder, list_folder


class AnnotatedImage(NamedTuple):
    """One image and its objects, as the files describe them."""

    image_id: str
    path: str
    size: tuple[int, int] | None
    """Height and width in pixels where the annotation states them."""
    boxes: list[tuple[float, float, float, float]]
    """One box per object, in the numbers and the order of the format."""
    class_names: list[str]
    difficult: list[bool]


class Reader(Protocol):
    """One part of a dataset, such as a split of VOC or an annotation file of COCO.

    Iterating yields one `AnnotatedImage` per image, in the order of the files. Image files are not opened.
    """

    name: str
    """The part's name in the config."""
    clash_prefix: str
    """This prefix goes before the image ids that another part also has."""
    labelled: bool
    """Whether the part has annotations."""

    @property
    def class_names(self) -> list[str] | None:
        """The names of all classes in their order, where the files list them; None elsewhere."""
        ...

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __iter__(self) -> Iterator[AnnotatedImage]: ...

    def image_files(self) -> Iterator[str]:
        """Yields the image file of each image, without reading annotations."""
        ...

    def annotation_file(self, image_id: str) -> Path:
        """Returns the file that holds the annotation of an image, which messages name."""
        ...

    @staticmethod
    def corners(file_boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turns boxes of the files into continuous pixel coordinates.

        Args:
            file_boxes: float64 [M, 4], in the numbers and the order of the format.
            sizes: int32 [M, 2], height and width of each box's image, which relative coordinates need. Of an
                image whose boxes refer to the stored raster, they are those of the raster.

        Returns:
            corners: float64 [M, 4], xmin, ymin, xmax, ymax.
            has_area: bool [M], whether each box has an area by the convention of the format.
        """
        ...


def path_within(root: str | os.PathLike, path: str | os.PathLike) -> Path | None:
    """Returns a path below `root` without ".." in it, or None if it leads elsewhere.

    Links are not followed, so that a data set may consist of links.

    Args:
        root: the folder that must hold the path.
        path: an absolute path, or one that is relative to the working directory as `root` may be.
    """
    relative = os.path.relpath(os.path.abspath(path), os.path.abspath(root))  # noqa: PTH100
    if relative == os.pardir or relative.startswith(os.pardir + os.sep):
        return None
    return Path(root) / relative


class FolderListings:
    """The names in folders, each of which is read once: `path in listings` says whether a path exists.

    One stat call per image would take hours on a network disk.
    """

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = set(list_folder(folder)) if is_folder(folder) else set()
        return path.name in self._names[folder]


def check_class_name(name: str, where: str) -> None:
    """Refuses a class name that is empty, or holds a line break or another control character.

    Args:
        name: the name as the annotation has it.
        where: the file and the entry, for the message.

    Raises:
        InputError: the name is not one line of text.
    """
    try:
        data_config.check_class_name(name)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
