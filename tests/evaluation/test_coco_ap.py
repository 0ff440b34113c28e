import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO

from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES, coco_average_precisions, evaluate_coco
from refinedet_tf.inference.detections import DatasetDetections

SIZE = (100, 200)
"""Height and width of every image here: one pixel is 0.01 high and 0.005 wide."""


def normalised(pixels):
    return (np.array(pixels, np.float64).reshape(-1, 4) / [100, 200, 100, 200]).astype(np.float32)


def make_dataset(objects, num_images=2, class_names=("cat", "dog", "cow"), coco=None):
    """objects: (image, label, [ymin, xmin, ymax, xmax] in pixels, difficult), ordered by image."""
    images = np.array([row[0] for row in objects], np.int64)
    return SimpleNamespace(
        class_names=class_names,
        image_ids=tuple(str(100 - i) for i in range(num_images)),
        image_sizes=np.full((num_images, 2), SIZE, np.int32),
        boxes=normalised([row[2] for row in objects]),
        labels=np.array([row[1] for row in objects], np.int32),
        difficult=np.array([row[3] for row in objects], bool),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(images, minlength=num_images))]),
        coco=coco,
    )


def make_detections(rows):
    """rows: (image, label, score, [ymin, xmin, ymax, xmax] in pixels)."""
    return DatasetDetections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.float32),
        normalised([row[3] for row in rows]),
    )


def make_coco(annotations, num_images=2):
    """annotations: (image id, category id, [x, y, width, height], iscrowd)."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 100 - i, "height": 100, "width": 200} for i in range(num_images)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cow"}, {"id": 90, "name": "cat"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": c,
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": crowd,
            }
            for i, (image, c, b, crowd) in enumerate(annotations)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


LARGE = [0, 0, 100, 200]  # 20,000 pixels: COCO's "large"
SMALL = [10, 10, 30, 30]  # 400 pixels: COCO's "small"


def test_perfect_detections_and_a_class_without_objects(capsys):
    dataset = make_dataset([(0, 1, LARGE, False), (1, 2, SMALL, False)])
    rows = [(0, 1, 0.9, LARGE), (1, 2, 0.8, SMALL), (1, 3, 0.7, SMALL)]
    summary, classes = coco_average_precisions(make_detections(rows), dataset)
    assert list(summary) == list(SUMMARY_NAMES)
    measured = [name for name in SUMMARY_NAMES if not np.isnan(summary[name])]
    assert measured == [name for name in SUMMARY_NAMES if not name.endswith("medium")]
    np.testing.assert_allclose([summary[name] for name in measured], 1.0, rtol=1e-9)
    assert [result.ap for result in classes.values()] == pytest.approx([1.0, 1.0, np.nan], nan_ok=True)
    assert [result.num_objects for result in classes.values()] == [1, 1, 0]
    assert [result.num_detections for result in classes.values()] == [1, 1, 1]
    assert capsys.readouterr().out == ""


def test_ap_is_the_mean_over_iou_thresholds():
    # The detection covers 73 of 100 rows: IoU 0.73 passes 0.50, 0.55, 0.60, 0.65 and 0.70.
    dataset = make_dataset([(0, 1, LARGE, False)])
    summary, classes = coco_average_precisions(make_detections([(0, 1, 0.9, [0, 0, 73, 200])]), dataset)
    assert summary["AP"] == pytest.approx(0.5)
    assert summary["AP50"] == pytest.approx(1.0)
    assert summary["AP75"] == pytest.approx(0.0)
    assert summary["AR100"] == pytest.approx(0.5)
    assert classes["cat"].ap == pytest.approx(0.5)
    np.testing.assert_allclose(classes["cat"].precision, np.ones(101))
    np.testing.assert_allclose(classes["cat"].recall, np.linspace(0, 1, 101))


def test_classes_are_found_by_name_and_images_by_id():
    # Category ids are sparse and in another order than the labels; image ids are 100 and 99.
    coco = make_coco([(100, 90, [0, 0, 200, 100], 0), (99, 7, [10, 10, 20, 20], 0), (99, 3, [0, 0, 9, 9], 0)])
    dataset = make_dataset(
        [(0, 1, LARGE, False), (1, 2, SMALL, False), (1, 3, [0, 0, 9, 9], False)], coco=coco
    )
    rows = [(0, 1, 0.9, LARGE), (1, 2, 0.9, [50, 50, 60, 60]), (1, 2, 0.8, SMALL)]
    summary, classes = coco_average_precisions(make_detections(rows), dataset)
    assert [result.ap for result in classes.values()] == pytest.approx([1.0, 0.5, 0.0])
    assert [result.num_detections for result in classes.values()] == [1, 2, 0]
    assert summary["AP"] == pytest.approx(0.5)


def test_classes_left_out_of_the_data_set_do_not_count():
    coco = make_coco([(100, 90, [0, 0, 200, 100], 0), (99, 7, [10, 10, 20, 20], 0)])
    dataset = make_dataset([(0, 1, LARGE, False)], class_names=("cat",), coco=coco)
    summary, classes = coco_average_precisions(make_detections([(0, 1, 0.9, LARGE)]), dataset)
    assert summary["AP"] == pytest.approx(1.0)
    assert list(classes) == ["cat"]


def test_without_any_detection_ap_is_0():
    dataset = make_dataset([(0, 1, LARGE, False), (1, 2, SMALL, False)])
    summary, classes = coco_average_precisions(make_detections([]), dataset)
    assert summary["AP"] == 0.0
    assert summary["AR100"] == 0.0
    assert [result.ap for result in classes.values()] == pytest.approx([0.0, 0.0, np.nan], nan_ok=True)


def test_without_any_object_everything_is_nan():
    summary, classes = coco_average_precisions(make_detections([(0, 1, 0.9, LARGE)]), make_dataset([]))
    assert all(np.isnan(value) for value in summary.values())
    assert all(np.isnan(result.ap) for result in classes.values())


def test_a_difficult_object_counts_neither_way_and_forgives_only_what_fits_it():
    objects = [(0, 1, [0, 0, 100, 100], True), (0, 1, [40, 150, 80, 190], False)]
    found = (0, 1, 0.5, [40, 150, 80, 190])
    on_difficult, inside_difficult = (0, 1, 0.9, [0, 0, 100, 100]), (0, 1, 0.9, [0, 0, 20, 20])
    for rows, expected in ([(found,), 1.0], [(on_difficult, found), 1.0], [(inside_difficult, found), 0.5]):
        summary, classes = coco_average_precisions(make_detections(rows), make_dataset(objects))
        assert summary["AP50"] == pytest.approx(expected), rows
        assert classes["cat"].num_objects == 1


def test_a_crowd_region_forgives_every_box_inside_it():
    coco = make_coco([(100, 90, [0, 0, 100, 100], 1), (100, 90, [150, 40, 40, 40], 0)])
    dataset = make_dataset([(0, 1, [0, 0, 100, 100], True), (0, 1, [40, 150, 80, 190], False)], coco=coco)
    rows = [(0, 1, 0.9, [0, 0, 20, 20]), (0, 1, 0.8, [30, 30, 50, 50]), (0, 1, 0.5, [40, 150, 80, 190])]
    summary, classes = coco_average_precisions(make_detections(rows), dataset)
    assert summary["AP"] == pytest.approx(1.0)
    assert classes["cat"].num_objects == 1


def test_what_the_ground_truth_does_not_know_is_named():
    coco = make_coco([(100, 90, [0, 0, 200, 100], 0)], num_images=1)
    with pytest.raises(InputError, match="image 99 is not in the COCO ground truth"):
        coco_average_precisions(make_detections([]), make_dataset([(0, 1, LARGE, False)], coco=coco))
    dataset = make_dataset([(0, 1, LARGE, False)], num_images=1, class_names=("cat", "horse"), coco=coco)
    with pytest.raises(InputError, match="class horse is not a category .* dog, cow, cat"):
        coco_average_precisions(make_detections([]), dataset)
    with pytest.raises(InputError, match=r"label 4; it must lie in 1\.\.3"):
        coco_average_precisions(make_detections([(0, 4, 0.9, LARGE)]), make_dataset([(0, 1, LARGE, False)]))


def test_ap_per_size_by_hand():
    """A large object is found up to IoU 0.70, one small object is found, another is not."""
    objects = [
        (0, 1, LARGE, False),
        (1, 1, SMALL, False),
        (1, 1, [50, 50, 70, 70], False),
        (1, 2, SMALL, True),
    ]
    rows = [(0, 1, 0.9, [0, 0, 73, 200]), (1, 1, 0.8, SMALL)]
    _, _, sizes = evaluate_coco(make_detections(rows), make_dataset(objects))
    assert list(sizes) == ["cat", "dog", "cow"]
    assert list(sizes["cat"]) == ["all", "small", "medium", "large"]
    assert [result.num_objects for result in sizes["cat"].values()] == [3, 2, 0, 1]
    half = 51 / 101  # Recall 0 to 0.5.
    values = {size: (result.ap, result.ap50) for size, result in sizes["cat"].items()}
    assert values["small"] == pytest.approx((half, half))
    assert values["large"] == pytest.approx((0.5, 1.0))
    assert values["medium"] == pytest.approx((np.nan, np.nan), nan_ok=True)
    assert values["all"][1] == pytest.approx(67 / 101)
    for name in ("dog", "cow"):
        assert all(result.num_objects == 0 and np.isnan(result.ap) for result in sizes[name].values())


def test_ap_per_size_has_the_mean_of_the_summary():
    from detection_scenes import make_scene

    detections, dataset = make_scene()
    summary, classes, sizes = evaluate_coco(detections, dataset)
    for size, number in (("all", "AP"), ("medium", "APmedium"), ("large", "APlarge")):
        values = [results[size].ap for results in sizes.values()]
        assert np.nanmean(values) == pytest.approx(summary[number], abs=1e-12)
    assert np.mean([results["all"].ap50 for results in sizes.values()]) == pytest.approx(summary["AP50"])
    assert [results["all"].num_objects for results in sizes.values()] == [
        result.num_objects for result in classes.values()
    ]
