"""Everything that is known about the data of a config, as values and as JSON."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refinedet_tf.config import Config, with_classes
from refinedet_tf.data.dataset import DetectionDataset, read_dataset
from refinedet_tf.errors import InputError
from refinedet_tf.progress import Progress
from refinedet_tf.reports.inspection.anchor_report import AnchorReport, inspect_anchors
from refinedet_tf.reports.inspection.image_scan import ImageScan, find_same_images, scan_images
from refinedet_tf.reports.inspection.objects import (
    ASPECT_RATIO_LIMITS,
    ASPECT_RATIO_NAMES,
    SIZE_LIMITS,
    ObjectCounts,
    Pair,
    count_objects,
    images_without_usual_class,
    overlaps,
)


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """A split of the data."""

    dataset: DetectionDataset
    scan: ImageScan
    root: str
    """`data.root`, to which files are named relative."""
    counts: ObjectCounts
    class_counts: Mapping[str, ObjectCounts]
    without_objects: list[int]
    """The indices of the images without objects; none if the split has no annotations at all."""
    without_usual_class: Mapping[str, list[int]]
    """A class that is on nearly all images with objects -> the indices of those that lack it."""
    twice: list[Pair]
    """The boxes that seem to stand for the same object."""
    crowded: int
    """The number of objects that overlap another one of their class by more than `postprocess.nms_iou`."""

    @property
    def with_orientation(self) -> list[int]:
        """The indices of the images whose EXIF orientation is not 1, so that they are turned upright."""
        return np.flatnonzero(self.dataset.orientations > 1).tolist()

    def name(self, index: int) -> str:
        """Returns the name of an image file without its folder, for sentences."""
        return Path(self.dataset.image_paths[index]).name

    def file(self, index: int) -> str:
        """Returns the name of an image file, relative to the root if it lies there."""
        path = self.dataset.image_paths[index]
        relative = os.path.relpath(path, self.root)
        return path if relative.startswith("..") else relative


@dataclasses.dataclass(frozen=True)
class DataReport:
    """The data of a config."""

    config: Config
    """The config, with the names of the classes filled in."""
    image_size: tuple[int, int]
    """Height and width of the network's input in pixels."""
    splits: Mapping[str, SplitReport]
    """ "train", and of "validation" and "test" those that the config names."""
    same_images: list[list[tuple[str, int]]]
    """For each image that occurs more than once, the split and the index of each occurrence."""
    anchors: AnchorReport


def inspect_data(config: Config, progress: Callable[[str], Progress]) -> DataReport:
    """Reads the annotations and decodes the images of all splits that a config names.

    An image file that cannot be used is noted, and does not end the work.

    Args:
        config: `data.train` names at least one part.
        progress: is called with a text such as "decoding train" and returns what is called after each image.

    Raises:
        InputError: `model.image_size` is null, or annotations cannot be read (see `read_dataset`).
    """
    image_size = config.model.image_size
    if image_size is None:
        raise InputError("model.image_size is null: the size of the training is needed, e.g. [320, 320]")
    splits: dict[str, SplitReport] = {}
    for split in ("train", "validation", "test"):
        if split != "train" and not getattr(config.data, split):
            continue
        dataset = read_dataset(config.data, split)
        config = with_classes(config, dataset.class_names)
        scan = scan_images(dataset, progress(f"decoding {split}"))
        splits[split] = inspect_split(dataset, scan, config, image_size)
    return DataReport(
        config=config,
        image_size=image_size,
        splits=splits,
        same_images=find_same_images({name: split.scan for name, split in splits.items()}),
        anchors=inspect_anchors(splits["train"].dataset, config, image_size),
    )


def inspect_split(
    dataset: DetectionDataset, scan: ImageScan, config: Config, image_size: tuple[int, int]
) -> SplitReport:
    """Looks at the objects of a split whose images were scanned."""
    counts, class_counts = count_objects(dataset, image_size)
    twice, crowded = overlaps(dataset, config.postprocess.nms_iou)
    return SplitReport(
        dataset=dataset,
        scan=scan,
        root=config.data.root,
        counts=counts,
        class_counts=class_counts,
        without_objects=np.flatnonzero(dataset.objects_per_image == 0).tolist() if dataset.labelled else [],
        without_usual_class=images_without_usual_class(dataset),
        twice=twice,
        crowded=crowded,
    )


def report_to_json(report: DataReport) -> dict[str, Any]:
    """Returns the report as a tree for `json.dumps`. Files are named relative to `data.root`.

    Returns:
        "config" (its name), "image_size" [height, width], "classes", "size_limits" (relative sizes) and
        "aspect_ratio_limits" (width / height; the last bucket has no upper limit), to which the histograms
        refer; "splits" {name: see `_split_to_json`}; "same_images", one list of {"split", "file"} per image
        that occurs more than once; "anchors", the choices with their coverage, "advised", the name of the
        better one or null, and "positive_iou", the IoU from which an anchor reaches an object.
    """
    return {
        "config": report.config.name,
        "image_size": list(report.image_size),
        "classes": list(report.config.class_names),
        "size_limits": list(SIZE_LIMITS),
        "aspect_ratio_limits": [limit for limit in ASPECT_RATIO_LIMITS if math.isfinite(limit)],
        "aspect_ratio_names": list(ASPECT_RATIO_NAMES),
        "splits": {name: _split_to_json(split) for name, split in report.splits.items()},
        "same_images": [
            [{"split": split, "file": report.splits[split].file(index)} for split, index in occurrences]
            for occurrences in report.same_images
        ],
        "anchors": {
            "choices": [
                {
                    "name": choice.name,
                    "anchors": None
                    if choice.levels is None
                    else [dataclasses.asdict(level) for level in choice.levels],
                    "coverage": dataclasses.asdict(choice.coverage),
                }
                for choice in report.anchors.choices
            ],
            "advised": None if report.anchors.advised is None else report.anchors.advised.name,
            "not_reached": report.anchors.not_reached,
            "positive_iou": report.config.loss.positive_iou,
        },
    }


def _split_to_json(split: SplitReport) -> dict[str, Any]:
    """Returns the tree of a split: its counts (see `_counts_to_json`), and the files with each defect."""
    dataset, files = split.dataset, split.file
    index_of_id = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    return {
        "labelled": dataset.labelled,
        **_counts_to_json(split.counts),
        "classes": {name: _counts_to_json(counts) for name, counts in split.class_counts.items()},
        "image_sizes": {
            name: [int(value) for value in quantile]
            for name, quantile in zip(
                ("smallest", "median", "largest"),
                np.quantile(dataset.image_sizes, (0, 0.5, 1), axis=0, method="nearest"),
                strict=True,
            )
        },
        "objects_per_image": {
            "mean": float(dataset.objects_per_image.mean()),
            "largest": dataset.max_boxes,
        },
        "unusable_images": [
            {"file": files(index), "problem": problem} for index, problem in split.scan.problems.items()
        ],
        "images_with_orientation": [
            {"file": files(index), "orientation": int(dataset.orientations[index])}
            for index in split.with_orientation
        ],
        "images_with_unclear_orientation": [files(index) for index in dataset.unclear_orientations],
        "images_without_objects": [files(index) for index in split.without_objects],
        "images_without_usual_class": {
            name: [files(index) for index in indices] for name, indices in split.without_usual_class.items()
        },
        "boxes": {
            "in_files": dataset.defects.num_boxes,
            "counts": dataset.defects.counts,
            "issues": [
                {
                    "file": files(index_of_id[issue.image_id]),
                    "class": issue.class_name,
                    # JSON has no NaN or infinity.
                    "box": [value if math.isfinite(value) else str(value) for value in issue.box],
                    "reason": issue.reason,
                }
                for issue in dataset.defects.issues
            ],
        },
        "annotated_twice": [
            {
                "file": files(pair.image),
                "class": dataset.class_names[pair.label - 1],
                "boxes": pair.boxes.tolist(),
                "iou": pair.iou,
            }
            for pair in split.twice
        ],
        "crowded_objects": split.crowded,
    }


def _counts_to_json(counts: ObjectCounts) -> dict[str, Any]:
    sides = None
    if counts.sides is not None:
        sides = dict(zip(("smallest", "median", "largest"), counts.sides, strict=True))
    return {
        "images": counts.images,
        "objects": counts.objects,
        "difficult": counts.difficult,
        "sides_in_pixels": sides,
        "size_histogram": list(counts.sizes),
        "aspect_ratio_histogram": list(counts.aspect_ratios),
    }
