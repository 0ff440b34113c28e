"""AP against figures that others published, on public data sets.

The data belongs to others and is not part of this project: `pytest --published-ap=FOLDER`, without which
these tests are not collected. Each data set is a folder in FOLDER with annotations, detections and
`expected.json`, which holds the published figures:

    rafaelpadilla_readme7          the README's example of rafaelpadilla/Object-Detection-Metrics
    rafaelpadilla_toycats          the README's example of rafaelpadilla/review_object_detection_metrics
    rafaelpadilla_coco_sampled100  that project's test of its COCO metric
    cartucho                       the input of Cartucho/mAP
    coco_fakebbox100               the results/ of cocodataset/cocoapi
"""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from detection_scenes import make_dataset

from refinedet_tf.data.readers.coco import CocoPart
from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES, evaluate_coco
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.results import mean_average_precision
from refinedet_tf.evaluation.voc_ap import average_precisions, class_average_precision
from refinedet_tf.inference.detections import DatasetDetections

METRICS = {"11 points": "voc07", "all points": "voc"}


@pytest.fixture
def data(request):
    """`data(name)`: the folder of a data set and its expected figures."""

    def find(name):
        folder = Path(request.config.getoption("published_ap")) / name
        return folder, json.loads((folder / "expected.json").read_text(encoding="utf-8"))

    return find


CUT_OFF_AT_10_DECIMALS = 1e-10
"""Tolerance for figures that are not rounded: 0.26839826839 is published as 0.2683982683."""


def half_a_digit(decimals):
    """Tolerance for a rounded figure; a bit more, so that 0.375 may have become 0.38 or 0.37."""
    return 0.5 * 10.0**-decimals * (1 + 1e-9)


def rows(folder, index, num_numbers):
    """Lines "class number number ..." of the text files of a folder.

    Returns:
        names str [n], images int [n], numbers float [n, num_numbers].
    """
    names, images, numbers = [], [], []
    for file in sorted(folder.glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, *values = line.split()
            names.append(name)
            images.append(index[file.stem])
            numbers.append([float(value) for value in values[:num_numbers]])
    return np.array(names), np.array(images), np.array(numbers)


def index_of(folder, suffix):
    return {file.stem: i for i, file in enumerate(sorted(folder.glob(f"*{suffix}")))}


def class_result(objects, detections, metric, iou=0.5, name=None):
    """`class_average_precision` of rows whose numbers are xmin, ymin, xmax, ymax; detections begin with
    the score. `name`: of the class; None: all rows."""
    object_names, object_images, corners = objects
    found_names, images, numbers = detections
    mine = np.full(len(corners), True) if name is None else object_names == name
    found = np.full(len(numbers), True) if name is None else found_names == name
    return class_average_precision(
        images[found],
        numbers[found, 0],
        numbers[found][:, [2, 1, 4, 3]],
        object_images[mine],
        corners[mine][:, [1, 0, 3, 2]],
        np.zeros(mine.sum(), bool),
        metric,
        iou,
    )


def with_corners(part):
    """Rows that end in left, top, width, height: the corner is left + width, as the publisher has it."""
    names, images, numbers = part
    numbers[:, -2:] += numbers[:, -4:-2]
    return names, images, numbers


def test_seven_images_of_one_class(data, compare):
    folder, expected = data("rafaelpadilla_readme7")
    index = index_of(folder / "groundtruths", ".txt")
    objects = with_corners(rows(folder / "groundtruths", index, 4))
    detections = with_corners(rows(folder / "detections", index, 5))
    on = "Object-Detection-Metrics, 7 images, 15 objects; IoU 0.1, 0.3, 0.5, 0.75"
    figures = [figure for figure in expected["published"] if "ap_by_iou" in figure]
    assert {figure["interp"] for figure in figures} == set(METRICS)
    for figure in figures:
        for iou, ap in figure["ap_by_iou"].items():
            found = class_result(objects, detections, METRICS[figure["interp"]], float(iou)).ap
            compare("AP, 11 points and area", on, found, ap, CUT_OFF_AT_10_DECIMALS)
    found = class_result(objects, detections, "voc", 0.3)
    for name, values in expected["published_precision_recall_iou_0_3"].items():
        if name != "where":
            values = [float(value) for value in values]
            compare("precision and recall", on, getattr(found, name), values, half_a_digit(2))


def test_seven_images_in_normalised_boxes(data, compare):
    """The boxes as this project's evaluation sees them, which is float32 and normalised."""
    folder, expected = data("rafaelpadilla_readme7")
    index = index_of(folder / "groundtruths_rel", ".txt")
    sizes = np.full((7, 2), 200)

    def normalised(numbers):
        center, extent = numbers[:, [1, 0]], numbers[:, [3, 2]]
        # Pixels count from 1 here and include both ends, so the publisher's box begins one earlier.
        low, high = center - extent / 2 - 1 / 200, center + extent / 2
        return np.concatenate([low, high], axis=1).astype(np.float32)

    _, images, numbers = rows(folder / "groundtruths_rel", index, 4)
    ones = np.ones(len(images), int)
    truth = GroundTruth(images, ones, normalised(numbers), np.zeros(len(images), bool), sizes)
    _, images, numbers = rows(folder / "detections_rel", index, 5)
    scores = numbers[:, 0].astype(np.float32)
    detections = DatasetDetections(images, np.ones(len(images), int), scores, normalised(numbers[:, 1:]))
    on = "Object-Detection-Metrics, the same from relative coordinates, normalised boxes in float32"
    for figure in (entry for entry in expected["published"] if "ap_by_iou" in entry):
        for iou, ap in figure["ap_by_iou"].items():
            metric = METRICS[figure["interp"]]
            found = average_precisions(detections, truth, ["person"], metric, float(iou))["person"].ap
            compare("AP, 11 points and area", on, found, ap, CUT_OFF_AT_10_DECIMALS)


def test_toy_cats(data, compare):
    folder, expected = data("rafaelpadilla_toycats")
    index = index_of(folder / "gts_voc_xml", ".xml")
    images, corners = [], []
    for name, i in index.items():
        for item in ElementTree.parse(folder / "gts_voc_xml" / f"{name}.xml").getroot().iter("object"):
            if item.findtext("name") == "cat":
                images.append(i)
                corners.append(
                    [float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
                )
    objects = None, np.array(images), np.array(corners)
    detections = rows(folder / "dets_classname_abs_xyx2y2", index, 5)
    on = "review_object_detection_metrics, cats of 10 VOC images; IoU 0.5, 0.75"
    for figure in expected["published"]:
        found = class_result(objects, detections, METRICS[figure["interp"]], figure["iou"])
        compare("AP, 11 points and area", on, found.ap, figure["ap"], half_a_digit(4))
    for iou, table in (
        (0.5, expected["published_table_iou_0_5"]),
        (0.75, expected["published_table_iou_0_75"]),
    ):
        found = class_result(objects, detections, "voc", iou)
        hits = np.diff(np.rint(found.recall * found.num_objects), prepend=0)
        compare.same("hits by descending score", on, hits, [int(row["tp"]) for row in table])


def test_thirty_classes(data, compare):
    """Classes that are detected but do not occur stay out of the mean."""
    folder, expected = data("cartucho")
    index = index_of(folder / "ground-truth", ".txt")
    objects = rows(folder / "ground-truth", index, 4)
    detections = rows(folder / "detection-results", index, 5)
    names = sorted({*objects[0], *detections[0]})
    results = {name: class_result(objects, detections, "voc", name=name) for name in names}
    aps = {name: result.ap for name, result in results.items() if not np.isnan(result.ap)}
    published = expected["published_percent"]
    on = f"mAP of Cartucho, {len(index)} images, {len(objects[0])} objects, {len(published)} classes"
    compare.same("classes with an AP", on, sorted(aps), sorted(published))
    percent = [100 * aps[name] for name in published]
    compare("AP of each class in percent", on, percent, list(published.values()), half_a_digit(2))
    mean = 100 * mean_average_precision(results)
    compare("mean AP in percent", on, mean, expected["published_mAP_percent"], half_a_digit(2))


def coco_summary(ground_truth_file, detection_file, dtype):
    """COCO's 12 figures of a file of ground truth and a file of detections, in the order of the names.

    `dtype`: of the detections' normalised boxes.
    """
    truth = CocoPart(ground_truth_file.parent, f"{ground_truth_file.name}:images").ground_truth()
    sizes = {image: (entry["height"], entry["width"]) for image, entry in truth.imgs.items()}
    categories = {entry["id"]: entry["name"] for entry in truth.dataset["categories"]}
    place = {image: i for i, image in enumerate(sizes)}
    dataset = make_dataset(list(map(str, sizes)), list(sizes.values()), categories.values(), coco=truth)
    found = json.loads(detection_file.read_text(encoding="utf-8"))
    images = np.array([place[detection["image_id"]] for detection in found])
    x, y, width, height = np.array([detection["bbox"] for detection in found]).T
    corners = np.stack([y, x, y + height, x + width], axis=1)
    labels = np.array([list(categories).index(detection["category_id"]) + 1 for detection in found])
    detections = DatasetDetections(
        images,
        labels,
        np.array([detection["score"] for detection in found], np.float32),
        (corners / np.tile(dataset.image_sizes[images], 2)).astype(dtype),
    )
    summary, *_ = evaluate_coco(detections, dataset)
    return [summary[name] for name in SUMMARY_NAMES]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "files", "on", "decimals"),
    [
        (
            "coco_fakebbox100",
            ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"),
            "the COCO API's example results, 100 images, 839 objects, 9 of them crowds",
            3,
        ),
        (
            "rafaelpadilla_coco_sampled100",
            ("gts.json", "dets.json"),
            "review_object_detection_metrics, 100 COCO images, 830 objects",
            6,
        ),
    ],
)
def test_coco(data, compare, name, files, on, decimals, dtype):
    folder, expected = data(name)
    found = coco_summary(*(folder / file for file in files), dtype)
    published = [expected["published"][key] for key in SUMMARY_NAMES]
    tolerance = half_a_digit(decimals)
    if dtype == "float32":
        # One box of these results is its object moved by 4 of 36 pixels: an IoU of exactly 0.8, which
        # float32 makes 0.7999999, one match less at one of ten thresholds.
        on, tolerance = f"{on}; normalised boxes in float32, where an IoU of exactly 0.8 is missed", 1e-3
    compare("COCO's 12 figures", on, found, published, tolerance)
