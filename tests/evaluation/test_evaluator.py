import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from PIL import Image
from small_datasets import dataset_of
from tiers import slow

import evaluate as command
from refinedet_tf.commands import evaluate as evaluate_command
from refinedet_tf.config import EvaluationConfig, ExpectedConfig, PostprocessConfig
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import result_files
from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES
from refinedet_tf.evaluation.evaluator import detect_portion, evaluate, score_portion, timed_replicas
from refinedet_tf.evaluation.limits import reached_limits, too_crowded
from refinedet_tf.evaluation.results import ClassResult, EvaluationResult, Throughput
from refinedet_tf.refinedet import boxes as box_ops
from refinedet_tf.refinedet.anchors import tile_anchors

CLASSES = ("cat", "dog", "cow")
NUM_IMAGES = 7
ALL_IMAGES = tuple(range(NUM_IMAGES))
BATCH_SIZE = 3

OBJECTS = [
    (0, 1, [0.10, 0.10, 0.55, 0.60]),
    (0, 2, [0.50, 0.30, 0.95, 0.90]),
    (1, 1, [0.20, 0.05, 0.70, 0.45]),
    (3, 2, [0.05, 0.40, 0.60, 0.95]),
    (4, 1, [0.00, 0.00, 1.00, 1.00]),
    (6, 1, [0.30, 0.30, 0.75, 0.85]),
]
"""(image, label, normalised box); images 2 and 5 have none, the class cow has none."""


class Oracle:
    """A model that reads the image's index from its brightness and gives heads for its objects."""

    variables = ()

    def __init__(self, blind_to=()):
        anchors = tile_anchors((64, 64))
        shape = (NUM_IMAGES, len(anchors))
        self.heads = {
            "arm_loc": np.zeros((*shape, 4), np.float32),
            "arm_conf": np.tile(np.float32([9, -9]), (*shape, 1)),
            "odm_loc": np.zeros((*shape, 4), np.float32),
            "odm_conf": np.tile(np.float32([9, -9, -9, -9]), (*shape, 1)),
        }
        for image, label, box in OBJECTS:
            if image in blind_to:
                continue
            box = np.array(box, np.float32)
            anchor = int(np.argmax(np.array(box_ops.pairwise_iou(box[None], anchors))[0]))
            self.heads["arm_conf"][image, anchor] = [-9, 9]
            self.heads["odm_loc"][image, anchor] = np.array(box_ops.encode(box, anchors[anchor]))
            self.heads["odm_conf"][image, anchor] = np.where(np.arange(4) == label, 9, -9)
        self.num_traces = 0

    def __call__(self, images, training):
        assert training is False
        self.num_traces += 1
        image = tf.cast(tf.round(images[:, 0, 0, 0] / 10), tf.int32)
        return {name: tf.gather(tf.constant(value), image) for name, value in self.heads.items()}


def make_dataset(folder):
    """Seven images of different sizes; image i has the brightness 10 * i."""
    sizes = np.array([[40 + 10 * i, 90 - 5 * i] for i in range(NUM_IMAGES)], np.int32)
    paths = [folder / f"{i}.png" for i in range(NUM_IMAGES)]
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        Image.fromarray(np.full((*size, 3), 10 * i, np.uint8)).save(path)
    images = [[(label, *box) for image, label, box in OBJECTS if image == i] for i in ALL_IMAGES]
    return dataset_of(images, sizes, CLASSES, paths)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("images"))


def make_config(metric="voc07", image_size=(64, 64), classes=CLASSES, expected=None):
    return config_of(
        classes,
        model={"image_size": image_size},
        evaluation={"metric": metric, "batch_size": BATCH_SIZE},
        expected=expected,
    )


@pytest.fixture(scope="module")
def portions(dataset):
    """What models detect that do not see the objects of some images, by the numbers of these images."""
    config = make_config()
    return {
        blind_to: detect_portion(timed_replicas(Oracle(blind_to), config), config, dataset)
        for blind_to in ((), (6,), ALL_IMAGES)
    }


@pytest.mark.parametrize(
    ("blind_to", "metric", "ap"),
    [
        *(((), metric, 1.0) for metric in ("voc07", "voc", "coco")),
        # The cat that is missed lies in the last batch, which is short.
        ((6,), "voc07", 8 / 11),
        ((6,), "voc", 3 / 4),
        ((6,), "coco", 76 / 101),
        *((ALL_IMAGES, metric, 0.0) for metric in ("voc07", "voc", "coco")),
    ],
)
def test_ap_of_models_that_miss_objects(blind_to, metric, ap, dataset, portions):
    result = score_portion(portions[blind_to], make_config(metric), dataset)
    dogs = 0.0 if blind_to == ALL_IMAGES else 1.0
    aps = [entry.ap for entry in result.classes.values()]
    assert aps == pytest.approx([ap, dogs, np.nan], nan_ok=True)
    assert result.mean_ap == pytest.approx((ap + dogs) / 2)
    found = [sum(label == each and i not in blind_to for i, label, _ in OBJECTS) for each in (1, 2, 3)]
    assert [entry.num_detections for entry in result.classes.values()] == found
    assert [entry.num_objects for entry in result.classes.values()] == [4, 2, 0]
    assert result.num_images == NUM_IMAGES
    assert result.throughput.batch_size == BATCH_SIZE
    assert (result.coco is not None) == (metric == "coco")


def test_detections_belong_to_their_images_and_nothing_is_traced_twice(tf_test, dataset):
    oracle, seen = Oracle(), []
    config = make_config()
    replicas = timed_replicas(oracle, config)
    detections = detect_portion(replicas, config, dataset, lambda *args: seen.append(args[:2])).detections
    assert sorted(zip(detections.images.tolist(), detections.labels.tolist(), strict=True)) == [
        (image, label) for image, label, _ in OBJECTS
    ]
    order = np.lexsort([detections.labels, detections.images])
    tf_test.assertAllClose(detections.boxes[order], dataset.boxes, rtol=1e-7, atol=1e-5)
    assert oracle.num_traces == 1
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.slow
def test_detectors_that_are_used_again_forget_what_they_measured_and_keep_their_graphs(tf_test, dataset):
    """So do the validations of a run."""
    oracle, config = Oracle(), make_config()
    replicas = timed_replicas(oracle, config, dataset)
    first, second = (detect_portion(replicas, config, dataset) for _ in range(2))
    assert oracle.num_traces == 1
    tf_test.assertAllEqual(first.detections.boxes, second.detections.boxes)
    assert first.loss_sums == second.loss_sums and sum(first.loss_sums) > 0
    assert [work.images for work in second.work] == [NUM_IMAGES]


def test_evaluation_is_silent_without_progress(dataset, capfd):
    assert evaluate(Oracle(), make_config("coco"), dataset).mean_ap == pytest.approx(1.0)
    assert capfd.readouterr().out == ""


def test_wrong_input_is_named(tmp_path):
    dataset = make_dataset(tmp_path)
    with pytest.raises(
        InputError, match=r"classes \(cat, dog, cow\) are not those of data.classes \(cat, cow, dog\)"
    ):
        evaluate(Oracle(), make_config(classes=("cat", "cow", "dog")), dataset)
    Path(dataset.image_paths[4]).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"4\.png cannot be decoded"):
        evaluate(Oracle(), make_config(), dataset)


def make_result():
    curve = np.array([0.5, 1.0]), np.array([1.0, 2 / 3]), np.array([0.9, 0.4])
    empty = np.zeros(0)
    classes = {
        "cat": ClassResult(0.75, *curve, num_objects=2, num_detections=3),
        "dog": ClassResult(0.0, empty, empty, empty, num_objects=4, num_detections=0),
        "cow": ClassResult(float("nan"), *(np.full(2, np.nan),) * 3, num_objects=0, num_detections=2),
    }
    return EvaluationResult("voc", 0.375, classes, 11, Throughput(8, 0.02, 0.005))


def test_json_names_every_number_and_has_no_nan():
    tree = json.loads(json.dumps(result_files.to_json(make_result()), allow_nan=False))
    assert tree == {
        "metric": "voc",
        "mAP": 0.375,
        "AP": {"cat": 0.75, "dog": 0.0, "cow": None},
        "num_images": 11,
        "throughput": {
            "batch_size": 8,
            "network_ms_per_image": 20.0,
            "postprocess_ms_per_image": 5.0,
            "network_images_per_second": 50.0,
            "postprocess_images_per_second": 200.0,
        },
    }


def test_table_shows_every_class_the_mean_the_claim_and_the_speed():
    expected = ExpectedConfig(metric="VOC mAP", value=0.4, source="a paper")
    lines = result_files.to_text(make_result(), expected).splitlines()
    rows = [line.split() for line in lines]
    assert rows[1:6] == [
        ["class", "AP", "objects", "detections"],
        ["cat", "75.00", "2", "3"],
        ["dog", "0.00", "4", "0"],
        ["cow", "-", "0", "2"],
        ["mAP", "37.50", "6", "5"],
    ]
    assert len({len(line) for line in lines[1:6]}) == 1
    assert "measured 37.50, expected 40.00 (VOC mAP; a paper)" in lines
    assert any("network: 20.0 ms/image, post-processing: 5.0 ms/image" in line for line in lines)
    assert "expected" not in result_files.to_text(make_result())


@pytest.mark.parametrize(
    ("spread", "seeds", "end"),
    [
        ((0.37496, 0.5), 3, ": within the spread of 3 seeds, 37.50 to 50.00"),
        ((0.3, 0.375), None, ": within the spread, 30.00 to 37.50"),
        ((0.376, 0.5), 3, ": below the spread of 3 seeds, 37.60 to 50.00"),
        ((0.3, 0.3749), 2, ": above the spread of 2 seeds, 30.00 to 37.49"),
    ],
)
def test_table_says_where_the_result_lies_in_the_spread(spread, seeds, end):
    expected = ExpectedConfig(metric="mAP", value=spread[1], spread=spread, seeds=seeds, source="a paper")
    (line,) = [
        line for line in result_files.to_text(make_result(), expected).splitlines() if "expected" in line
    ]
    assert line.endswith(f"(mAP; a paper){end}")


def test_long_table_is_short_unless_all_classes_are_asked_for():
    """Of 30 classes the five of the lowest AP and the five of the highest are shown; the mean is over all."""
    empty = np.zeros(0)
    aps = np.random.default_rng(0).permutation(29) / 100
    classes = {
        f"kind{n:02d}": ClassResult(float(ap), empty, empty, empty, 3, 7)
        for n, ap in enumerate([*aps, float("nan")])
    }
    result = EvaluationResult("voc", 0.14, classes, 4)
    short = result_files.to_text(result, all_classes=False).splitlines()
    assert [line.split()[1] for line in short[2:7]] == ["0.00", "1.00", "2.00", "3.00", "4.00"]
    assert short[7] == "... 20 more classes; --all-classes shows them"
    assert [line.split()[1] for line in short[8:13]] == ["24.00", "25.00", "26.00", "27.00", "28.00"]
    assert short[13].split() == ["mAP", "14.00", "90", "210"]
    full = result_files.to_text(result).splitlines()
    assert [line.split()[0] for line in full[2:32]] == list(classes)
    few = EvaluationResult("voc", 0.14, dict(list(classes.items())[:20]), 4)
    assert result_files.to_text(few, all_classes=False) == result_files.to_text(few)


def test_curves_are_drawn_for_every_class(tmp_path):
    """A name with dollars is no formula."""
    result = make_result()
    classes = {r"$\bad$" if name == "cow" else name: found for name, found in result.classes.items()}
    result_files.write_curves(dataclasses.replace(result, classes=classes), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 400
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    assert (0x44, 0x77, 0xAA) in colors  # the one curve that there is


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    for write in (result_files.write_curves, result_files.write_json):
        with pytest.raises(InputError, match="missing.file cannot be written: No such file"):
            write(make_result(), tmp_path / "missing" / "file")


@pytest.mark.parametrize(
    "key,limit,images,line",
    [
        ("pre_nms_per_image", 1, 5, "5 of 7 images have 1 or more candidates before NMS"),
        slow("pre_nms_per_image", 2, 1, "1 of 7 images have 2 or more candidates before NMS"),
        slow("pre_nms_per_image", 3, 0, None),
        ("pre_nms_per_class", 1, 5, "5 of 7 images have 1 or more candidates of a class before NMS"),
        slow("pre_nms_per_class", 2, 0, None),
    ],
)
def test_reached_limits_are_counted_and_named(dataset, key, limit, images, line):
    limits = {"pre_nms_per_image": None, key: limit}
    config = dataclasses.replace(make_config(), postprocess=PostprocessConfig(**limits))
    replicas = timed_replicas(Oracle(), config, dataset)
    # Detectors that are used again count anew.
    share, again = (detect_portion(replicas, config, dataset) for _ in range(2))
    expected = (images, 0) if key == "pre_nms_per_image" else (0, images)
    assert share.cost.limited == again.cost.limited == expected
    assert share.cost.inputs == NUM_IMAGES
    lines = reached_limits(share.cost.limited, share.cost.inputs, NUM_IMAGES, config)
    assert len(lines) == (line is not None)
    assert all(text.startswith(line) and f"a larger postprocess.{key} uses more" in text for text in lines)


def test_images_with_more_objects_than_coco_counts_are_named(dataset):
    crowded = dataclasses.replace(
        dataset,
        boxes=np.tile(np.float32([0, 0, 1, 1]), (402, 1)),
        labels=np.repeat(np.int32([1, 2, 1, 2]), (100, 100, 101, 101)),
        difficult=np.arange(402) >= 301,
        offsets=np.array([0, 200, 301, 402, 402, 402, 402, 402]),
    )
    (line,) = too_crowded(crowded, EvaluationConfig(metric="coco"))
    assert line.startswith("1 of 7 images have more than 100 objects of a class, but COCO's metric counts")
    assert too_crowded(crowded, EvaluationConfig(metric="voc")) == []
    assert too_crowded(dataset, EvaluationConfig(metric="coco")) == []


def test_command_prints_and_writes(dataset, tmp_path, monkeypatch, capsys):
    config = make_config("coco", expected=ExpectedConfig(metric="AP", value=0.9, source="a paper"))
    config = dataclasses.replace(config, postprocess=PostprocessConfig(pre_nms_per_image=2))
    monkeypatch.setattr(evaluate_command, "config_from", lambda _: config)
    monkeypatch.setattr(evaluate_command, "load_model", lambda *_, **__: Oracle())
    monkeypatch.setattr("refinedet_tf.data.dataset.read_dataset", lambda *args, **kwargs: dataset)
    files = tmp_path / "numbers.json", tmp_path / "curves.png"
    command.main(["--config", "shapes.json", "--json", str(files[0]), "--curves", str(files[1])])
    printed = capsys.readouterr().out
    assert "measured 100.00, expected 90.00 (AP; a paper)" in printed
    assert "note: 1 of 7 images have 2 or more candidates before NMS" in printed
    assert all(f"written to {file}" in printed for file in files)
    tree = json.loads(files[0].read_text())
    assert tree["mAP"] == pytest.approx(1.0)
    assert tuple(tree["coco"]) == SUMMARY_NAMES
    with Image.open(files[1]) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("option", ["--json", "--curves"])
def test_command_refuses_an_impossible_output_before_the_work(option, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_command, "load_model", lambda *_, **__: pytest.fail("the long work began"))
    for file, message in (
        (tmp_path / "missing" / "a", "the folder .*missing does not"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            command.main(["--config", "shapes.json", option, str(file)])
