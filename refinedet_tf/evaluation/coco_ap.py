"""The 12 numbers of COCO, through pycocotools."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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

_ALL_AREAS, _100_DETECTIONS, _IOU_50 = 0, 2, 0
"""Places in pycocotools' arrays [IoU, recall, class, area range, detections an image]."""


def coco_average_precisions(
    detections: DatasetDetections, dataset
) -> tuple[dict[str, float], dict[str, ClassResult]]:
    """COCO's evaluation of a data set.

    Detections are handed over as `[x, y, width, height]` in pixels, `width = (xmax - xmin) * W`
    without "+1". Only the 100 best detections of an image and class count.

    Args:
        detections: rows with normalised boxes.
        dataset: a `refinedet_tf.data.dataset.DetectionDataset`. With `dataset.coco` that ground truth
            is used as it is (crowd regions, areas of the segmentations); otherwise one is made of
            the data set's boxes: `ground_truth_from_boxes`.

    Returns:
        ({name: value} for SUMMARY_NAMES, {class name: ClassResult}). AP is the mean over IoU
        0.50:0.95, the curve is the one at IoU 0.50. What has no object to find is nan.

    Raises:
        InputError: a label or an image index is out of range, or a class or an image of the data
            set is not in the COCO ground truth.
    """
    ground_truth = GroundTruth.from_dataset(dataset)
    check_labels(detections, ground_truth, len(dataset.class_names))
    with contextlib.redirect_stdout(io.StringIO()):
        if dataset.coco is None:
            truth = ground_truth_from_boxes(ground_truth, dataset.class_names)
            image_ids = np.arange(len(dataset.image_sizes))
        else:
            truth = dataset.coco
            image_ids = _image_ids(truth, dataset.image_ids)
        category_ids = _category_ids(truth, dataset.class_names)
        found = _coco_detections(truth, detections, ground_truth.image_sizes, image_ids, category_ids)
        evaluation = _Evaluation(truth, found, "bbox")
        evaluation.params.imgIds = sorted(image_ids.tolist())
        # pycocotools sorts the categories; the columns of its arrays follow this list.
        evaluation.params.catIds = sorted(category_ids.tolist())
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    summary = {
        name: _or_nan(value) for name, value in zip(SUMMARY_NAMES, evaluation.stats.tolist(), strict=True)
    }
    return summary, _class_results(evaluation, category_ids, detections, dataset.class_names)


def ground_truth_from_boxes(ground_truth: GroundTruth, class_names: list[str] | tuple[str, ...]) -> COCO:
    """A COCO ground truth of boxes, so that the COCO metric works for VOC data too.

    Image ids are 0..N-1, category ids are the labels, the area is the area of the box. A difficult
    object is ignored as COCO ignores one outside the area range: it need not be found, and one
    detection on it, by plain IoU, is no false positive. It is no crowd, which would forgive every
    small box inside it.
    """
    corners = coco_pixels(ground_truth.boxes, ground_truth.image_sizes[ground_truth.images])
    annotations = [
        {
            "id": row + 1,  # pycocotools takes id 0 for "not matched"
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
    """COCOeval that also ignores difficult objects; the original knows crowds only."""

    def _prepare(self):
        super()._prepare()
        for objects in self._gts.values():
            for item in objects:
                item["ignore"] = int(bool(item["ignore"]) or item.get("difficult", False))


def _coco_detections(truth, detections, image_sizes, image_ids, category_ids) -> COCO:
    # COCO.loadRes would do, but it fails without any detection and makes a polygon of each box.
    boxes = coco_pixels(detections.boxes, image_sizes[detections.images])
    annotations = [
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
    return _indexed(
        {
            "images": truth.dataset["images"],
            "categories": truth.dataset["categories"],
            "annotations": annotations,
        }
    )


def _indexed(tree: dict) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        result = COCO()
        result.dataset = tree
        result.createIndex()
    return result


def _image_ids(truth: COCO, names) -> np.ndarray:
    """The ids that the ground truth gives to the data set's images: int64 [N]."""
    ids = {str(image_id): image_id for image_id in truth.imgs}
    missing = [str(name) for name in names if str(name) not in ids]
    if missing:
        raise InputError(f"image {missing[0]} is not in the COCO ground truth")
    return np.array([ids[str(name)] for name in names], np.int64)


def _category_ids(truth: COCO, class_names) -> np.ndarray:
    """The ids (sparse: 1..90 for COCO's 80 classes) of the data set's classes: int64 [C]."""
    ids = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    missing = [name for name in class_names if name not in ids]
    if missing:
        raise InputError(f"class {missing[0]} is not a category of the COCO ground truth: {', '.join(ids)}")
    return np.array([ids[name] for name in class_names], np.int64)


def _class_results(evaluation, category_ids, detections, class_names) -> dict[str, ClassResult]:
    column = {category: k for k, category in enumerate(evaluation.params.catIds)}
    num_objects = dict.fromkeys(evaluation.params.catIds, 0)
    for (_, category), objects in evaluation._gts.items():
        num_objects[category] += sum(not item["ignore"] for item in objects)
    # [IoU, recall, class]; -1 where the class has no object to find
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
    """pycocotools says -1 where there is nothing to measure."""
    return float("nan") if value == -1 else value
