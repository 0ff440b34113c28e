"""The interface of the readers of all data formats, and what they share."""

import abc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refinedet_tf.config import training as data_config
from refinedet_tf.data.readers.shares import WHOLE, Share
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_folder, list_folder, read_bytes


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


class Reader(abc.ABC):
    """One part of a dataset, such as a split of VOC or an annotation file of COCO.

    Iterating yields one `AnnotatedImage` per image, in the order of the files. Image files are not opened.

    Args:
        root: the folder within which all files lie.
        part: the name of the part, without its share.
        may_be_unlabelled: accept a part that has no annotations at all. Its images have no objects.
        share: which images to read, by their names as `image_name` returns them.

    Raises:
        InputError: a file or folder is missing or broken; the message names it, and the line or the entry.
    """

    clash_prefix: str
    """This prefix goes before the image ids that another part also has, as in "2007/000005"."""
    labelled: bool = True
    """Whether the part has annotations."""

    def __init__(
        self, root: str | Path, part: str, may_be_unlabelled: bool = False, share: Share = WHOLE
    ) -> None:
        self.root = Path(root)
        self.name = f"{part}{share}"
        """The part's name in the config."""
        self._open(part, may_be_unlabelled, share)

    @abc.abstractmethod
    def _open(self, part: str, may_be_unlabelled: bool, share: Share) -> None:
        """Finds the files of the part, and sets `clash_prefix` and `labelled`."""

    @property
    def class_names(self) -> list[str] | None:
        """The names of all classes in their order, where the files list them; None elsewhere."""
        return None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of images."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[AnnotatedImage]: ...

    @abc.abstractmethod
    def image_files(self) -> Iterator[str]:
        """Yields the image file of each image, without reading annotations."""

    @abc.abstractmethod
    def annotation_file(self, image_id: str) -> Path:
        """Returns the file that holds the annotation of an image, which messages name."""

    @staticmethod
    @abc.abstractmethod
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

    def check(self, path: Path, lister: object) -> None:
        """Raises an `InputError` if a path that a file lists does not exist."""
        if path not in self:
            raise InputError(f"{shortened_text(path)} does not exist, but {shortened_text(lister)} lists it")


def read_text(file: Path, max_bytes: int | None = None) -> str:
    """Reads a text file in UTF-8, with a byte order mark or without.

    Raises:
        InputError: the file cannot be read, is larger than `max_bytes`, or is not UTF-8.
    """
    try:
        return read_bytes(file, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} cannot be read: {error}") from None


def check_class_name(name: str, where: str) -> None:
    """Raises an `InputError`, which begins with `where`, if a class name is not one line of text."""
    try:
        data_config.check_class_name(name)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
