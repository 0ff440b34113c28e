"""The 12 numbers of COCO and its AP per class and size, which pycocotools computes."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.cocoeval import COCOeval

from refinedet_tf.data.coco_ground_truth import indexed
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.coco_files import coco_ground_truth, detection_annotations
from refinedet_tf.evaluation.ground_truth import GroundTruth, check_labels
from refinedet_tf.evaluation.results import ClassResult, SizeResult
from refinedet_tf.inference.detections import DatasetDetections

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


def evaluate_coco(
    detections: DatasetDetections, dataset: DetectionDataset
) -> tuple[dict[str, float], dict[str, ClassResult], dict[str, dict[str, SizeResult]]]:
    """Evaluates the detections of a dataset as COCO does.

    pycocotools receives boxes `[x, y, width, height]` in pixels, `width = (xmax - xmin) * W` without
    "+1". Only the 100 best detections per image and class count.

    Args:
        detections: the detections on all images of the dataset.
        dataset: the images and their objects. If it has `dataset.coco`, that ground truth is used as it
            is (crowd regions, areas of the segmentations); otherwise `ground_truth_from_boxes` makes a
            ground truth from its boxes.

    Returns:
        ({name: value} for SUMMARY_NAMES, {class name: ClassResult}, {class name: {size: SizeResult}} for
        SIZES). AP is the mean over IoU 0.50:0.95, the curve is the one at IoU 0.50. A number is nan if it
        has no object to find.

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
    areas: dict[int, list[float]] = {category: [] for category in evaluation.params.catIds}
    for (_, category), objects in evaluation._gts.items():
        areas[category] += [annotation["area"] for annotation in objects if not annotation["ignore"]]
    num_detections = np.bincount(detections.labels, minlength=len(dataset.class_names) + 1).tolist()
    classes, sizes = {}, {}
    for label, (name, category) in enumerate(
        zip(dataset.class_names, category_ids.tolist(), strict=True), start=1
    ):
        classes[name] = _class_result(evaluation, category, len(areas[category]), num_detections[label])
        sizes[name] = _size_results(evaluation, category, areas[category])
    return summary, classes, sizes


class _Evaluation(COCOeval):
    """COCOeval that also ignores difficult objects; the original ignores only crowd regions."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for annotation in objects:
                is_difficult = annotation.get("difficult", False)
                annotation["ignore"] = int(bool(annotation["ignore"]) or is_difficult)


def _evaluate(detections: DatasetDetections, dataset: DetectionDataset) -> tuple[_Evaluation, np.ndarray]:
    """Runs pycocotools; returns its accumulated evaluation and the ids of the classes int64 [C]."""
    ground_truth = GroundTruth.from_dataset(dataset)
    check_labels(detections, ground_truth, len(dataset.class_names))
    coco, image_ids, category_ids = coco_ground_truth(dataset)
    # COCO.loadRes is not used, because it fails without detections and makes a polygon of each box.
    coco_detections = indexed(
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


def _class_result(
    evaluation: _Evaluation, category: int, num_objects: int, num_detections: int
) -> ClassResult:
    """Takes the result of a class from the arrays of pycocotools."""
    column = evaluation.params.catIds.index(category)
    # The axes are [IoU, recall]; the value is -1 if the class has no object to find.
    precision = evaluation.eval["precision"][:, :, column, _ALL_AREAS, _100_DETECTIONS]
    curve, recall = precision[_IOU_50], evaluation.params.recThrs
    return ClassResult(
        ap=float(precision.mean()) if num_objects else float("nan"),
        recall=recall.copy() if num_objects else np.full(len(recall), np.nan),
        precision=curve if num_objects else np.zeros(len(curve)),
        scores=evaluation.eval["scores"][_IOU_50, :, column, _ALL_AREAS, _100_DETECTIONS],
        num_objects=num_objects,
        num_detections=num_detections,
    )


def _size_results(evaluation: _Evaluation, category: int, areas: Sequence[float]) -> dict[str, SizeResult]:
    """Takes the results of a class and each size from the arrays of pycocotools."""
    column = evaluation.params.catIds.index(category)
    results = {}
    for place, (size, (smallest, largest)) in enumerate(zip(SIZES, evaluation.params.areaRng, strict=True)):
        precision = evaluation.eval["precision"][:, :, column, place, _100_DETECTIONS]
        # The value is -1 if there is no object to find.
        ap, ap50 = float(precision.mean()), float(precision[_IOU_50].mean())
        num_objects = sum(smallest <= area <= largest for area in areas)
        results[size] = SizeResult(_or_nan(ap), _or_nan(ap50), num_objects)
    return results


def _or_nan(value: float) -> float:
    """Replaces -1, by which pycocotools marks a number that has no object to find, by nan."""
    return float("nan") if value == -1 else value
