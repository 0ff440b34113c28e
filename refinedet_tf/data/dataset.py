"""The index of a dataset: it lists the images and the objects on them, but holds no pixels."""

import array
import bisect
import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from refinedet_tf.config import DataConfig
from refinedet_tf.data.box_checks import (
    BoxDefects,
    are_fractions,
    check_boxes,
    count_bad,
    find_defects,
    format_box,
    is_dropped,
    refuse_bad_box,
    refuse_part_in_fractions,
)
from refinedet_tf.data.coco_ground_truth import join_ground_truths
from refinedet_tf.data.readers.coco import CocoPart
from refinedet_tf.data.readers.identity import distinct_ids, refuse_repeated_files
from refinedet_tf.data.readers.parts import check_common_files, open_parts
from refinedet_tf.data.readers.reader import Reader
from refinedet_tf.data.readers.yolo import YoloPart
from refinedet_tf.data.upright import UprightImages, read_upright_images, turn_boxes
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.progress import QUIET_SECONDS, ProgressPrinter, with_progress

_LONGEST_NAME = 100
"""Longer names of classes are cut in messages."""


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionDataset:
    """N images and their M objects, kept in flat arrays so that millions of images fit in memory."""

    class_names: tuple[str, ...]
    """The C names in the order of the labels, label 1 first."""
    image_ids: tuple[str, ...]
    """The N ids, each unique. VOC: the stem of the image file; COCO: the number in the JSON as text; YOLO and
    CSV: the path of the image file without its ending. Where two joined parts use the same id for
    different images, both get a prefix, such as "2007/000005"."""
    image_paths: tuple[str, ...]
    image_sizes: np.ndarray
    """int32 [N, 2], height and width in pixels of the upright image."""
    orientations: np.ndarray
    """uint8 [N], 1..8, the EXIF orientation: the turn from the stored raster to the upright image."""
    boxes: np.ndarray
    """float32 [M, 4], normalised ymin, xmin, ymax, xmax of the upright image, 0 <= min < max <= 1."""
    labels: np.ndarray
    """int32 [M], 1..C."""
    difficult: np.ndarray
    """bool [M]; VOC: difficult, COCO: crowd region, other formats: never."""
    offsets: np.ndarray
    """int64 [N + 1]; the objects of image i are the rows offsets[i] to offsets[i + 1] of the arrays above."""
    defects: BoxDefects = dataclasses.field(default_factory=BoxDefects)
    """The boxes that were dropped or clipped, with the reasons."""
    coco: Any = None
    """`pycocotools.coco.COCO` of the validation and test splits, for the COCO metric; None for other formats
    and for the training split."""
    labelled: bool = True
    """False for a test split whose annotations are not published: M is 0 and nothing can be measured."""
    turned: tuple[int, ...] = ()
    """The indices of the images whose annotation refers to the stored raster, so that boxes were turned."""
    unclear_orientations: tuple[int, ...] = ()
    """The indices of the images with another orientation than 1 whose boxes may refer to the upright image,
    as is assumed, or to the stored raster (see `UprightImages.unclear`)."""

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.image_ids)

    def image_annotations(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the objects of one image: boxes float32 [G, 4], labels int32 [G], difficult bool [G].

        G may be 0. A negative index counts from the end.

        Raises:
            IndexError: there is no such image.
        """
        index = range(len(self))[index]
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[rows], self.labels[rows], self.difficult[rows]

    @property
    def objects_per_image(self) -> np.ndarray:
        """int64 [N], the number of objects on each image."""
        return np.diff(self.offsets)

    @property
    def image_of(self) -> np.ndarray:
        """int64 [M], the index of the image of each object."""
        return np.repeat(np.arange(len(self)), self.objects_per_image)

    @property
    def max_boxes(self) -> int:
        """The largest number of objects on one image."""
        return int(self.objects_per_image.max(initial=0))


def read_dataset(data_config: DataConfig, split: str, strict: bool = False) -> DetectionDataset:
    """Reads and checks the annotations of a split.

    The parts of the split are joined in their order. Images without objects are kept. If
    `data.classes` is null, the classes of every split are those of the training parts: for VOC and CSV, the
    sorted names of their objects; for COCO, their categories in the order of the category ids; for YOLO,
    the names of data.yaml in their order. Only "test" may be without annotations, and then all of its
    parts must be without them.

    Args:
        data_config: where the images and annotations lie.
        split: "train", "validation" or "test".
        strict: raise an error instead of dropping or clipping a bad box (a box that is outside by at
            most a pixel is not bad).

    Raises:
        InputError: there is no part or no image, a file is missing or broken (see `parts.READERS`), two
            splits overlap, an image is listed twice, a class is unknown or, if strict, a box is bad. The
            message names the file and the image, class or box.
    """
    parts = open_parts(data_config, split)
    check_common_files(data_config, split, parts)
    listed_names = _listed_names(parts)
    class_names = data_config.classes
    if class_names is None and (listed_names is not None or split != "train"):
        class_names = _find_classes(parts if split == "train" else open_parts(data_config, "train"))
    if class_names is not None and listed_names is not None:
        _check_listed(parts, class_names, listed_names)

    raw = _RawIndex(parts, class_names)
    if class_names is None:
        class_names = tuple(sorted(raw.names))
    if not class_names:
        raise InputError(f"no object in data.train ({', '.join(data_config.train)}), so there are no classes")
    label_of_class = {name: label for label, name in enumerate(class_names, start=1)}
    label_of_name = np.array([label_of_class[name] for name in raw.names], np.int32)

    images = read_upright_images(raw.paths, raw.stated_sizes)
    frame_sizes, box_sizes = images.frame_sizes[raw.image_of], images.sizes[raw.image_of]
    file_corners, has_area = parts[0].corners(raw.boxes, frame_sizes)
    orientations = np.where(images.turned, images.orientations, 1)[raw.image_of]
    corners = turn_boxes(file_corners, box_sizes, orientations)
    fractions = None if data_config.format == "yolo" else are_fractions(raw.boxes, frame_sizes)
    boxes, reasons = check_boxes(corners, has_area, box_sizes, fractions)
    part_names = [part.name for part in parts]
    refuse_part_in_fractions(reasons, raw.part_of_box, part_names, data_config.format, raw.describe_box)
    if strict:
        refuse_bad_box(reasons, raw.describe_box)
    defects = find_defects(reasons, raw.boxes, raw.names, raw.name_of, raw.ids, raw.image_of)
    if defects.num_bad:
        swapped = check_boxes(file_corners[:, [1, 0, 3, 2]], has_area, frame_sizes, fractions)[1]
        defects = dataclasses.replace(defects, num_bad_if_swapped=count_bad(swapped))
    kept = ~is_dropped(reasons)
    kept_per_image = np.bincount(raw.image_of[kept], minlength=len(raw.ids))
    # Training has no use for the ground truth object, which holds the whole JSON in memory.
    coco = None if split == "train" else _coco_ground_truth(raw, images)
    return DetectionDataset(
        class_names=tuple(class_names),
        image_ids=tuple(raw.ids),
        image_paths=tuple(raw.paths),
        image_sizes=images.sizes,
        orientations=images.orientations,
        boxes=boxes[kept],
        labels=label_of_name[raw.name_of[kept]],
        difficult=raw.difficult[kept],
        offsets=np.concatenate([[0], np.cumsum(kept_per_image)]).astype(np.int64),
        defects=defects,
        coco=coco,
        labelled=parts[0].labelled,
        turned=tuple(np.flatnonzero(images.turned).tolist()),
        unclear_orientations=tuple(np.flatnonzero(images.unclear).tolist()),
    )


class _RawIndex:
    """All images and objects of some parts, with the boxes still in the numbers of the files.

    Attributes:
        parts: the given parts.
        starts: the index of the first image of each part.
        file_ids: the N image ids as the files have them.
        ids: the same ids, made unique (see `DetectionDataset.image_ids`).
        paths: the N image files.
        stated_sizes: int32 [N, 2], height and width in pixels; 0 where the annotation does not state them.
        boxes: float64 [M, 4], in the convention of the format.
        difficult: bool [M].
        image_of: int64 [M], the image of each box.
        names: the names of the classes in the order in which they occur.
        name_of: int32 [M], the index of each box's class in `names`.
    """

    def __init__(self, parts: Sequence[Reader], class_names: Sequence[str] | None) -> None:
        """Reads the parts; `class_names` are the known classes, or None if every name is accepted."""
        self.parts = parts
        self.paths: list[str] = []
        self.starts: list[int] = []
        ids: list[str] = []
        sizes, counts = array.array("i"), array.array("q")
        boxes, name_of, difficult = array.array("d"), array.array("i"), array.array("b")
        index_of_name: dict[str, int] = {}
        known_names = set(class_names or ())
        for part in parts:
            self.starts.append(len(ids))
            for image in with_progress(
                part, len(part), ProgressPrinter(f"reading {part.name}", QUIET_SECONDS)
            ):
                ids.append(image.image_id)
                self.paths.append(image.path)
                sizes.extend(image.size or (0, 0))
                counts.append(len(image.boxes))
                difficult.extend(image.difficult)
                for box in image.boxes:
                    boxes.extend(box)
                for name in image.class_names:
                    if name not in index_of_name:
                        if class_names is not None and name not in known_names:
                            raise InputError(
                                f"{part.annotation_file(image.image_id)}: class "
                                f'"{shortened_text(name, _LONGEST_NAME)}" is not in data.classes'
                                f"{_nearest(name, class_names)}"
                            )
                        index_of_name[name] = len(index_of_name)
                    name_of.append(index_of_name[name])
        self.names = list(index_of_name)
        self.file_ids = ids
        self.stated_sizes = np.array(sizes, np.int32).reshape(-1, 2)
        self.boxes = np.array(boxes, np.float64).reshape(-1, 4)
        self.name_of = np.array(name_of, np.int32)
        self.difficult = np.array(difficult, bool)
        self.image_of = np.repeat(np.arange(len(ids)), np.array(counts, np.int64))
        refuse_repeated_files(self.paths, self._describe_image)
        self.ids = distinct_ids(
            ids,
            lambda image: f"{self.part_of(image).clash_prefix}/{ids[image]}",
            lambda image: f"{self.part_of(image).name}/{ids[image]}",
            lambda image: self.paths[image],
        )

    def part_of(self, image: int) -> Reader:
        """Returns the part that holds the image of this index."""
        return self.parts[bisect.bisect_right(self.starts, image) - 1]

    @property
    def part_of_box(self) -> np.ndarray:
        """int [M], the index of each box's part."""
        return np.searchsorted(self.starts, self.image_of, side="right") - 1

    def describe_box(self, box: int) -> str:
        """Returns the file, the numbers, the class and the image of a box for a message."""
        image = self.image_of[box]
        file = self.part_of(image).annotation_file(self.file_ids[image])
        name = shortened_text(self.names[self.name_of[box]], _LONGEST_NAME)
        return f"{file}: the box {format_box(self.boxes[box])} ({name}) of image {self.file_ids[image]}"

    def _describe_image(self, image: int) -> str:
        return (
            f"image {shortened_text(self.file_ids[image], 100)} of {shortened_text(self.part_of(image).name)}"
        )


def _coco_ground_truth(raw: _RawIndex, images: UprightImages) -> Any:
    """Returns the ground truth of all parts as one `pycocotools.coco.COCO`; None for other formats."""
    truths = []
    ends = [*raw.starts[1:], len(raw.ids)]
    for part, start, end in zip(raw.parts, raw.starts, ends, strict=True):
        if isinstance(part, CocoPart):
            turned = start + np.flatnonzero(images.turned[start:end])
            truths.append(
                part.ground_truth({int(raw.file_ids[i]): int(images.orientations[i]) for i in turned})
            )
    return join_ground_truths(truths, raw.ids, raw.paths) if len(truths) > 1 else next(iter(truths), None)


def _listed_names(parts: Sequence[Reader]) -> tuple[str, ...] | None:
    """Returns the names of all classes that the files of the parts list, or None if they list none."""
    lists = [part.class_names for part in parts if part.class_names is not None]
    return tuple(dict.fromkeys(itertools.chain.from_iterable(lists))) if lists else None


def _find_classes(parts: Sequence[Reader]) -> tuple[str, ...]:
    listed_names = _listed_names(parts)
    return tuple(sorted(_RawIndex(parts, None).names)) if listed_names is None else listed_names


def _check_listed(parts: Sequence[Reader], class_names: Sequence[str], listed_names: Sequence[str]) -> None:
    known = set(listed_names)
    for name in class_names:
        if name not in known:
            files = dict.fromkeys(str(part.file) for part in parts if isinstance(part, CocoPart | YoloPart))
            shown = shortened_text(name, _LONGEST_NAME)
            raise InputError(
                f'class "{shown}" is no category of {shortened_text(" and ".join(files))}'
                f"{_nearest(name, listed_names)}"
            )


def _nearest(name: str, names: Sequence[str]) -> str:
    """Returns the end of an error message: the known name that is most like `name`, or the known names."""
    # Comparing two texts takes a time that grows with the product of their lengths.
    known = {known[:_LONGEST_NAME].lower(): known for known in reversed(names)}
    near = difflib.get_close_matches(name[:_LONGEST_NAME].lower(), known, n=1, cutoff=0.4)
    if near:
        return f'; the nearest is "{shortened_text(known[near[0]], _LONGEST_NAME)}"'
    listed = ", ".join(shortened_text(known, _LONGEST_NAME) for known in names[:10])
    return f"; there are {listed}{'...' if len(names) > 10 else ''}"
