"""The reader for COCO annotation files."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refinedet_tf.data.coco_ground_truth import indexed
from refinedet_tf.data.image_header import ImageHeader
from refinedet_tf.data.readers.identity import image_name
from refinedet_tf.data.readers.not_given import is_given, stated_size
from refinedet_tf.data.readers.reader import AnnotatedImage, FolderListings, Reader, check_class_name
from refinedet_tf.data.readers.shares import Share
from refinedet_tf.data.upright import turn_boxes
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file
from refinedet_tf.json_files import read_json

ID_LIMIT = 2**63
"""Ids are whole numbers of 64 bits with a sign, as those of the COCO metric."""

AREA_LIMIT = 2.0**62
"""An area in square pixels is at most that of the largest image."""


class CocoPart(Reader):
    """One annotation file and its image folder.

    The part "train2017" means root/annotations/instances_train2017.json and root/train2017/;
    "file.json:folder" means root/file.json, or root/annotations/file.json, and root/folder/.

    Iterating yields one `AnnotatedImage` per entry of "images", in their order, with the entry's id as
    text. Boxes are x, y, width, height as in the file: pixels as floating-point numbers from 0. Crowd
    regions are marked difficult. An entry with "width" and "height" states the size. An image must lie in
    `root` or in the part's image folder: a "file_name" that leaves both by ".." or as an absolute path is
    refused. Entries outside the share are checked all the same.

    A file without annotations is one without "annotations", such as the files that COCO distributes for its
    test images ("image_info_test-dev2017.json:test2017").
    """

    def _open(self, part: str, may_be_unlabelled: bool, share: Share) -> None:
        self.file, self.image_folder = _locate(self.root, part)
        self.clash_prefix = self.image_folder.name
        tree = read_json(self.file, object_hook=_without_mask)
        if not isinstance(tree, dict):
            raise InputError(f'{self.file} must hold an object with the list "images"')
        self.labelled = "annotations" in tree or not may_be_unlabelled
        for key in ("images", "categories", *(["annotations"] if self.labelled else [])):
            if not isinstance(tree.get(key), list):
                raise InputError(f'{self.file} must hold a list "{key}"')
        self.categories = self._read_categories(tree["categories"])
        self._images = self._read_images(tree["images"])
        self._annotations = self._read_annotations(tree["annotations"] if self.labelled else [])
        self._keep(share)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        annotations_of: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in self._images}
        for annotation in self._annotations:
            annotations_of[annotation["image_id"]].append(annotation)
        listings = FolderListings()
        for image_id, image in self._images.items():
            path = self._image_path(image["file_name"])
            listings.check(path, self.file)
            objects = annotations_of[image_id]
            states_size = "height" in image and "width" in image
            yield AnnotatedImage(
                str(image_id),
                str(path),
                (image["height"], image["width"]) if states_size else None,
                [tuple(annotation["bbox"]) for annotation in objects],
                [self.categories[annotation["category_id"]] for annotation in objects],
                [bool(annotation["iscrowd"]) for annotation in objects],
            )

    def image_files(self) -> Iterator[str]:
        """Yields the image file of each image."""
        return (str(self._image_path(image["file_name"])) for image in self._images.values())

    def annotation_file(self, image_id: str) -> Path:
        """Returns the file that holds the annotations of every image of this part."""
        return self.file

    @property
    def class_names(self) -> list[str]:
        """The names of all categories of the file, used or not, in the order of their (sparse) ids."""
        return [self.categories[category_id] for category_id in sorted(self.categories)]

    @staticmethod
    def corners(file_boxes: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Reader.corners`. The boxes of the file are x, y, width, height in pixels from 0."""
        origin, extent = file_boxes[:, :2], file_boxes[:, 2:]
        with np.errstate(over="ignore", invalid="ignore"):  # Such boxes are dropped as not finite.
            corners = np.concatenate([origin, origin + extent], axis=1)
        return corners, np.all(extent > 0, axis=1)

    def ground_truth(self, orientations: Mapping[int, int] | None = None) -> Any:
        """Makes the `pycocotools.coco.COCO` object of this part for the box metric, without masks.

        The areas are those of the file (the areas of the masks, which the official size ranges need),
        or width x height where the file gives none. Boxes without area are left out, as in the
        dataset, because no detection could ever match them.

        Args:
            orientations: the ids of the images that are turned with their boxes -> the orientation, 1..8.
        """
        file_boxes = np.array([entry["bbox"] for entry in self._annotations], np.float64).reshape(-1, 4)
        corners, has_area = self.corners(file_boxes)
        usable = np.flatnonzero(has_area & np.isfinite(corners).all(axis=1))
        with np.errstate(over="ignore", invalid="ignore"):
            areas = np.minimum(file_boxes[:, 2] * file_boxes[:, 3], AREA_LIMIT)
        tree = {
            "info": {},
            "images": list(self._images.values()),
            "categories": [{"id": key, "name": name} for key, name in sorted(self.categories.items())],
            "annotations": [
                {"area": areas[i]}
                | self._annotations[i]
                | {"id": number}  # Ids start at 1, because the metric reads id 0 as "no match".
                for number, i in enumerate(usable, start=1)
            ],
        }
        if orientations:
            _turn(tree, orientations)
        return indexed(tree)

    def _image_path(self, file_name: str) -> Path:
        """Raises an `InputError` if the image lies elsewhere or the path is no file's."""
        path = self.image_folder / file_name
        if ".." in file_name or os.path.isabs(file_name) or path == self.image_folder:  # noqa: PTH117
            # What stays is free of "..", so that a link on the way cannot lead elsewhere.
            path = Path(os.path.abspath(path))  # noqa: PTH100
            folders = [Path(os.path.abspath(folder)) for folder in (self.root, self.image_folder)]  # noqa: PTH100
            if path in folders or not any(folder in path.parents for folder in folders):
                raise InputError(
                    f"{self.file}: file_name {shortened(file_name)} is no file within {self.root}"
                )
        return path

    def _keep(self, share: Share) -> None:
        """Leaves out the images outside a share, and their annotations."""
        if share.is_whole:
            return
        self._images = {
            image_id: image
            for image_id, image in self._images.items()
            if share.holds(image_name(self.image_folder, self._image_path(image["file_name"])))
        }
        self._annotations = [entry for entry in self._annotations if entry["image_id"] in self._images]

    def _read_categories(self, entries: list[Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        known = set()
        for index, entry in enumerate(entries):
            where = f"{self.file}: categories[{index}]"
            category_id, name = _id_field(entry, "id", where), _field(entry, "name", str, where)
            check_class_name(name, where)
            if category_id in names or name in known:
                raise InputError(f"{where} repeats the id {category_id} or the name {shortened(name)}")
            names[category_id] = name
            known.add(name)
        return names

    def _read_images(self, entries: list[Any]) -> dict[int, dict[str, Any]]:
        images: dict[int, dict[str, Any]] = {}
        for index, entry in enumerate(entries):
            where = f"{self.file}: images[{index}]"
            image_id = _id_field(entry, "id", where)
            _field(entry, "file_name", str, where)
            entry["file_name"] = entry["file_name"].replace("\\", "/")
            size = stated_size(entry.pop("height", None), entry.pop("width", None), where)
            if size is not None:
                entry["height"], entry["width"] = size
            if image_id in images:
                raise InputError(f"{where} repeats the image id {image_id}")
            images[image_id] = entry
        return images

    def _read_annotations(self, entries: list[Any]) -> list[dict[str, Any]]:
        for index, entry in enumerate(entries):
            where = f"{self.file}: annotations[{index}]"
            image_id = _id_field(entry, "image_id", where)
            if image_id not in self._images:
                raise InputError(f'{where}: image_id {image_id} is not in "images"')
            category_id = _id_field(entry, "category_id", where)
            if category_id not in self.categories:
                raise InputError(f'{where}: category_id {category_id} is not in "categories"')
            box = _field(entry, "bbox", list, where)
            if len(box) != 4 or not all(_is_number(value) for value in box):
                raise InputError(f"{where}: bbox must be [x, y, width, height], got {shortened(box)}")
            for key in ("area", "iscrowd"):
                if not is_given(entry.get(key)) or entry[key] == 0:
                    entry.pop(key, None)
            area = entry.get("area", 0)
            if not _is_number(area):
                raise InputError(f"{where}: area must be a number, got {shortened(area)}")
            if not 0 <= area <= AREA_LIMIT:
                raise InputError(f"{where}: area must lie in 0..2^62 square pixels, got {shortened(area)}")
            if entry.setdefault("iscrowd", 0) not in (0, 1):
                raise InputError(f"{where}: iscrowd must be 0 or 1, got {shortened(entry['iscrowd'])}")
        return entries


def _turn(tree: dict[str, Any], orientations: Mapping[int, int]) -> None:
    """Turns the sizes and boxes of some images; the areas of objects stay as they are."""
    sizes: dict[int, tuple[int, int]] = {}
    for place, entry in enumerate(tree["images"]):
        if (orientation := orientations.get(entry["id"], 1)) > 1:
            size = ImageHeader(entry["height"], entry["width"], orientation).upright_size
            sizes[entry["id"]] = size
            tree["images"][place] = entry | dict(zip(("height", "width"), size, strict=True))
    for entry in tree["annotations"]:
        if entry["image_id"] in sizes:
            corners, _ = CocoPart.corners(np.array([entry["bbox"]], np.float64))
            upright, turn = (np.array([of[entry["image_id"]]]) for of in (sizes, orientations))
            xmin, ymin, xmax, ymax = turn_boxes(corners, upright, turn)[0].tolist()
            entry["bbox"] = [xmin, ymin, xmax - xmin, ymax - ymin]


def _locate(root: Path, part: str) -> tuple[Path, Path]:
    file_name, colon, folder = part.rpartition(":")
    shown = f'COCO part "{shortened_text(part)}"'
    if not colon:
        if part.endswith(".json"):
            raise InputError(f'{shown}: write "{shortened_text(part)}:image_folder"')
        file, unlabelled = (
            root / "annotations" / f"{kind}_{part}.json" for kind in ("instances", "image_info")
        )
        if is_file(unlabelled) and not is_file(file):
            raise InputError(f'{shown} is without annotations: write "{unlabelled.name}:image_folder"')
        return file, root / part
    if not (file_name and folder):
        raise InputError(f'{shown}: write "train2017" or "file.json:image_folder"')
    file = root / file_name
    return (file if is_file(file) else root / "annotations" / file_name), root / folder


def _without_mask(entry: dict[str, Any]) -> dict[str, Any]:
    # Masks take most of the memory of COCO's training file, and no box needs them.
    entry.pop("segmentation", None)
    return entry


def _field(entry: Any, key: str, kind: type, where: str) -> Any:
    """Returns `entry[key]`, or raises an `InputError` if it is missing or not of this kind."""
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(f'{where} has no "{key}"')
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {int: "a whole number", str: "text", list: "a list"}
        raise InputError(f"{where}: {key} must be {names[kind]}, got {shortened(value)}")
    return value


def _id_field(entry: Any, key: str, where: str) -> int:
    """Returns `entry[key]`, or raises an `InputError` if it is missing or no whole number of 64 bits."""
    value = _field(entry, key, int, where)
    if not -ID_LIMIT <= value < ID_LIMIT:
        raise InputError(f"{where}: {key} must be a whole number of at most 64 bits, got {shortened(value)}")
    return value


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number that a float can hold; NaN and infinities are such numbers."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float)
