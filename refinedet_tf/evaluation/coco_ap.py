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


def coco_average_precisions(
    detections: DatasetDetections, dataset: DetectionDataset
) -> tuple[dict[str, float], dict[str, ClassResult]]:
    """Returns the first two values of `evaluate_coco`."""
    return evaluate_coco(detections, dataset)[:2]


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
    classes = _class_results(evaluation, category_ids, detections, dataset.class_names)
    return summary, classes, _size_results(evaluation, category_ids, dataset.class_names)


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


def _size_results(
    evaluation: _Evaluation, category_ids: np.ndarray, class_names: Sequence[str]
) -> dict[str, dict[str, SizeResult]]:
    """Takes the results of each class and size from the arrays of pycocotools."""
    areas: dict[int, list[float]] = {category: [] for category in evaluation.params.catIds}
    for (_, category), objects in evaluation._gts.items():
        areas[category] += [annotation["area"] for annotation in objects if not annotation["ignore"]]
    results: dict[str, dict[str, SizeResult]] = {}
    for name, category in zip(class_names, category_ids.tolist(), strict=True):
        column = evaluation.params.catIds.index(category)
        results[name] = {}
        for place, (size, (smallest, largest)) in enumerate(
            zip(SIZES, evaluation.params.areaRng, strict=True)
        ):
            precision = evaluation.eval["precision"][:, :, column, place, _100_DETECTIONS]
            # The value is -1 if there is no object to find.
            ap, ap50 = float(precision.mean()), float(precision[_IOU_50].mean())
            num_objects = sum(smallest <= area <= largest for area in areas[category])
            results[name][size] = SizeResult(_or_nan(ap), _or_nan(ap50), num_objects)
    return results


def _or_nan(value: float) -> float:
    """Replaces -1, by which pycocotools marks a number that has no object to find, by nan."""
    return float("nan") if value == -1 else value
