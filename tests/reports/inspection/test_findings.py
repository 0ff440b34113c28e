"""The findings on data sets that each have one peculiarity."""

import dataclasses

import numpy as np
import pytest
from config_of import config_of
from own_anchors import level
from small_datasets import dataset_of

from refinedet_tf.config.values import DEFAULT_LEVELS
from refinedet_tf.data.box_checks import CLIPPED, OUTSIDE, BoxDefects
from refinedet_tf.reports.inspection import anchor_report
from refinedet_tf.reports.inspection.anchor_report import inspect_anchors
from refinedet_tf.reports.inspection.findings import find_all, percent, plural
from refinedet_tf.reports.inspection.image_scan import ImageScan, find_same_images
from refinedet_tf.reports.inspection.input_size import better_input_size
from refinedet_tf.reports.inspection.report import DataReport, inspect_split
from refinedet_tf.training.description import turned_images

IMAGE_SIZE = (320, 320)
CLASSES = ("a", "b")


def make_dataset(*images, image_size=(150, 150)):
    """A data set whose images have the shape of the network's input."""
    return dataset_of(images, image_size)


def square(side, top=0.0, left=0.0, label=1):
    """A box of `side` pixels of the network's input, for `make_dataset`."""
    return label, top, left, top + side / 320, left + side / 320


def report_on(config=None, **datasets):
    """The report on data sets whose images all decode and differ."""
    config = config or config_of(CLASSES, model={"weights": "imagenet"})
    splits = {}
    for name, dataset in datasets.items():
        digests = tuple(f"{name}{number}".encode() for number in range(len(dataset)))
        splits[name] = inspect_split(dataset, ImageScan(digests, {}), config, IMAGE_SIZE)
    same = find_same_images({name: split.scan for name, split in splits.items()})
    anchors = inspect_anchors(splits["train"].dataset, config, IMAGE_SIZE)
    return DataReport(config=config, image_size=IMAGE_SIZE, splits=splits, same_images=same, anchors=anchors)


def good_images(number=20):
    """Images with an object of each class, whose size is that of the anchors in the middle of the image."""
    return [[square(64, 0.4, 0.4), square(64, 0.1, 0.1, label=2)]] * number


def texts(report, level=None):
    return [finding.text for finding in find_all(report) if level in (None, finding.level)]


def test_a_good_set_has_only_good_findings():
    report = report_on(
        train=make_dataset(*good_images()),
        validation=make_dataset(*good_images()),
        test=make_dataset(*good_images(3)),
    )
    assert [finding.level for finding in find_all(report)] == ["good"] * 4
    assert texts(report) == [
        "All 43 image files decode and have the annotated size.",
        "No image is in two of train, validation, test.",
        "No box had to be dropped or clipped.",
        "The anchors reach 100 % of the training objects (IoU of at least 0.5).",
    ]


def test_turned_images():
    dataset = make_dataset(*good_images())
    dataset.orientations[[2, 5, 7, 9]] = 6
    turned = dataclasses.replace(dataset, turned=(5, 7), unclear_orientations=(9,))
    report = report_on(train=turned, test=make_dataset(*good_images(3)))
    assert (
        "4 photographs of train turned upright by the EXIF orientation. The boxes of 2 refer to the "
        "stored pixels and are turned with them." in texts(report, "good")
    )
    (advice,) = [text for text in texts(report, "advice") if "EXIF" in text]
    assert advice.startswith(
        "1 photograph of train with an EXIF orientation whose annotation does not tell whether it was made "
        "upright, as is assumed: 9.jpg. If"
    )
    sets = {"training": turned, "validation": None}
    assert turned_images(sets) == "turned upright by their EXIF orientation: 4 of the training images"
    assert turned_images({"training": make_dataset(*good_images(3))}) is None


@pytest.mark.parametrize(("bad", "level"), [(3, "advice"), (4, "problem")])
def test_many_bad_boxes_are_a_problem(bad, level):
    """From a tenth of 40 boxes on, the boxes are wrong as a whole."""
    dataset = make_dataset(*good_images())
    dataset = dataclasses.replace(dataset, defects=BoxDefects(40, {CLIPPED: bad - 1, OUTSIDE: 1}))
    (text,) = [text for text in texts(report_on(train=dataset), level) if "bad boxes" in text]
    assert text.startswith(
        f"{bad} bad boxes of 40 in train: 1 outside the image, {bad - 1} partly outside, clipped."
    )
    assert ("x and y swapped" in text) == (level == "problem")


def test_small_objects_that_no_anchor_reaches():
    small = [[square(7, 0.1 + 0.01 * number, 0.5), square(64, label=2)] for number in range(25)]
    report = report_on(train=make_dataset(*small))
    problems = texts(report, "problem")
    (text,) = [text for text in problems if "overlap no anchor" in text]
    assert text.startswith("50 % of the training objects (a 100 %) overlap no anchor by an IoU of 0.5")
    share = report.anchors.advised.coverage.share_below
    assert share <= 0.1
    assert f"With the anchors in the section Anchors it would be {percent(share)}" in text
    (tiny,) = [text for text in problems if "smaller than 8 pixels" in text]
    assert tiny.startswith("50 % of the training objects are smaller than 8 pixels at 320x320")
    assert report.anchors.not_reached == {"a": 1.0, "b": 0.0}


def test_a_finer_level_is_advised_only_where_it_helps():
    """Objects of 5 pixels lie between the centres of stride 8, and those of 64 pixels need no finer level."""
    rng = np.random.default_rng(0)
    small = [[square(5, *rng.uniform(0, 0.9, 2)), square(64, label=2)] for _ in range(40)]
    choices = report_on(train=make_dataset(*small)).anchors.choices
    assert [choice.name for choice in choices] == ["configured", "fitted", "fitted with stride 4"]
    assert [level.stride for level in choices[2].levels] == [4, 8, 16, 32, 64]
    shares = [choice.coverage.share_below for choice in choices]
    assert shares[0] == 0.5 > shares[1] > shares[2]
    assert len(report_on(train=make_dataset(*good_images())).anchors.choices) == 2


def centred(side, label=1):
    """A square around the centre (168, 168) of a cell of stride 16, where an anchor of 64 pixels lies."""
    return square(side, (168 - side / 2) / 320, (168 - side / 2) / 320, label)


def test_anchors_are_judged_by_the_iou_of_the_config():
    """The IoU of a square of 48 pixels with the anchor of 64 is 0.5625."""
    train = make_dataset(*[[centred(48), centred(64, label=2)]] * 25)
    for positive_iou, share in ((0.4, 0.0), (0.5, 0.0), (0.6, 1.0)):
        report = report_on(config_of(CLASSES, loss={"positive_iou": positive_iou}), train=train)
        assert report.anchors.not_reached == {"a": share, "b": 0.0}
        coverage = report.anchors.choices[0].coverage
        assert (coverage.share_below, coverage.mean_best_iou) == (share / 2, pytest.approx((1 + 0.5625) / 2))
        (text,) = [text for text in texts(report) if "IoU of" in text]
        assert text.startswith("50 % of the" if share else "The anchors reach 100 %")
        assert f"IoU of {'' if share else 'at least '}{positive_iou:g}" in text
    assert report.anchors.advised.coverage.share_below == 0.0


def test_anchors_that_reach_fewer_objects_are_not_advised(monkeypatch):
    """At an IoU of 0.6, an anchor of 55 pixels reaches squares of 45 and 64, one of 64 only the latter."""
    monkeypatch.setattr(anchor_report, "fit_anchors", lambda *args, **kwargs: None)
    scales = {8: 32.0, 16: 55.0, 32: 128.0, 64: 256.0}
    levels = tuple(level(stride, [scale], [1.0]) for stride, scale in scales.items())
    train = make_dataset(*[[centred(64, label=2)]] * 9, [centred(45)])
    for positive_iou, is_advised in ((0.6, False), (0.5, True)):
        config = config_of(CLASSES, model={"anchors": levels}, loss={"positive_iou": positive_iou})
        report = report_on(config, train=train).anchors
        configured, fitted = (choice.coverage for choice in report.choices)
        assert fitted.mean_best_iou > configured.mean_best_iou + 0.2
        assert (configured.share_below, fitted.share_below) == (0.0, 0.0 if is_advised else 0.1)
        assert (report.advised is not None) == is_advised


@pytest.mark.parametrize(("metric", "expected"), [("coco", 1), ("voc", 0)])
def test_more_objects_than_coco_counts(metric, expected):
    crowd = [[square(9, 0.01 * number, 0.5) for number in range(50)] * count for count in (2, 3)]
    config = config_of(CLASSES, evaluation={"metric": metric})
    report = report_on(config, train=make_dataset(*good_images()), test=make_dataset(*crowd))
    start = "1 image of test with more than 100 objects of a class. COCO's metric counts the 100 best"
    assert sum(text.startswith(start) for text in texts(report, "problem")) == expected


@pytest.mark.parametrize(
    ("loss", "use"),
    [
        ({}, "Training learns nothing from them, as in the paper; with loss.background_negatives"),
        ({"background_negatives": 30}, "Training takes 30 negatives of each of them"),
        ({"classification": "focal"}, "The focal loss counts all of their anchors as negatives."),
    ],
)
def test_what_training_does_with_images_without_objects(loss, use):
    report = report_on(config_of(CLASSES, loss=loss), train=make_dataset(*good_images(), []))
    (text,) = [text for text in texts(report) if text.startswith("Images without an object: 1 of train (4.8")]
    assert use in text


def test_fitted_anchors_are_not_advised_again():
    small = [[square(20, 0.1 + 0.01 * number, 0.5)] for number in range(25)]
    first = report_on(train=make_dataset(*small)).anchors
    assert first.advised.levels not in (None, DEFAULT_LEVELS)
    config = config_of(CLASSES, model={"anchors": first.advised.levels})
    second = report_on(config, train=make_dataset(*small)).anchors
    assert second.choices[0].coverage == first.advised.coverage
    assert second.advised is None


def test_crowds_that_cannot_be_detected():
    config = config_of(CLASSES, postprocess={"max_detections": 3, "nms_iou": 0.5})
    near = [square(100), square(100, 0.05, 0.05), square(64, 0.5, 0.5), square(64, 0.7, 0.1)]
    sentences = "\n".join(texts(report_on(config, train=make_dataset(near, near))))
    assert "2 images of train with more than 3 objects, up to 4. Not all can be found: raise" in sentences
    assert "50 % of the training objects overlap another one of their class by an IoU above 0.5" in sentences


def test_training_without_an_object():
    assert texts(report_on(train=make_dataset([], [])), "problem") == [
        "2 classes without a single object in train: a, b. Nothing of them will be learned: check the "
        "spelling in data.classes."
    ]


def test_long_lists_are_cut():
    dataset = make_dataset(*good_images(9))
    report = report_on(train=dataset, test=dataset)
    same = [[("train", number), ("test", number)] for number in range(9)]
    start = "9 images of test are also in train, equal pixel for pixel: 0.jpg, 1.jpg, 2.jpg, 3.jpg and 5"
    sentences = texts(dataclasses.replace(report, same_images=same), "problem")
    assert any(text.startswith(start) for text in sentences)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1e-9, "0.01 %"),
        (0.0039, "0.39 %"),
        (0.05, "5 %"),
        (0.0654, "6.5 %"),
        (0.456, "46 %"),
        (0.9994, "99.94 %"),
        (1 - 1e-9, "99.99 %"),
        (1, "100 %"),
    ],
)
def test_percent(share, text):
    assert percent(share) == text


def test_plural():
    assert plural(1, "image") == "1 image"
    assert plural(1200, "image") == "1,200 images"
    assert plural(2, "class", "classes") == "2 classes"


@pytest.mark.parametrize(
    ("image_size", "now", "advised"),
    [
        ((480, 640), (320, 320), (288, 384)),
        ((683, 1024), (320, 320), (256, 384)),
        ((1024, 683), (320, 320), (384, 256)),
        ((1080, 1920), (320, 320), (224, 416)),
        ((480, 640), (512, 512), (448, 608)),
        ((480, 640), (288, 384), None),
        ((500, 520), (320, 320), None),
        ((100, 4000), (320, 320), (96, 1152)),
    ],
)
def test_input_size_of_the_shape_of_the_images(image_size, now, advised):
    better = better_input_size(np.full((5, 2), image_size), now)
    assert (better and better.size) == advised
    if better is not None:
        assert better.share == 1 and better.cost == np.prod(advised) / np.prod(now)


def test_images_of_several_shapes_have_no_input_size_of_their_own():
    sizes = np.array([(480, 640)] * 3 + [(640, 480)])
    assert better_input_size(sizes, IMAGE_SIZE) is None
    assert better_input_size(np.array([(480, 640)] * 9 + [(640, 480)]), IMAGE_SIZE).share == 0.9
    assert better_input_size(sizes[:0], IMAGE_SIZE) is None


def test_squeezed_images_are_a_finding():
    report = report_on(train=make_dataset(*good_images(), image_size=(480, 640)))
    assert (
        "100 % of the training images are about 1.33 times as wide as high, and the network's input is not: "
        "all objects are squeezed. model.image_size [288, 384] has their shape and 1.08 of the pixels, which "
        "the computation follows."
    ) in texts(report, "advice")
