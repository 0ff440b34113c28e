"""The files of detections that the evaluation servers of COCO and PASCAL VOC take.

The annotations of COCO test-dev and of VOC 2010 to 2012 test are not published, so that only the server
can compute the accuracy, from these files. Coordinates are written in the server's convention, which is
also that of the project's metrics (`coco_ap`, `voc_ap`).
"""

import dataclasses
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.upright import INVERSE_ORIENTATIONS, turn_boxes
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.files import explain_os_errors, write_aside, write_text
from refinedet_tf.inference.detections import DatasetDetections, best_of_each_image
from refinedet_tf.pixel_boxes import coco_pixels, voc_pixels

COCO_CATEGORY_IDS = {
    "person": 1, "bicycle": 2, "car": 3, "motorcycle": 4, "airplane": 5, "bus": 6, "train": 7, "truck": 8,
    "boat": 9, "traffic light": 10, "fire hydrant": 11, "stop sign": 13, "parking meter": 14, "bench": 15,
    "bird": 16, "cat": 17, "dog": 18, "horse": 19, "sheep": 20, "cow": 21, "elephant": 22, "bear": 23,
    "zebra": 24, "giraffe": 25, "backpack": 27, "umbrella": 28, "handbag": 31, "tie": 32, "suitcase": 33,
    "frisbee": 34, "skis": 35, "snowboard": 36, "sports ball": 37, "kite": 38, "baseball bat": 39,
    "baseball glove": 40, "skateboard": 41, "surfboard": 42, "tennis racket": 43, "bottle": 44,
    "wine glass": 46, "cup": 47, "fork": 48, "knife": 49, "spoon": 50, "bowl": 51, "banana": 52,
    "apple": 53, "sandwich": 54, "orange": 55, "broccoli": 56, "carrot": 57, "hot dog": 58, "pizza": 59,
    "donut": 60, "cake": 61, "chair": 62, "couch": 63, "potted plant": 64, "bed": 65, "dining table": 67,
    "toilet": 70, "tv": 72, "laptop": 73, "mouse": 74, "remote": 75, "keyboard": 76, "cell phone": 77,
    "microwave": 78, "oven": 79, "toaster": 80, "sink": 81, "refrigerator": 82, "book": 84, "clock": 85,
    "vase": 86, "scissors": 87, "teddy bear": 88, "hair drier": 89, "toothbrush": 90,
}  # fmt: skip
"""The ids of COCO's 80 detection classes, within 1..90; eleven of the 91 planned classes were never drawn."""

VOC_COMPETITION = "comp4"
"""VOC's name for detection after training on other data than VOC's, as that from ImageNet weights is."""

COCO_DETECTIONS = 100
"""The server reads so many detections per image."""

_ROWS_AT_ONCE = 100_000
"""The number of rows that are turned into Python objects together; a whole test set would take gigabytes."""


def write_server_files(
    detections: DatasetDetections, dataset: DetectionDataset, config: Config, folder: str | Path
) -> Path:
    """Writes the files that the server of the config's test data takes; each appears whole or not at all.

    VOC, with the year and the image set of `data.test`, in pixels from 1 with both ends included:

        folder/results/VOC2012/Main/comp4_det_test_aeroplane.txt    one line `image score xmin ymin xmax ymax`
                                                                    per detection of the class
        folder/results.tar.gz                                       these files, to upload as it is

    A class without detections has an empty file, because the server requires a file of every class.

    COCO, named after the annotation file and `config.name`, in pixels from 0 with two decimals (COCO asks for
    one): `folder/detections_test-dev2017_NAME_results.json`, a list of {"image_id", "category_id", "bbox":
    [x, y, width, height], "score"}. Images follow each other in the order of the dataset, the best
    `COCO_DETECTIONS` of an image by descending score; of equal scores the earlier rows. Category ids are
    those of `dataset.coco`, or those of `COCO_CATEGORY_IDS` if that is None. The server takes a zip of the
    same name that holds only this file.

    The detections are those on all images of the dataset, `data.test`. The folder is made if it does not
    exist.

    Returns:
        The file to upload (COCO: to zip and upload).

    Raises:
        InputError: the reasons are those of `check_server_files`; or a label or an image index is out of
            range, or a file cannot be written.
    """
    check_labels(detections, GroundTruth.from_dataset(dataset), len(dataset.class_names))
    check_server_files(dataset, config, folder)
    detections, dataset = _as_annotated(detections, dataset)
    (part,) = config.data.test
    if config.data.format == "voc":
        return _write_voc(detections, dataset, Path(folder), part)
    images = Path(part.partition(":")[0]).stem.removeprefix("image_info_").removeprefix("instances_")
    name = re.sub(r"[^\w-]+", "-", config.name)
    path = Path(folder) / f"detections_{images}_{name}_results.json"
    write_text(path, _coco_text(detections, dataset))
    return path


def check_server_files(dataset: DetectionDataset, config: Config, folder: str | Path) -> None:
    """Refuses what `write_server_files` would refuse, before the network runs on the images.

    The arguments are those of `write_server_files`. The folder is made.

    Raises:
        InputError: there is no server for this format, `data.test` joins several parts, the server cannot
            know an image id or a class, or the folder cannot be made.
    """
    if len(config.data.test) != 1:
        raise InputError(
            f"data.test joins {', '.join(config.data.test)}; an evaluation server takes one part at a time"
        )
    if config.data.format not in ("voc", "coco"):
        raise InputError(f"data.format is {config.data.format}: only VOC and COCO have an evaluation server")
    if config.data.format == "voc":
        _check_voc_names(dataset, config.data.test[0])
    else:
        _coco_image_ids(dataset)
        _coco_category_ids(dataset)
    with explain_os_errors(f"folder {folder}", "cannot be made"):
        Path(folder).mkdir(parents=True, exist_ok=True)


def _as_annotated(
    detections: DatasetDetections, dataset: DetectionDataset
) -> tuple[DatasetDetections, DetectionDataset]:
    """Turns the detections on turned images back to the stored rasters, which the server's boxes refer to."""
    if not dataset.turned:
        return detections, dataset
    orientations = np.ones_like(dataset.orientations)
    turned = list(dataset.turned)
    orientations[turned] = dataset.orientations[turned]
    frames = dataset.image_sizes.copy()
    frames[orientations >= 5] = frames[orientations >= 5, ::-1]
    whole = np.ones((len(detections.boxes), 2))  # The boxes are normalised.
    back = INVERSE_ORIENTATIONS[orientations[detections.images]]
    corners = turn_boxes(detections.boxes[:, [1, 0, 3, 2]].astype(np.float64), whole, back)
    boxes = corners[:, [1, 0, 3, 2]].astype(np.float32)
    return dataclasses.replace(detections, boxes=boxes), dataclasses.replace(dataset, image_sizes=frames)


def _write_voc(detections: DatasetDetections, dataset: DetectionDataset, folder: Path, part: str) -> Path:
    year, _, image_set = part.partition("/")
    inside = Path("results") / f"VOC{year}" / "Main"
    files = []
    for label, name in enumerate(dataset.class_names, start=1):
        files.append(inside / f"{VOC_COMPETITION}_det_{image_set}_{name}.txt")
        path = folder / files[-1]
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _voc_lines(detections, dataset, np.flatnonzero(detections.labels == label)))

    def pack(path: Path) -> None:
        with tarfile.open(path, "w:gz", compresslevel=6) as archive:
            for file in files:
                archive.add(folder / file, file.as_posix(), filter=_without_owner)

    archive = folder / "results.tar.gz"
    with explain_os_errors(archive):
        write_aside(archive, pack)
    return archive


def _coco_image_ids(dataset: DetectionDataset) -> np.ndarray:
    """Returns COCO's ids of the images: int64 [N]."""
    for image_id in dataset.image_ids:
        if not (image_id.isascii() and image_id.isdigit()):
            raise InputError(
                f'image id "{image_id}" is not a number, as COCO numbers its images; '
                "write the results of one COCO part at a time"
            )
    return np.array([int(image_id) for image_id in dataset.image_ids], np.int64)


def _coco_category_ids(dataset: DetectionDataset) -> np.ndarray:
    """Returns the ids of the classes in label order: int64 [C]."""
    if dataset.coco is None:
        ids, source = COCO_CATEGORY_IDS, "COCO"
    else:
        ids = {category["name"]: category["id"] for category in dataset.coco.dataset["categories"]}
        source = "the data set's annotation file"
    for name in dataset.class_names:
        if name not in ids:
            raise InputError(f'class "{name}" is no category of {source}: {", ".join(ids)}')
    return np.array([ids[name] for name in dataset.class_names], np.int64)


def _check_voc_names(dataset: DetectionDataset, part: str) -> None:
    """Refuses names that cannot be part of a file name or of a line of VOC's results."""
    year, _, image_set = part.partition("/")
    for what, name in (
        ("year", year),
        ("image set", image_set),
        *(("class", name) for name in dataset.class_names),
    ):
        if not name or "/" in name or "\\" in name:
            raise InputError(f'{what} "{name}" cannot be part of a file name of VOC results')
    for image_id in dataset.image_ids:
        if "/" in image_id or image_id.split() != [image_id]:
            raise InputError(
                f'image id "{image_id}" cannot stand in VOC results: it must be without spaces, and the '
                "data set one part of one year"
            )


def _coco_text(detections: DatasetDetections, dataset: DetectionDataset) -> Iterator[str]:
    """Yields the text of COCO's file in parts."""
    image_ids, category_ids = _coco_image_ids(dataset), _coco_category_ids(dataset)
    rows = best_of_each_image(detections.images, detections.scores, COCO_DETECTIONS)
    before = "[\n"
    for block in _blocks(rows):
        images = detections.images[block]
        boxes = coco_pixels(detections.boxes[block], dataset.image_sizes[images])
        columns = (
            image_ids[images],
            category_ids[detections.labels[block] - 1],
            boxes,
            detections.scores[block],
        )
        entries = (
            f'{{"image_id":{image},"category_id":{category},'
            f'"bbox":[{x:.2f},{y:.2f},{width:.2f},{height:.2f}],"score":{score:.9g}}}'
            for image, category, (x, y, width, height), score in _python_rows(columns)
        )
        yield before + ",\n".join(entries)
        before = ",\n"
    yield "\n]\n" if len(rows) else "[]\n"


def _voc_lines(detections: DatasetDetections, dataset: DetectionDataset, rows: np.ndarray) -> Iterator[str]:
    """Yields the lines of the detections `rows`."""
    image_ids = np.array(dataset.image_ids, object)
    for block in _blocks(rows):
        images = detections.images[block]
        boxes = voc_pixels(detections.boxes[block], dataset.image_sizes[images])
        columns = image_ids[images], detections.scores[block], boxes
        for image, score, (ymin, xmin, ymax, xmax) in _python_rows(columns):
            yield f"{image} {score:.9g} {xmin:.2f} {ymin:.2f} {xmax:.2f} {ymax:.2f}\n"


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]


def _python_rows(columns: Sequence[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    # Python formats its numbers several times faster than those of NumPy.
    return zip(*(column.tolist() for column in columns), strict=True)


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    # An upload must not show the name of a user.
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
