import numpy as np
import pytest
from detection_scenes import make_dataset, make_scene
from pixel_scenes import SIZE, detections_of, normalised

from refinedet_tf.data.coco_ground_truth import indexed
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES, evaluate_coco

LARGE = [0, 0, 100, 200]  # 20,000 pixels: COCO's "large"
SMALL = [10, 10, 30, 30]  # 400 pixels: COCO's "small"


def evaluate(objects, rows, num_images=2, class_names=("cat", "dog", "cow"), coco=None):
    """The three results for objects (image, label, box in pixels, True if difficult) of images 100, 99...

    Args:
        objects: of the dataset, ordered by image.
        rows: the detections, as `detections_of` takes them.
        num_images: the number of images.
        class_names: the classes of the dataset.
        coco: objects (image id, category id, [x, y, width, height], iscrowd) of a COCO file, whose category
            ids are sparse and in another order than the labels; None: there is no such file.
    """
    ids = [100 - number for number in range(num_images)]
    truth = coco and indexed(
        {
            "images": [{"id": number, "height": SIZE[0], "width": SIZE[1]} for number in ids],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cow"}, {"id": 90, "name": "cat"}],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
                | {"area": box[2] * box[3]}
                for number, (image, category, box, crowd) in enumerate(coco, start=1)
            ],
        }
    )
    objects = [(image, label, normalised(box)[0], flag == [True]) for image, label, box, *flag in objects]
    dataset = make_dataset(list(map(str, ids)), [SIZE] * num_images, class_names, objects, truth)
    return evaluate_coco(detections_of(*rows), dataset)


def aps(classes):
    return [result.ap for result in classes.values()]


def test_perfect_detections_and_a_class_without_objects(capsys):
    rows = [(0, 1, 0.9, LARGE), (1, 2, 0.8, SMALL), (1, 3, 0.7, SMALL)]
    summary, classes, _ = evaluate([(0, 1, LARGE), (1, 2, SMALL)], rows)
    assert list(summary) == list(SUMMARY_NAMES)
    expected = [np.nan if name.endswith("medium") else 1 for name in SUMMARY_NAMES]
    np.testing.assert_allclose(list(summary.values()), expected, rtol=1e-9)
    assert aps(classes) == pytest.approx([1.0, 1.0, np.nan], nan_ok=True)
    assert [result.num_objects for result in classes.values()] == [1, 1, 0]
    assert [result.num_detections for result in classes.values()] == [1, 1, 1]
    assert capsys.readouterr().out == ""


def test_ap_is_the_mean_over_iou_thresholds():
    # The detection covers 73 of 100 rows: IoU 0.73 passes 0.50, 0.55, 0.60, 0.65 and 0.70.
    summary, classes, _ = evaluate([(0, 1, LARGE)], [(0, 1, 0.9, [0, 0, 73, 200])])
    values = [summary[name] for name in ("AP", "AP50", "AP75", "AR100")]
    assert values == pytest.approx([0.5, 1.0, 0.0, 0.5])
    assert classes["cat"].ap == pytest.approx(0.5)
    np.testing.assert_allclose(classes["cat"].precision, np.ones(101))
    np.testing.assert_allclose(classes["cat"].recall, np.linspace(0, 1, 101))


def test_classes_are_found_by_name_and_images_by_id():
    coco = [(100, 90, [0, 0, 200, 100], 0), (99, 7, [10, 10, 20, 20], 0), (99, 3, [0, 0, 9, 9], 0)]
    objects = [(0, 1, LARGE), (1, 2, SMALL), (1, 3, [0, 0, 9, 9])]
    rows = [(0, 1, 0.9, LARGE), (1, 2, 0.9, [50, 50, 60, 60]), (1, 2, 0.8, SMALL)]
    summary, classes, _ = evaluate(objects, rows, coco=coco)
    assert aps(classes) == pytest.approx([1.0, 0.5, 0.0])
    assert [result.num_detections for result in classes.values()] == [1, 2, 0]
    assert summary["AP"] == pytest.approx(0.5)
    # Classes that the dataset leaves out do not count.
    summary, classes, _ = evaluate(objects[:1], rows[:1], class_names=("cat",), coco=coco)
    assert summary["AP"] == pytest.approx(1.0) and list(classes) == ["cat"]


def test_without_any_detection_ap_is_0_and_without_any_object_nan():
    summary, classes, _ = evaluate([(0, 1, LARGE), (1, 2, SMALL)], [])
    assert summary["AP"] == summary["AR100"] == 0.0
    assert aps(classes) == pytest.approx([0.0, 0.0, np.nan], nan_ok=True)
    summary, classes, _ = evaluate([], [(0, 1, 0.9, LARGE)])
    assert np.isnan([*summary.values(), *aps(classes)]).all()


def test_a_difficult_object_counts_neither_way_and_forgives_only_what_fits_it():
    objects = [(0, 1, [0, 0, 100, 100], True), (0, 1, [40, 150, 80, 190])]
    found = (0, 1, 0.5, [40, 150, 80, 190])
    on_difficult, inside_difficult = (0, 1, 0.9, [0, 0, 100, 100]), (0, 1, 0.9, [0, 0, 20, 20])
    for rows, expected in ([(found,), 1.0], [(on_difficult, found), 1.0], [(inside_difficult, found), 0.5]):
        summary, classes, _ = evaluate(objects, rows)
        assert summary["AP50"] == pytest.approx(expected), rows
        assert classes["cat"].num_objects == 1
    # A crowd region forgives every box inside it.
    coco = [(100, 90, [0, 0, 100, 100], 1), (100, 90, [150, 40, 40, 40], 0)]
    rows = [(0, 1, 0.9, [0, 0, 20, 20]), (0, 1, 0.8, [30, 30, 50, 50]), found]
    summary, classes, _ = evaluate(objects, rows, coco=coco)
    assert summary["AP"] == pytest.approx(1.0)
    assert classes["cat"].num_objects == 1


def test_what_the_ground_truth_does_not_know_is_named():
    known = {"coco": [(100, 90, [0, 0, 200, 100], 0)]}
    with pytest.raises(InputError, match="class horse is not a category .* dog, cow, cat"):
        evaluate([(0, 1, LARGE)], [], class_names=("cat", "horse"), **known)
    with pytest.raises(InputError, match=r"label 4; it must lie in 1\.\.3"):
        evaluate([(0, 1, LARGE)], [(0, 4, 0.9, LARGE)])
    detections, dataset = make_scene()
    dataset.coco = indexed({"images": [], "categories": [], "annotations": []})
    with pytest.raises(InputError, match=f"image {dataset.image_ids[0]} is not in the COCO ground truth"):
        evaluate_coco(detections, dataset)


def test_ap_per_size_by_hand():
    """A large object is found up to IoU 0.70, one small object is found, another is not."""
    objects = [(0, 1, LARGE), (1, 1, SMALL), (1, 1, [50, 50, 70, 70]), (1, 2, SMALL, True)]
    _, _, sizes = evaluate(objects, [(0, 1, 0.9, [0, 0, 73, 200]), (1, 1, 0.8, SMALL)])
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
    summary, classes, sizes = evaluate_coco(*make_scene())
    for size, number in (("all", "AP"), ("medium", "APmedium"), ("large", "APlarge")):
        values = [results[size].ap for results in sizes.values()]
        assert np.nanmean(values) == pytest.approx(summary[number], abs=1e-12)
    assert np.mean([results["all"].ap50 for results in sizes.values()]) == pytest.approx(summary["AP50"])
    assert [results["all"].num_objects for results in sizes.values()] == [
        result.num_objects for result in classes.values()
    ]
