"""The 12 numbers of COCO, which pycocotools computes."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.evaluation.results import ClassResult
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.pixel_boxes import coco_pixels

SUMMARY_NAMES = (
    "AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge",
    "AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge",
)  # fmt: skip
"""COCO's 12 numbers, in the order in which pycocotools computes them."""

SIZES = ("all", "small", "medium", "large")
"""COCO's size ranges, in the order of pycocotools: small objects have an area of at most 32 x 32 pixels of
their image, large ones of at least 96 x 96. The area is that of the mask where the ground truth has one."""

_ALL_AREAS, _100_DETECTIONS, _IOU_50 = 0, 2, 0
"""Indices in pycocotools' arrays [IoU, recall, class, area range, detections per image]."""


@dataclasses.dataclass(frozen=True)
class SizeResult:
    """The accuracy on the objects of one class and one size range.

    Attributes:
        ap: AP, the mean over IoU 0.50:0.95, 0..1; nan if there is no object to find.
        ap50: AP at IoU 0.50, 0..1; nan if there is no object to find.
        num_objects: the number of objects to find.
    """

    ap: float
    ap50: float
    num_objects: int


def coco_average_precisions(
    detections: DatasetDetections, dataset: DetectionDataset
) -> tuple[dict[str, float], dict[str, ClassResult]]:
    """Evaluates the detections of a dataset as COCO does.

    pycocotools receives boxes `[x, y, width, height]` in pixels, `width = (xmax - xmin) * W` without
    "+1". Only the 100 best detections per image and class count.

    Args:
        detections: the detections on all images of the dataset.
        dataset: the images and their objects. If it has `dataset.coco`, that ground truth is used as it
            is (crowd regions, areas of the segmentations); otherwise `ground_truth_from_boxes` makes a
            ground truth from its boxes.

    Returns:
        ({name: value} for SUMMARY_NAMES, {class name: ClassResult}). AP is the mean over IoU
        0.50:0.95, the curve is the one at IoU 0.50. A number is nan if it has no object to find.

    Raises:
        InputError: a label or an image index is out of range, or a class or an image of the dataset is
            not in the COCO ground truth.
    """
    evaluation, category_ids = _evaluate(detections, dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    summary = {
        name: _or_nan(value) for name, value in zip(SUMMARY_NAMES, evaluation.stats.tolist(), strict=True)
    }
    return summary, _class_results(evaluation, category_ids, detections, dataset.class_names)


def size_average_precisions(
    detections: DatasetDetections, dataset: DetectionDataset
) -> dict[str, dict[str, SizeResult]]:
    """Evaluates the detections of each class for the objects of each of COCO's size ranges.

    Objects outside a range, and detections outside it that find no object, count neither way.

    Args:
        detections: the detections on all images of the dataset.
        dataset: the images and their objects, as in `coco_average_precisions`.

    Returns:
        {class name: {size: SizeResult}}, with the sizes of `SIZES`.

    Raises:
        InputError: the reasons are those of `coco_average_precisions`.
    """
    evaluation, category_ids = _evaluate(detections, dataset)
    areas = {
        category: np.array(
            [
                annotation["area"]
                for (_, owner), objects in evaluation._gts.items()
                for annotation in objects
                if owner == category and not annotation["ignore"]
            ],
            np.float64,
        )
        for category in category_ids.tolist()
    }
    results: dict[str, dict[str, SizeResult]] = {}
    for name, category in zip(dataset.class_names, category_ids.tolist(), strict=True):
        column = evaluation.params.catIds.index(category)
        results[name] = {}
        for place, (size, (smallest, largest)) in enumerate(
            zip(SIZES, evaluation.params.areaRng, strict=True)
        ):
            precision = evaluation.eval["precision"][:, :, column, place, _100_DETECTIONS]
            # The value is -1 if there is no object to find.
            ap, ap50 = float(precision.mean()), float(precision[_IOU_50].mean())
            inside = (areas[category] >= smallest) & (areas[category] <= largest)
            results[name][size] = SizeResult(_or_nan(ap), _or_nan(ap50), int(np.count_nonzero(inside)))
    return results


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
    return _indexed({"images": images, "categories": categories, "annotations": annotations})


class _Evaluation(COCOeval):
    """COCOeval that also ignores difficult objects; the original ignores only crowd regions."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for annotation in objects:
                is_difficult = annotation.get("difficult", False)
                annotation["ignore"] = int(bool(annotation["ignore"]) or is_difficult)


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


def _evaluate(detections: DatasetDetections, dataset: DetectionDataset) -> tuple[_Evaluation, np.ndarray]:
    """Runs pycocotools; returns its accumulated evaluation and the ids of the classes int64 [C]."""
    ground_truth = GroundTruth.from_dataset(dataset)
    check_labels(detections, ground_truth, len(dataset.class_names))
    coco, image_ids, category_ids = coco_ground_truth(dataset)
    # COCO.loadRes is not used, because it fails without detections and makes a polygon of each box.
    coco_detections = _indexed(
        {
            "images": coco.dataset["images"],
            "categories": coco.dataset["categories"],
            "annotations": detection_annotations(
                detections, ground_truth.image_sizes, image_ids, category_ids
            ),
        }
    )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _Evaluation(coco, coco_detections, "bbox")
        evaluation.params.imgIds = sorted(image_ids.tolist())
        # pycocotools sorts the categories; the columns of its arrays are in the order of this list.
        evaluation.params.catIds = sorted(category_ids.tolist())
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation, category_ids


def _indexed(tree: dict[str, Any]) -> COCO:
    """Makes a `COCO` of the content of an annotation file."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = COCO()
        result.dataset = tree
        result.createIndex()
    return result


def _image_ids(coco: COCO, names: Sequence[str]) -> np.ndarray:
    """Returns the ids of the dataset's images in the ground truth: int64 [N]."""
    ids = {str(image_id): image_id for image_id in coco.imgs}
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


def _class_results(
    evaluation: _Evaluation,
    category_ids: np.ndarray,
    detections: DatasetDetections,
    class_names: Sequence[str],
) -> dict[str, ClassResult]:
    """Takes the result of each class from the arrays of pycocotools."""
    column = {category: k for k, category in enumerate(evaluation.params.catIds)}
    num_objects = dict.fromkeys(evaluation.params.catIds, 0)
    for (_, category), objects in evaluation._gts.items():
        num_objects[category] += sum(not annotation["ignore"] for annotation in objects)
    # The axes are [IoU, recall, class]; the value is -1 if the class has no object to find.
    precision = evaluation.eval["precision"][:, :, :, _ALL_AREAS, _100_DETECTIONS]
    scores = evaluation.eval["scores"][_IOU_50, :, :, _ALL_AREAS, _100_DETECTIONS]
    num_detections = np.bincount(detections.labels, minlength=len(class_names) + 1)
    results = {}
    for label, (name, category) in enumerate(zip(class_names, category_ids.tolist(), strict=True), start=1):
        k = column[category]
        curve = precision[_IOU_50, :, k]
        measured = num_objects[category] > 0
        results[name] = ClassResult(
            ap=float(precision[:, :, k].mean()) if measured else float("nan"),
            recall=evaluation.params.recThrs.copy() if measured else np.full(len(curve), np.nan),
            precision=curve if measured else np.zeros(len(curve)),
            scores=scores[:, k],
            num_objects=num_objects[category],
            num_detections=int(num_detections[label]),
        )
    return results


def _or_nan(value: float) -> float:
    """Replaces -1, by which pycocotools marks a number that has no object to find, by nan."""
    return float("nan") if value == -1 else value
