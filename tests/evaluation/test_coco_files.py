"""COCO files of detections and ground truth, read back by pycocotools as any other program would."""

import dataclasses
import json

import numpy as np
import pytest
from coco_layout import write_coco
from detection_scenes import make_dataset, make_detections, make_scene
from pycocotools_program import pycocotools_summary

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.coco_ap import evaluate_coco
from refinedet_tf.evaluation.coco_files import ground_truth_file, write_coco_files


def with_paths(dataset):
    dataset.image_paths = tuple(f"data/{name}.jpg" for name in dataset.image_ids)
    return dataset


def write_truth(root, tree):
    """Reads `tree` as the test split of a COCO data set below `root`."""
    write_coco(root, tree, "annotations/instances_val.json", "val")
    return read_dataset(DataConfig(format="coco", root=str(root), train=("val",), test=("val",)), "test")


def test_data_of_other_formats(tmp_path):
    """Without difficult objects the numbers of pycocotools are those of the metric, to the last digit."""
    detections, dataset = make_scene()
    dataset.difficult[:] = False
    path = tmp_path / "found.json"
    beside = write_coco_files(detections, with_paths(dataset), path)
    assert beside == tmp_path / "found_ground_truth.json" == ground_truth_file(path)
    summary, *_ = evaluate_coco(detections, dataset)
    assert 0.2 < summary["AP"] < 0.9
    assert pycocotools_summary(beside, path) == summary
    results = json.loads(path.read_text())
    assert len(results) == len(detections.scores)
    np.testing.assert_array_equal(np.float32([row["score"] for row in results]), detections.scores)
    tree = json.loads(beside.read_text())
    assert tree["images"][3]["file_name"] == f"{dataset.image_ids[3]}.jpg"
    assert tree["categories"] == [
        {"id": label, "name": name} for label, name in enumerate(dataset.class_names, start=1)
    ]


def test_difficult_objects_become_crowd_regions(tmp_path):
    """The metric on the written files, read as COCO data, has pycocotools' numbers to the last digit."""
    detections, dataset = make_scene()
    path = tmp_path / "found.json"
    beside = write_coco_files(detections, with_paths(dataset), path)
    tree = json.loads(beside.read_text())
    assert [entry["iscrowd"] for entry in tree["annotations"]] == dataset.difficult.astype(int).tolist()
    assert {tuple(entry) for entry in tree["annotations"]} == {
        ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    }
    read = write_truth(tmp_path, tree)
    assert read.difficult.tolist() == dataset.difficult.tolist()
    summary, *_ = evaluate_coco(detections, read)
    assert pycocotools_summary(beside, path) == summary
    assert 0.2 < summary["AP"] < 0.9


def test_coco_data_keeps_ids_names_and_areas(tmp_path):
    tree = {
        "images": [
            {"id": 90, "file_name": "b.jpg", "height": 100, "width": 200},
            {"id": 7, "file_name": "a.jpg", "height": 50, "width": 60},
        ],
        "categories": [{"id": 44, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 90, "category_id": 44, "bbox": [0, 0, 50.5, 50], "area": 900, "iscrowd": 0},
            {"id": 6, "image_id": 7, "category_id": 3, "bbox": [5, 5, 30, 30], "area": 700.5, "iscrowd": 1},
            {"id": 9, "image_id": 7, "category_id": 3, "bbox": [1, 2, 20, 30], "area": 600, "iscrowd": 0},
        ],
    }
    dataset = write_truth(tmp_path, tree)
    detections = make_detections((0, 2, 0.75, [0, 0, 0.5, 0.25]), (1, 1, 0.5, [0.125, 0, 0.625, 0.5]))
    path = tmp_path / "found.json"
    summary, *_ = evaluate_coco(detections, dataset)  # It adds keys to the ground truth.
    beside = write_coco_files(detections, dataset, path)
    assert pycocotools_summary(beside, path) == pytest.approx(summary, nan_ok=True, abs=0)
    assert 0 < summary["AP"] < 1
    written = json.loads(beside.read_text())
    assert written["images"] == tree["images"]
    assert written["categories"] == [{"id": 3, "name": "cat"}, {"id": 44, "name": "dog"}]
    assert written["annotations"] == [
        entry | {"id": n} for n, entry in enumerate(tree["annotations"], start=1)
    ]
    assert json.loads(path.read_text()) == [
        {"image_id": 90, "category_id": 44, "bbox": [0.0, 0.0, 50.0, 50.0], "score": 0.75},
        {"image_id": 7, "category_id": 3, "bbox": [0.0, 6.25, 30.0, 25.0], "score": 0.5},
    ]


def test_classes_that_the_data_set_leaves_out_are_left_out(tmp_path):
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 0}],
    }
    both = write_truth(tmp_path, tree)
    dataset = dataclasses.replace(both, class_names=("cat",))
    path = tmp_path / "found.json"
    beside = write_coco_files(make_detections((0, 1, 0.5, [0, 0, 0.5, 0.5])), dataset, path)
    assert json.loads(beside.read_text())["categories"] == [{"id": 1, "name": "cat"}]
    assert pycocotools_summary(beside, path)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/2007/1.jpg", "/data/2012/1.jpg"], ["2007/1.jpg", "2012/1.jpg"]),
        (["{folder}/data/more/../images/a..1.png", "data/images/2.jpg"], ["a..1.png", "2.jpg"]),
    ],
)
def test_paths_are_those_below_the_common_folder(tmp_path, monkeypatch, paths, names):
    monkeypatch.chdir(tmp_path)
    dataset = make_dataset(["1", "2"], [[10, 10]] * 2)
    dataset.image_paths = [path.format(folder=tmp_path) for path in paths]
    beside = write_coco_files(make_detections(), dataset, tmp_path / "none.json")
    assert [entry["file_name"] for entry in json.loads(beside.read_text())["images"]] == names
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_bad_rows_and_places_are_refused(tmp_path):
    dataset = with_paths(make_dataset(["1"], [[10, 10]]))
    with pytest.raises(InputError, match="label 9"):
        write_coco_files(make_detections((0, 9, 0.5, [0, 0, 1, 1])), dataset, tmp_path / "a.json")
    with pytest.raises(InputError, match="missing"):
        write_coco_files(make_detections(), dataset, tmp_path / "missing" / "a.json")
