"""The ground truth and the detections of a dataset in the form of COCO's files.

pycocotools takes them as trees for the metric (`coco_ap`), and as JSON files, which FiftyOne and other tools
open as well. Unlike the files for COCO's evaluation server (`server_files`), these hold all detections with
all digits, work for a dataset of any format, and come with the objects that the detections are compared with.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from refinedet_tf.data.coco_ground_truth import NAME_KEY, indexed, names_below_common_folder
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.files import write_text
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.pixel_boxes import coco_pixels, to_normalized


def coco_ground_truth(dataset: DetectionDataset) -> tuple[COCO, np.ndarray, np.ndarray]:
    """Returns the ground truth that the COCO metric uses for a dataset, and the ids in it.

    Returns:
        (the ground truth, the ids of the images int64 [N], the ids of the classes int64 [C]).

    Raises:
        InputError: a class or an image of the dataset is not in `dataset.coco`.
    """
    if dataset.coco is None:
        coco = ground_truth_from_boxes(GroundTruth.from_dataset(dataset), dataset.class_names)
        image_ids = np.arange(len(dataset.image_sizes))
    else:
        coco = dataset.coco
        image_ids = _image_ids(coco, dataset.image_ids)
    return coco, image_ids, _category_ids(coco, dataset.class_names)


def coco_objects(dataset: DetectionDataset) -> GroundTruth:
    """Returns the objects that the COCO metric compares with.

    Those of `dataset.coco` have float64 boxes as the files give them, which may reach beyond the image, and
    include boxes outside of it, which no detection can match. A dataset without it has its own objects.

    Raises:
        InputError: a class or an image of the dataset is not in `dataset.coco`.
    """
    if dataset.coco is None:
        return GroundTruth.from_dataset(dataset)
    coco, image_ids, category_ids = coco_ground_truth(dataset)
    index_of = {image: index for index, image in enumerate(image_ids.tolist())}
    label_of = {category: label for label, category in enumerate(category_ids.tolist(), start=1)}
    entries = [
        entry
        for entry in coco.dataset["annotations"]
        if entry["image_id"] in index_of and entry["category_id"] in label_of
    ]
    images = np.array([index_of[entry["image_id"]] for entry in entries], np.int64)
    corners = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    sizes = dataset.image_sizes[images]
    return GroundTruth(
        images=images,
        labels=np.array([label_of[entry["category_id"]] for entry in entries], np.int32),
        boxes=to_normalized(corners[:, [1, 0, 3, 2]], sizes),
        difficult=np.array([bool(entry["iscrowd"]) for entry in entries], bool),
        image_sizes=dataset.image_sizes,
    )


def ground_truth_from_boxes(ground_truth: GroundTruth, class_names: Sequence[str]) -> COCO:
    """Makes a COCO ground truth from boxes, so that the COCO metric also works for VOC data.

    Image ids are 0..N-1, category ids are the labels, the area is the area of the box. A difficult
    object is ignored as COCO ignores an object outside the area range: it need not be found, and a
    single detection on it, by plain IoU, is no false positive. It is not made a crowd region, because
    every small box inside a crowd region is ignored.

    Args:
        ground_truth: the objects of the dataset.
        class_names: C names, label 1 first.
    """
    images = ground_truth.images
    boxes = coco_pixels(ground_truth.boxes, ground_truth.image_sizes[images])
    annotations = _annotations(images, ground_truth.labels, boxes, difficult=ground_truth.difficult)
    sizes = enumerate(ground_truth.image_sizes.tolist())
    categories = [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)]
    return indexed(
        {
            "images": [{"id": image, "height": height, "width": width} for image, (height, width) in sizes],
            "categories": categories,
            "annotations": annotations,
        }
    )


def detection_annotations(
    detections: DatasetDetections,
    image_sizes: np.ndarray,
    image_ids: np.ndarray,
    category_ids: np.ndarray,
) -> list[dict[str, Any]]:
    """Makes COCO's annotations of detections, in the order of the rows.

    Args:
        detections: D detections.
        image_sizes: int [N, 2], height and width of the images in pixels.
        image_ids: int64 [N], the ids of the images.
        category_ids: int64 [C], the ids of the classes.

    Returns:
        D dicts of "id", "image_id", "category_id", "bbox" ([x, y, width, height] in pixels), "area",
        "score" and "iscrowd".
    """
    boxes = coco_pixels(detections.boxes, image_sizes[detections.images])
    images, categories = image_ids[detections.images], category_ids[detections.labels - 1]
    return _annotations(images, categories, boxes, score=detections.scores)


def _annotations(
    image_ids: np.ndarray, category_ids: np.ndarray, boxes: np.ndarray, **further: np.ndarray
) -> list[dict[str, Any]]:
    """Makes COCO's annotations of boxes [x, y, width, height] in pixels, with a further key or several."""
    columns = (image_ids, category_ids, boxes, *further.values())
    return [
        {
            "id": number,  # pycocotools reads id 0 as "not matched".
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            **dict(zip(further, values, strict=True)),
        }
        for number, (image, category, box, *values) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def ground_truth_file(path: Path) -> Path:
    """Returns the file of the ground truth of the detections in `path`: NAME_ground_truth.json."""
    return path.with_name(f"{path.stem}_ground_truth.json")


def write_coco_files(detections: DatasetDetections, dataset: DetectionDataset, path: Path) -> Path:
    """Writes the detections to `path` in COCO's result format, and the ground truth to a file next to it.

    Each file appears whole or not at all. pycocotools computes from them the numbers of
    `evaluate_coco`, digit by digit, unless the dataset has difficult objects and no COCO ground
    truth (see `ground_truth_tree`).

    Args:
        detections: the detections on all images of the dataset; all are written.
        dataset: the images and their objects.
        path: a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}, with boxes in
            pixels from 0 and the rows in the order of the detections.

    Returns:
        The file of the ground truth.

    Raises:
        InputError: a label or an image index is out of range, a class or an image of the dataset is not in
            its COCO ground truth, or a file cannot be written.
    """
    check_labels(detections, GroundTruth.from_dataset(dataset), len(dataset.class_names))
    _, image_ids, category_ids = coco_ground_truth(dataset)
    results = [
        {key: row[key] for key in ("image_id", "category_id", "bbox", "score")}
        for row in detection_annotations(detections, dataset.image_sizes, image_ids, category_ids)
    ]
    tree = ground_truth_tree(dataset)
    beside = ground_truth_file(path)
    write_text(beside, json.dumps(tree))
    write_text(path, ["[\n", ",\n".join(json.dumps(row) for row in results), "\n]\n"])
    return beside


def ground_truth_tree(dataset: DetectionDataset) -> dict[str, Any]:
    """Returns the ground truth of a dataset as the tree of a COCO annotation file.

    A dataset of COCO files keeps their ids, names and areas (see `join_ground_truths`), without masks,
    classes that it leaves out, and boxes without area. For others, image ids are 0..N-1, category ids the
    labels, and "file_name" is the path of the image below the folder that holds all of them. COCO knows no
    difficult objects; they are marked as crowd regions, which every tool ignores: then a detection on one is
    ignored if half of its own area lies inside, whereas the project's metrics compare by IoU.

    Raises:
        InputError: a class or an image of the dataset is not in its COCO ground truth.
    """
    coco, image_ids, category_ids = coco_ground_truth(dataset)
    kept = set(category_ids.tolist())
    images = coco.dataset["images"]
    if dataset.coco is None:
        names = names_below_common_folder(dataset.image_paths)
        images = [entry | {"file_name": name} for entry, name in zip(images, names, strict=True)]
    return {
        "images": images,
        "categories": [entry for entry in coco.dataset["categories"] if entry["id"] in kept],
        "annotations": [
            _annotation(entry) for entry in coco.dataset["annotations"] if entry["category_id"] in kept
        ],
    }


def _image_ids(coco: COCO, names: Sequence[str]) -> np.ndarray:
    """Returns the ids of the dataset's images in the ground truth: int64 [N]."""
    ids = {entry.get(NAME_KEY, str(number)): number for number, entry in coco.imgs.items()}
    missing = [str(name) for name in names if str(name) not in ids]
    if missing:
        raise InputError(f"image {missing[0]} is not in the COCO ground truth")
    return np.array([ids[str(name)] for name in names], np.int64)


def _category_ids(coco: COCO, class_names: Sequence[str]) -> np.ndarray:
    """Returns the ids (sparse: 1..90 for COCO's 80 classes) of the dataset's classes: int64 [C]."""
    ids = {category["name"]: category["id"] for category in coco.dataset["categories"]}
    missing = [name for name in class_names if name not in ids]
    if missing:
        raise InputError(f"class {missing[0]} is not a category of the COCO ground truth: {', '.join(ids)}")
    return np.array([ids[name] for name in class_names], np.int64)


def _annotation(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns an annotation with difficult objects as crowd regions, without what pycocotools adds."""
    crowd = int(bool(entry["iscrowd"] or entry.get("difficult", False)))
    left_out = ("ignore", "_ignore", "difficult")
    return {key: value for key, value in entry.items() if key not in left_out} | {"iscrowd": crowd}
