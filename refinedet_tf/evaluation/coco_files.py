"""Detections and their ground truth as COCO JSON files, which pycocotools, FiftyOne and other tools open.

Unlike the files for COCO's evaluation server (`server_files`), they hold all detections with all digits,
work for a dataset of any format, and come with the objects that the detections are compared with.
"""

import json
from pathlib import Path
from typing import Any

from refinedet_tf.data.coco_ground_truth import names_below_common_folder
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.coco_trees import coco_ground_truth, detection_annotations
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.files import explain_os_errors, write_aside
from refinedet_tf.inference.detections import DatasetDetections


def ground_truth_file(path: Path) -> Path:
    """Returns the file of the ground truth of the detections in `path`: NAME_ground_truth.json."""
    return path.with_name(f"{path.stem}_ground_truth.json")


def write_coco_files(detections: DatasetDetections, dataset: DetectionDataset, path: Path) -> Path:
    """Writes the detections to `path` in COCO's result format, and the ground truth to a file next to it.

    Each file appears whole or not at all. pycocotools computes from them the numbers of
    `coco_average_precisions`, digit by digit, unless the dataset has difficult objects and no COCO ground
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
    _write(beside, json.dumps(tree))
    _write(path, "[\n" + ",\n".join(json.dumps(row) for row in results) + "\n]\n")
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


def _annotation(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns an annotation with difficult objects as crowd regions, without what pycocotools adds."""
    crowd = int(bool(entry["iscrowd"] or entry.get("difficult", False)))
    left_out = ("ignore", "_ignore", "difficult")
    return {key: value for key, value in entry.items() if key not in left_out} | {"iscrowd": crowd}


def _write(path: Path, text: str) -> None:
    with explain_os_errors(path):
        write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8", newline="\n"))
