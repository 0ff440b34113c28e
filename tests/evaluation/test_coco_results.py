"""Result files for COCO's evaluation server."""

import contextlib
import io
import json

import numpy as np
import pytest
from coco_layout import write_coco
from detection_scenes import CLASSES, make_dataset, make_detections, make_scene, two_detections
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refinedet_tf.config import DataConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import server_files
from refinedet_tf.evaluation.coco_ap import SUMMARY_NAMES, coco_average_precisions
from refinedet_tf.evaluation.server_files import COCO_CATEGORY_IDS, write_coco_results


@pytest.fixture
def scene():
    return make_scene()


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


def test_coco_entries(tmp_path):
    write_coco_results(*two_detections(), tmp_path / "results.json")
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
    write_coco_results(make_detections(), two_detections()[1], tmp_path / "results.json")
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
    detections, dataset = two_detections()
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
        write_coco_results(*two_detections(), tmp_path / "nowhere" / "results.json")
    with pytest.raises(InputError, match="max_detections must be at least 1, got 0"):
        write_coco_results(*two_detections(), tmp_path / "results.json", max_detections=0)
