"""The reader for YOLO's layout: data.yaml, images/ and labels/."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from refinedet_tf.data.readers.identity import distinct_ids, name_without_ending
from refinedet_tf.data.readers.reader import AnnotatedImage, FolderListings, Reader, path_within, read_text
from refinedet_tf.data.readers.shares import Share
from refinedet_tf.data.readers.yolo_files import find_images, label_file, read_data_yaml
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file, is_folder, list_folder

MAX_LABEL_BYTES = 2**24
"""The largest size of a label file, which holds some 300,000 boxes."""

LARGEST_FRACTION = 2.0
"""Coordinates are fractions of the image's sides, 0..1. A box may leave the image and is clipped then, but
larger numbers are pixels."""

Box = tuple[float, float, float, float]


class YoloPart(Reader):
    """One split of a data.yaml, e.g. "train", in the layout

        root/data.yaml                names: [cat, dog] and train: images/train
        root/images/train/000005.jpg
        root/labels/train/000005.txt  one line "class cx cy w h" per object

    "train" is a key of root/data.yaml, and "file.yaml:train" one of root/file.yaml. A key names a folder,
    which is searched with all folders below it, a .txt list of images, or several of them. The label file of
    an image lies where the last "/images/" of its path is replaced by "/labels/"; without one, the image has
    no objects.

    Iterating yields one `AnnotatedImage` per image. Boxes are centre x, centre y, width, height in fractions
    of the image's width and height. A line of a polygon, "class x1 y1 x2 y2 x3 y3 ...", gives the box that
    encloses it. No size is stated. A split without annotations is one without any label file.

    A share takes images by their paths below the folder that data.yaml names, or below `root` where a list
    names the images; the last folder "images" on the way is left out.
    """

    def _open(self, part: str, may_be_unlabelled: bool, share: Share) -> None:
        file_name, _, split = part.rpartition(":")
        self.file = self._locate_yaml(file_name or "data.yaml", part)
        data_yaml = read_data_yaml(self.file)
        self._names = data_yaml.names
        listed = find_images(self.root, data_yaml, split)
        images = [image.file for image in listed]
        self.clash_prefix = split
        labels = [label_file(self.root, image) for image in images]
        listings = FolderListings()
        has_label = [label in listings for label in labels]
        self.labelled = any(has_label) or not (may_be_unlabelled and images)
        if images and self.labelled and not any(has_label):
            raise InputError(
                f"{shortened_text(labels[0])} does not exist, nor does the label file of any other of the "
                f"{len(images)} images of {shortened_text(part)}"
            )
        _refuse_shared_labels(images, labels, has_label)
        names = [_short_name(self.root, image) for image in images]
        ids = distinct_ids(names, lambda image: images[image].relative_to(self.root).as_posix())
        self._images: list[tuple[str, Path, Path | None]] = []
        self._labels: dict[str, Path] = {}
        for (image, folder), image_id, name, label, exists in zip(
            listed, ids, names, labels, has_label, strict=True
        ):
            if share.holds(name if folder is None else _short_name(folder, image)):
                self._images.append((image_id, image, label if exists else None))
                self._labels[image_id] = label

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        for image_id, image, label in self._images:
            boxes, indices = ([], []) if label is None else self._read_labels(label)
            names = [self._names[index] for index in indices]
            yield AnnotatedImage(image_id, str(image), None, boxes, names, [False] * len(boxes))

    @property
    def class_names(self) -> list[str]:
        """The names of data.yaml, used or not, in the order of their indices."""
        return list(self._names.values())

    def image_files(self) -> Iterator[str]:
        """Yields the image file of each image."""
        return (str(image) for _, image, _ in self._images)

    def annotation_file(self, image_id: str) -> Path:
        """Returns the label file of an image."""
        return self._labels[image_id]

    @staticmethod
    def corners(file_boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Reader.corners`. The file's boxes are centre x, centre y, width, height in fractions."""
        centres, extents = file_boxes[:, :2], file_boxes[:, 2:]
        scale = np.asarray(sizes, np.float64)[:, [1, 0, 1, 0]]
        with np.errstate(invalid="ignore"):  # Such boxes are dropped as not finite.
            corners = np.concatenate([centres - extents / 2, centres + extents / 2], axis=1) * scale
        return corners, np.all(extents > 0, axis=1)

    def _locate_yaml(self, name: str, part: str) -> Path:
        file = path_within(self.root, self.root / name)
        if file is not None and is_file(file):
            return file
        names = list_folder(self.root) if is_folder(self.root) else []
        found = sorted(name for name in names if name.endswith((".yaml", ".yml")))
        split = shortened_text(part.rpartition(":")[2], 100)
        hint = (
            f'write "{shortened_text(found[0])}:{split}"' if found else "it names the classes and the images"
        )
        raise InputError(f"{shortened_text(self.root / name)} does not exist; {hint}")

    def _read_labels(self, file: Path) -> tuple[list[Box], list[int]]:
        boxes, indices = [], []
        for number, line in enumerate(read_text(file, MAX_LABEL_BYTES).splitlines(), start=1):
            if fields := line.split():
                where = f"{file}, line {number}"
                numbers = _numbers(fields, where)
                boxes.append(_box(numbers[1:], where))
                indices.append(self._class_index(numbers[0], where))
        return boxes, indices

    def _class_index(self, number: float, where: str) -> int:
        if number not in self._names:
            known = f"{min(self._names)}..{max(self._names)}"
            raise InputError(
                f"{where}: class {number:g} is none of the {len(self._names)} names in {self.file} ({known})"
            )
        return int(number)


def _refuse_shared_labels(images: list[Path], labels: list[Path], has_label: list[bool]) -> None:
    """Refuses two images whose names differ only in what their label file leaves out, such as the ending."""
    image_of: dict[Path, Path] = {}
    for image, label, exists in zip(images, labels, has_label, strict=True):
        other = image_of.setdefault(label, image)
        if exists and other != image:
            raise InputError(
                f"{shortened_text(other)} and {shortened_text(image)} have the same label file "
                f"{shortened_text(label)}; remove one of the images, or rename it with its labels"
            )


def _short_name(folder: Path, image: Path) -> str:
    """Returns the path below a folder, without its last folder "images" and without the ending."""
    before, _, after = f"/{image.relative_to(folder).as_posix()}".rpartition("/images/")
    return name_without_ending(f"{before}/{after.lstrip('/')}").lstrip("/")


def _numbers(fields: list[str], where: str) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError:
        raise InputError(f"{where}: write numbers, got {shortened(' '.join(fields[:10]))}") from None


def _box(numbers: list[float], where: str) -> Box:
    """Returns the box of the numbers after the class: cx, cy, w, h, or the corners of a polygon."""
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        confidence = "; five may be a detection with its confidence" if len(numbers) == 5 else ""
        raise InputError(
            f"{where}: write cx, cy, w, h or at least 3 corners x, y after the class, got {len(numbers)} "
            f"numbers{confidence}"
        )
    if any(abs(number) > LARGEST_FRACTION for number in numbers):
        largest = max(numbers, key=abs)
        raise InputError(
            f"{where}: coordinates are fractions of the image's sides, 0..1, got {largest:g}: pixels?"
        )
    if len(numbers) == 4:
        cx, cy, width, height = numbers
        return cx, cy, width, height
    xs, ys = numbers[0::2], numbers[1::2]
    (left, right), (top, bottom) = ((min(values), max(values)) for values in (xs, ys))
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
