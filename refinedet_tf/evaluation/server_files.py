"""The files of detections that the evaluation servers of COCO and PASCAL VOC take.

The annotations of COCO test-dev and of VOC 2010 to 2012 test are not published, so that only the server
can compute the accuracy, from these files. Coordinates are written in the server's convention, which is
also that of the project's metrics (`coco_ap`, `voc_ap`).
"""

import dataclasses
import functools
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.upright import INVERSE_ORIENTATIONS, turn_boxes
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.files import explain_os_errors, write_aside
from refinedet_tf.inference.detections import DatasetDetections
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

VOC_COMPETITIONS = ("comp3", "comp4")
"""VOC's names for detection: comp3 after training on VOC data alone, comp4 after any other training, which
includes that from ImageNet weights."""

_ROWS_AT_ONCE = 100_000
"""The number of rows that are turned into Python objects together; a whole test set would take gigabytes."""


def write_server_files(
    detections: DatasetDetections, dataset: DetectionDataset, config: Config, folder: str | Path
) -> Path:
    """Writes the files that the server of the config's test data takes.

    VOC: `write_voc_results` with the year and the image set of `data.test`. COCO:
    `folder/detections_test-dev2017_NAME_results.json`, named after the annotation file and
    `config.name`.

    Args:
        detections: the detections on all images of the dataset.
        dataset: the images of `data.test`.
        config: `name`, `data.format` and `data.test` are used.
        folder: is made if it does not exist.

    Returns:
        The file to upload (COCO: to zip and upload).

    Raises:
        InputError: the reasons are those of `check_server_files`, `write_voc_results` and
            `write_coco_results`.
    """
    check_server_files(dataset, config, folder)
    detections, dataset = _as_annotated(detections, dataset)
    (part,) = config.data.test
    if config.data.format == "voc":
        year, _, image_set = part.partition("/")
        return write_voc_results(detections, dataset, folder, year, image_set)
    images = Path(part.partition(":")[0]).stem.removeprefix("image_info_").removeprefix("instances_")
    name = re.sub(r"[^\w-]+", "-", config.name)
    path = Path(folder) / f"detections_{images}_{name}_results.json"
    write_coco_results(detections, dataset, path)
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
        year, _, image_set = config.data.test[0].partition("/")
        _check_voc_names(dataset, year, image_set, VOC_COMPETITIONS[-1])
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


def write_coco_results(
    detections: DatasetDetections, dataset: DetectionDataset, path: str | Path, max_detections: int = 100
) -> None:
    """Writes detections in COCO's result format.

    The file is a JSON list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}. Boxes
    are in pixels from 0 with two decimals (COCO asks for one). Images follow each other in the order of
    the dataset, the detections of an image by descending score. The server takes a zip that holds only
    this file; both are named after the images and the method:
    `detections_test-dev2017_NAME_results.json`, or `detections_test-dev2015_NAME_results.json` for the
    list of 2015.

    Args:
        detections: the detections on all images of the dataset.
        dataset: the images; its `image_ids` are COCO's numbers. Category ids are those of
            `dataset.coco`, or those of `COCO_CATEGORY_IDS` if that is None.
        path: the file to write; it appears whole or not at all.
        max_detections: the number of detections of an image that are written, the best over all classes;
            of equal scores the earlier rows. The server reads 100.

    Raises:
        InputError: a label or an image index is out of range, a class has no category id, an image id
            is not a number, `max_detections` is less than 1, or the file cannot be written.
    """
    _check_detections(detections, dataset)
    if max_detections < 1:
        raise InputError(f"max_detections must be at least 1, got {max_detections}")
    image_ids, category_ids = _coco_image_ids(dataset), _coco_category_ids(dataset)

    rows = _best_of_each_image(detections, max_detections)
    text = _coco_text(detections, dataset.image_sizes, rows, image_ids, category_ids)
    _write(Path(path), functools.partial(_write_text, text=text))


def write_voc_results(
    detections: DatasetDetections,
    dataset: DetectionDataset,
    folder: str | Path,
    year: str | int,
    image_set: str,
    competition: str = "comp4",
) -> Path:
    """Writes detections in the layout of the VOC development kit, and packs them for the server.

        folder/results/VOC2012/Main/comp4_det_test_aeroplane.txt    and so on, one file per class
        folder/results.tar.gz                                       these files, to upload as it is

    A line is `image score xmin ymin xmax ymax`, in pixels from 1 with both ends included, as in VOC's
    annotations. A class without detections has an empty file, because the server requires a file of every
    class. Each file, and the archive, appears whole or not at all.

    Args:
        detections: the detections on all images of the dataset; all are written.
        dataset: the images; its `image_ids` are VOC's.
        folder: is made if it does not exist.
        year: the year of the images, such as "2012" in the part "2012/test" of a config.
        image_set: the image set, such as "test" in that part.
        competition: one of `VOC_COMPETITIONS`.

    Returns:
        The path of the archive.

    Raises:
        InputError: a label or an image index is out of range, `competition` is unknown, a class cannot
            be part of a file name, an image id has a space or comes from joined parts, or a file cannot
            be written.
    """
    _check_detections(detections, dataset)
    _check_voc_names(dataset, year, image_set, competition)
    inside = Path("results") / f"VOC{year}" / "Main"
    files = []
    for label, name in enumerate(dataset.class_names, start=1):
        files.append(inside / f"{competition}_det_{image_set}_{name}.txt")
        lines = _voc_lines(detections, dataset, np.flatnonzero(detections.labels == label))
        _write(Path(folder) / files[-1], functools.partial(_write_text, text=lines), make_folder=True)

    def pack(path: Path) -> None:
        with tarfile.open(path, "w:gz", compresslevel=6) as archive:
            for file in files:
                archive.add(Path(folder) / file, file.as_posix(), filter=_without_owner)

    archive = Path(folder) / "results.tar.gz"
    _write(archive, pack)
    return archive


def _check_detections(detections: DatasetDetections, dataset: DetectionDataset) -> None:
    check_labels(detections, GroundTruth.from_dataset(dataset), len(dataset.class_names))


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


def _check_voc_names(dataset: DetectionDataset, year: str | int, image_set: str, competition: str) -> None:
    """Refuses names that cannot be part of a file name or of a line of VOC's results."""
    if competition not in VOC_COMPETITIONS:
        raise InputError(f"the competition must be {' or '.join(VOC_COMPETITIONS)}, got {competition!r}")
    for part, name in (
        ("year", str(year)),
        ("image set", image_set),
        *(("class", name) for name in dataset.class_names),
    ):
        if not name or "/" in name or "\\" in name:
            raise InputError(f'{part} "{name}" cannot be part of a file name of VOC results')
    for image_id in dataset.image_ids:
        if "/" in image_id or image_id.split() != [image_id]:
            raise InputError(
                f'image id "{image_id}" cannot stand in VOC results: it must be without spaces, and the '
                "data set one part of one year"
            )


def _best_of_each_image(detections: DatasetDetections, count: int) -> np.ndarray:
    """Returns the rows of the `count` best detections of each image, by image, then descending score."""
    order = np.lexsort((-detections.scores, detections.images))  # Stable: ties keep their order.
    images = detections.images[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    return order[rank < count]


def _coco_text(
    detections: DatasetDetections,
    image_sizes: np.ndarray,
    rows: np.ndarray,
    image_ids: np.ndarray,
    category_ids: np.ndarray,
) -> Iterator[str]:
    """Yields the text of `write_coco_results` in parts; `rows` are the detections to write, in order."""
    before = "[\n"
    for block in _blocks(rows):
        images = detections.images[block]
        x, y, width, height = coco_pixels(detections.boxes[block], image_sizes[images]).T
        columns = (
            image_ids[images],
            category_ids[detections.labels[block] - 1],
            *(x, y, width, height),
            detections.scores[block],
        )
        entries = (
            f'{{"image_id":{image},"category_id":{category},'
            f'"bbox":[{x:.2f},{y:.2f},{width:.2f},{height:.2f}],"score":{score:.9g}}}'
            for image, category, x, y, width, height, score in _python_rows(columns)
        )
        yield before + ",\n".join(entries)
        before = ",\n"
    yield "\n]\n" if len(rows) else "[]\n"


def _voc_lines(detections: DatasetDetections, dataset: DetectionDataset, rows: np.ndarray) -> Iterator[str]:
    """Yields the lines of `write_voc_results` for the detections `rows`."""
    image_ids = np.array(dataset.image_ids, object)
    for block in _blocks(rows):
        images = detections.images[block]
        ymin, xmin, ymax, xmax = voc_pixels(detections.boxes[block], dataset.image_sizes[images]).T
        columns = image_ids[images], detections.scores[block], xmin, ymin, xmax, ymax
        for image, score, left, top, right, bottom in _python_rows(columns):
            yield f"{image} {score:.9g} {left:.2f} {top:.2f} {right:.2f} {bottom:.2f}\n"


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


def _write_text(file: Path, text: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(text)


def _write(path: Path, write: Callable[[Path], None], make_folder: bool = False) -> None:
    with explain_os_errors(path):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, write)
