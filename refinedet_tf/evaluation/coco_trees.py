"""The ground truth and the detections of a dataset in the form of COCO's files, as pycocotools takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from refinedet_tf.data.coco_ground_truth import NAME_KEY, indexed
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth
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
    corners = coco_pixels(ground_truth.boxes, ground_truth.image_sizes[ground_truth.images])
    annotations = [
        {
            "id": row + 1,  # pycocotools reads id 0 as "not matched".
            "image_id": image,
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "difficult": difficult,
        }
        for row, (image, label, box, difficult) in enumerate(
            zip(
                ground_truth.images.tolist(),
                ground_truth.labels.tolist(),
                corners.tolist(),
                ground_truth.difficult.tolist(),
                strict=True,
            )
        )
    ]
    images = [
        {"id": i, "height": height, "width": width}
        for i, (height, width) in enumerate(ground_truth.image_sizes.tolist())
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)]
    return indexed({"images": images, "categories": categories, "annotations": annotations})


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
    return [
        {
            "id": row + 1,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "score": score,
            "iscrowd": 0,
        }
        for row, (image, category, box, score) in enumerate(
            zip(
                image_ids[detections.images].tolist(),
                category_ids[detections.labels - 1].tolist(),
                boxes.tolist(),
                detections.scores.tolist(),
                strict=True,
            )
        )
    ]


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
