import contextlib
import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from coco_layout import write_coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refinedet_tf.config import Config, DataConfig
from refinedet_tf.config_files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import server_files
from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES, coco_average_precisions
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.server_files import (
    COCO_CATEGORY_IDS,
    check_server_files,
    write_coco_results,
    write_server_files,
    write_voc_results,
)
from refinedet_tf.evaluation.voc_ap import average_precisions, class_average_precision
from refinedet_tf.inference.detections import DatasetDetections

CLASSES = ("zebra", "person", "toothbrush")
COLUMNS = {"images": np.int64, "labels": np.int32, "scores": np.float32, "boxes": np.float32}


def make_detections(*rows):
    """rows: (image, label, score, [ymin, xmin, ymax, xmax] normalised)."""
    columns = zip(*rows, strict=True) if rows else ([], [], [], np.zeros((0, 4)))
    return DatasetDetections(
        *(np.array(column, kind) for column, kind in zip(columns, COLUMNS.values(), strict=True))
    )


def make_dataset(image_ids, sizes, class_names=CLASSES, objects=(), coco=None):
    """objects: (image, label, normalised box, difficult), ordered by image."""
    images = np.array([row[0] for row in objects], np.int64)
    return SimpleNamespace(
        class_names=tuple(class_names),
        image_ids=tuple(image_ids),
        image_sizes=np.array(sizes, np.int32),
        labels=np.array([row[1] for row in objects], np.int32),
        boxes=np.array([row[2] for row in objects], np.float32).reshape(-1, 4),
        difficult=np.array([row[3] for row in objects], bool),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(images, minlength=len(image_ids)))]),
        coco=coco,
    )


@pytest.fixture
def scene():
    """12 images with 5 objects each, and detections that miss them more or less, in shuffled rows."""
    random = np.random.default_rng(3)
    sizes = random.integers(200, 640, (12, 2))
    objects, rows = [], []
    for image in range(12):
        for _ in range(5):
            corner, side = random.uniform(0, 0.6, 2), random.uniform(0.1, 0.4, 2)
            box, label = np.concatenate([corner, corner + side]), int(random.integers(1, 4))
            objects.append((image, label, box, random.random() < 0.2))
            for spread in (0.02, 0.05, 0.1):
                near = box + np.tile(side, 2) * random.normal(0, spread, 4)
                rows.append((image, label, random.random(), np.clip(near, 0, 1)))
    random.shuffle(rows)
    ids = [str(number) for number in random.permutation(1000)[:12]]
    return make_detections(*rows), make_dataset(ids, sizes, objects=objects)


def small():
    """One detection of each of two classes on images of 100 x 200 and 50 x 60 pixels."""
    detections = make_detections((1, 3, 0.25, [0, 0, 1, 1]), (0, 1, 0.123456789, [0.1, 0.2, 0.5, 0.6]))
    return detections, make_dataset(["73", "9"], [[100, 200], [50, 60]])


def coco_of(dataset):
    """A ground truth with COCO's ids for the objects of `scene`; difficult ones are crowds."""
    truth = COCO()
    sizes = np.tile(dataset.image_sizes, 2)
    corners = dataset.boxes.astype(np.float64) * np.repeat(sizes, np.diff(dataset.offsets), axis=0)
    images = np.repeat([int(name) for name in dataset.image_ids], np.diff(dataset.offsets))
    truth.dataset = {
        "images": [{"id": int(name)} for name in dataset.image_ids],
        "categories": [{"id": COCO_CATEGORY_IDS[name], "name": name} for name in CLASSES],
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(images[i]),
                "category_id": COCO_CATEGORY_IDS[CLASSES[dataset.labels[i] - 1]],
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                "area": (xmax - xmin) * (ymax - ymin),
                "iscrowd": int(dataset.difficult[i]),
            }
            for i, (ymin, xmin, ymax, xmax) in enumerate(corners.tolist())
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


# By config


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("image_info_test-dev2017.json:test2017", "detections_test-dev2017_my-run_results.json"),
        ("annotations/instances_minival2014.json:val2014", "detections_minival2014_my-run_results.json"),
        ("val2017", "detections_val2017_my-run_results.json"),
    ],
)
def test_coco_file_of_a_config(tmp_path, part, file):
    config = Config(name="my run", data=DataConfig(format="coco", test=(part,)))
    path = write_server_files(*small(), config, tmp_path / "new")
    assert path == tmp_path / "new" / file
    assert [entry["image_id"] for entry in json.loads(path.read_text())] == [73, 9]


def test_voc_files_of_a_config(tmp_path):
    config = Config(data=DataConfig(test=("2012/test",)))
    assert write_server_files(*small(), config, tmp_path) == tmp_path / "results.tar.gz"
    with tarfile.open(tmp_path / "results.tar.gz") as packed:
        assert packed.getnames()[0] == "results/VOC2012/Main/comp4_det_test_zebra.txt"


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        ({"test": ("2007/test", "2012/test")}, {}, "data.test joins 2007/test, 2012/test; an evaluation"),
        ({"test": ("2012/test",)}, {"class_names": ("a/b",)}, 'class "a/b" cannot be part of a file name'),
        ({"format": "coco", "test": ("val2017",)}, {"image_ids": ("a", "9")}, 'image id "a" is not a number'),
        (
            {"format": "coco", "test": ("val2017",)},
            {"class_names": ("cow", "sofa")},
            'class "sofa" is no cat',
        ),
    ],
)
def test_refused_before_the_work(tmp_path, data, change, message):
    dataset = small()[1]
    dataset.__dict__.update(change)
    with pytest.raises(InputError, match=message):
        check_server_files(dataset, Config(data=DataConfig(**data)), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="folder .*file cannot be made: File exists"):
        check_server_files(small()[1], Config(data=DataConfig(test=("2012/test",))), tmp_path / "file")


# COCO


def test_coco_entries(tmp_path):
    write_coco_results(*small(), tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": 73, "category_id": 24, "bbox": [40, 10, 80, 40], "score": 0.123456791},
        {"image_id": 9, "category_id": 90, "bbox": [0, 0, 60, 50], "score": 0.25},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_coco_scores_survive(tmp_path, scene):
    detections, dataset = scene
    write_coco_results(detections, dataset, tmp_path / "results.json")
    scores = [entry["score"] for entry in json.loads((tmp_path / "results.json").read_text())]
    np.testing.assert_array_equal(np.sort(np.float32(scores)), np.sort(detections.scores))


@pytest.mark.parametrize("with_ground_truth", [True, False])
def test_pycocotools_reads_the_same_accuracy(tmp_path, scene, with_ground_truth):
    detections, dataset = scene
    truth = coco_of(dataset)
    dataset.coco = truth
    summary, _ = coco_average_precisions(detections, dataset)
    assert 0.2 < summary["AP"] < 0.9
    dataset.coco = truth if with_ground_truth else None
    write_coco_results(detections, dataset, tmp_path / "results.json")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
    np.testing.assert_allclose(values, [summary[name] for name in SUMMARY_NAMES], atol=1e-9)


def test_the_best_of_each_image_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(server_files, "_ROWS_AT_ONCE", 2)
    box = [0, 0, 0.5, 0.5]
    scores = {0: (0.5, 0.9, 0.7, 0.9), 2: (0.2,), 1: (0.3, 0.3, 0.3, 0.1)}
    rows = [
        (image, label, score, box)
        for image, values in scores.items()
        for label, score in zip((1, 2, 3, 1), values, strict=False)
    ]
    dataset = make_dataset(["5", "6", "7"], [[10, 10]] * 3)
    write_coco_results(make_detections(*rows), dataset, tmp_path / "results.json", max_detections=3)
    found = [
        (entry["image_id"], entry["category_id"], round(entry["score"], 6))
        for entry in json.loads((tmp_path / "results.json").read_text())
    ]
    zebra, person, toothbrush = 24, 1, 90
    assert found == [
        *((5, person, 0.9), (5, zebra, 0.9), (5, toothbrush, 0.7)),
        *((6, zebra, 0.3), (6, person, 0.3), (6, toothbrush, 0.3)),
        (7, zebra, 0.2),
    ]


def test_coco_without_detections(tmp_path):
    write_coco_results(make_detections(), small()[1], tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_category_ids_are_those_of_coco():
    assert tuple(COCO_CATEGORY_IDS) == load_config("coco320.json").data.classes
    ids = list(COCO_CATEGORY_IDS.values())
    assert ids == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def test_results_of_images_without_annotations(tmp_path):
    tree = {
        "images": [{"id": 581929, "file_name": "a.jpg", "height": 100, "width": 200}],
        "categories": [{"id": 4, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    write_coco(tmp_path, tree, "annotations/image_info_test-dev2017.json", "test2017")
    data = DataConfig(
        format="coco",
        root=str(tmp_path),
        test=("image_info_test-dev2017.json:test2017",),
        classes=("dog", "cat"),
    )
    detections = make_detections((0, 1, 0.5, [0, 0, 0.5, 0.5]))
    write_coco_results(detections, read_dataset(data, "test"), tmp_path / "results.json")
    (entry,) = json.loads((tmp_path / "results.json").read_text())
    assert entry == {"image_id": 581929, "category_id": 7, "bbox": [0, 0, 100, 50], "score": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"class_names": ("zebra", "aeroplane", "cow")},
            'class "aeroplane" is no category of COCO: person, ',
        ),
        ({"image_ids": ("73", "val2017/9")}, 'image id "val2017/9" is not a number'),
        ({"class_names": ("zebra",)}, r"detection 0 has the label 3; it must lie in 1\.\.1"),
    ],
)
def test_coco_errors(tmp_path, change, message):
    detections, dataset = small()
    dataset.__dict__.update(change)
    with pytest.raises(InputError, match=message):
        write_coco_results(detections, dataset, tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


def test_coco_class_that_the_annotation_file_does_not_have(tmp_path, scene):
    detections, dataset = scene
    dataset.coco = coco_of(dataset)
    dataset.class_names = ("zebra", "person", "tooth")
    with pytest.raises(InputError, match=r'"tooth" is no category of the data set.s annotation file: zebra'):
        write_coco_results(detections, dataset, tmp_path / "results.json")


def test_coco_file_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.results\.json cannot be written: No such file"):
        write_coco_results(*small(), tmp_path / "nowhere" / "results.json")
    with pytest.raises(InputError, match="max_detections must be at least 1, got 0"):
        write_coco_results(*small(), tmp_path / "results.json", max_detections=0)


# VOC


def test_voc_files(tmp_path):
    archive = write_voc_results(*small(), tmp_path / "new" / "folder", 2012, "test")
    folder = tmp_path / "new" / "folder" / "results" / "VOC2012" / "Main"
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    assert texts == {
        "comp4_det_test_zebra.txt": "73 0.123456791 41.00 11.00 120.00 50.00\n",
        "comp4_det_test_person.txt": "",
        "comp4_det_test_toothbrush.txt": "9 0.25 1.00 1.00 60.00 50.00\n",
    }
    assert archive == tmp_path / "new" / "folder" / "results.tar.gz"
    assert sorted(file.name for file in archive.parent.iterdir()) == ["results", "results.tar.gz"]
    with tarfile.open(archive) as packed:
        inside = {entry.name: packed.extractfile(entry).read().decode() for entry in packed}
        assert {(entry.uid, entry.uname) for entry in packed} == {(0, "")}
    assert inside == {f"results/VOC2012/Main/{name}": text for name, text in texts.items()}


def test_voc_files_of_another_run_stay_out_of_the_archive(tmp_path):
    write_voc_results(*small(), tmp_path, "2012", "test", "comp3")
    with tarfile.open(write_voc_results(*small(), tmp_path, "2007", "val")) as packed:
        assert packed.getnames() == [f"results/VOC2007/Main/comp4_det_val_{name}.txt" for name in CLASSES]


@pytest.mark.parametrize("metric", ["voc07", "voc"])
def test_voc_files_read_back_give_the_same_accuracy(tmp_path, scene, metric, monkeypatch):
    monkeypatch.setattr(server_files, "_ROWS_AT_ONCE", 7)
    detections, dataset = scene
    write_voc_results(detections, dataset, tmp_path, "2012", "test")
    expected = average_precisions(detections, GroundTruth.from_dataset(dataset), CLASSES, metric)
    images = np.repeat(np.arange(12), np.diff(dataset.offsets))
    for label, name in enumerate(CLASSES, start=1):
        file = tmp_path / "results" / "VOC2012" / "Main" / f"comp4_det_test_{name}.txt"
        lines = [line.split(" ") for line in file.read_text().splitlines()]
        numbers = np.array([line[1:] for line in lines], np.float64)
        of_class = np.flatnonzero(dataset.labels == label)
        object_boxes = []
        for row in of_class:
            height, width = dataset.image_sizes[images[row]]
            ymin, xmin, ymax, xmax = dataset.boxes[row].astype(np.float64)
            object_boxes.append([ymin * height + 1, xmin * width + 1, ymax * height, xmax * width])
        result = class_average_precision(
            np.array([dataset.image_ids.index(line[0]) for line in lines]),
            numbers[:, 0],
            numbers[:, [2, 1, 4, 3]],
            images[of_class],
            np.array(object_boxes),
            dataset.difficult[of_class],
            metric,
        )
        assert result.num_detections == np.count_nonzero(detections.labels == label) > 20
        assert 0.2 < result.ap < 1
        assert result.ap == pytest.approx(expected[name].ap, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ("2012", "test", "comp2"), "the competition must be comp3 or comp4, got 'comp2'"),
        ({}, ("", "test"), 'year "" cannot be part of a file name'),
        ({}, ("2012", "../test"), r'image set "\.\./test" cannot be part of a file name'),
        ({"class_names": ("a/b", "c", "d")}, ("2012", "test"), 'class "a/b" cannot be part of a file name'),
        ({"image_ids": ("2007/73", "9")}, ("2012", "test"), 'image id "2007/73" cannot stand in VOC results'),
        (
            {"image_ids": ("73", "photo 9")},
            ("2012", "test"),
            'image id "photo 9" cannot stand in VOC results',
        ),
        ({"image_sizes": np.ones((1, 2), int)}, ("2012", "test"), "has the image 1; it must lie in 0..0"),
    ],
)
def test_voc_errors(tmp_path, change, arguments, message):
    detections, dataset = small()
    dataset.__dict__.update(change)
    if "image_sizes" in change:
        dataset.offsets = dataset.offsets[:2]
    with pytest.raises(InputError, match=message):
        write_voc_results(detections, dataset, tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_voc_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"zebra\.txt cannot be written: Not a directory"):
        write_voc_results(*small(), tmp_path / "file", "2012", "test")
