"""Result files for the evaluation servers of COCO and VOC."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
from coco_layout import write_coco
from detection_scenes import CLASSES, make_dataset, make_detections, make_scene, two_detections
from pycocotools_program import pycocotools_summary

from refinedet_tf.config import Config, DataConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.data.coco_ground_truth import indexed
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import server_files
from refinedet_tf.evaluation.coco_ap import evaluate_coco
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.server_files import COCO_CATEGORY_IDS, check_server_files, write_server_files
from refinedet_tf.evaluation.voc_ap import average_precisions, class_average_precision
from refinedet_tf.pixel_boxes import coco_pixels, voc_pixels


@pytest.fixture
def scene():
    return make_scene()


def coco_of(dataset):
    """A ground truth with COCO's ids for the objects of `scene`; difficult ones are crowds."""
    objects = GroundTruth.from_dataset(dataset)
    ids = [int(name) for name in dataset.image_ids]
    boxes = coco_pixels(objects.boxes, dataset.image_sizes[objects.images]).tolist()
    return indexed(
        {
            "images": [{"id": number} for number in ids],
            "categories": [{"id": COCO_CATEGORY_IDS[name], "name": name} for name in CLASSES],
            "annotations": [
                {"id": number, "image_id": ids[image], "bbox": box, "area": box[2] * box[3]}
                | {"category_id": COCO_CATEGORY_IDS[CLASSES[label - 1]], "iscrowd": int(difficult)}
                for number, (image, label, box, difficult) in enumerate(
                    zip(objects.images, objects.labels, boxes, objects.difficult, strict=True), start=1
                )
            ],
        }
    )


def write_coco_results(detections, dataset, folder):
    """Returns the entries of the written file."""
    config = Config(data=DataConfig(format="coco", test=("val2017",)))
    return json.loads(write_server_files(detections, dataset, config, folder).read_text())


def write_voc_results(detections, dataset, folder, part="2012/test"):
    return write_server_files(detections, dataset, Config(data=DataConfig(test=(part,))), folder)


def test_coco_entries(tmp_path):
    assert write_coco_results(*two_detections(), tmp_path) == [
        {"image_id": 73, "category_id": 24, "bbox": [40, 10, 80, 40], "score": 0.123456791},
        {"image_id": 9, "category_id": 90, "bbox": [0, 0, 60, 50], "score": 0.25},
    ]
    assert len(list(tmp_path.iterdir())) == 1
    assert write_coco_results(make_detections(), two_detections()[1], tmp_path) == []


@pytest.mark.parametrize("with_ground_truth", [True, False])
def test_pycocotools_reads_the_same_accuracy(tmp_path, scene, with_ground_truth):
    detections, dataset = scene
    truth = coco_of(dataset)
    dataset.coco = truth
    summary, *_ = evaluate_coco(detections, dataset)
    assert 0.2 < summary["AP"] < 0.9
    dataset.coco = truth if with_ground_truth else None
    found = write_coco_results(detections, dataset, tmp_path)
    scores = np.float32([entry["score"] for entry in found])
    np.testing.assert_array_equal(np.sort(scores), np.sort(detections.scores))
    assert pycocotools_summary(truth, found) == pytest.approx(summary, abs=1e-9, nan_ok=True)


def test_the_best_of_each_image_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(server_files, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(server_files, "COCO_DETECTIONS", 3)
    box = [0, 0, 0.5, 0.5]
    scores = {0: (0.5, 0.9, 0.7, 0.9), 2: (0.2,), 1: (0.3, 0.3, 0.3, 0.1)}
    rows = [
        (image, label, score, box)
        for image, values in scores.items()
        for label, score in zip((1, 2, 3, 1), values, strict=False)
    ]
    dataset = make_dataset(["5", "6", "7"], [[10, 10]] * 3)
    found = [
        (entry["image_id"], entry["category_id"], round(entry["score"], 6))
        for entry in write_coco_results(make_detections(*rows), dataset, tmp_path)
    ]
    zebra, person, toothbrush = 24, 1, 90
    assert found == [
        *((5, person, 0.9), (5, zebra, 0.9), (5, toothbrush, 0.7)),
        *((6, zebra, 0.3), (6, person, 0.3), (6, toothbrush, 0.3)),
        (7, zebra, 0.2),
    ]


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
    (entry,) = write_coco_results(detections, read_dataset(data, "test"), tmp_path)
    assert entry == {"image_id": 581929, "category_id": 7, "bbox": [0, 0, 100, 50], "score": 0.5}


def test_voc_files(tmp_path):
    archive = write_voc_results(*two_detections(), tmp_path / "new" / "folder")
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
    write_voc_results(*two_detections(), tmp_path)
    with tarfile.open(write_voc_results(*two_detections(), tmp_path, "2007/val")) as packed:
        assert packed.getnames() == [f"results/VOC2007/Main/comp4_det_val_{name}.txt" for name in CLASSES]


@pytest.mark.parametrize("metric", ["voc07", "voc"])
def test_voc_files_read_back_give_the_same_accuracy(tmp_path, scene, metric, monkeypatch):
    monkeypatch.setattr(server_files, "_ROWS_AT_ONCE", 7)
    detections, dataset = scene
    write_voc_results(detections, dataset, tmp_path)
    truth = GroundTruth.from_dataset(dataset)
    object_boxes = voc_pixels(truth.boxes, dataset.image_sizes[truth.images])
    expected = average_precisions(detections, truth, CLASSES, metric)
    for label, name in enumerate(CLASSES, start=1):
        file = tmp_path / "results" / "VOC2012" / "Main" / f"comp4_det_test_{name}.txt"
        lines = [line.split(" ") for line in file.read_text().splitlines()]
        numbers = np.array([line[1:] for line in lines], np.float64)
        of_class = np.flatnonzero(dataset.labels == label)
        result = class_average_precision(
            np.array([dataset.image_ids.index(line[0]) for line in lines]),
            numbers[:, 0],
            numbers[:, [2, 1, 4, 3]],
            truth.images[of_class],
            object_boxes[of_class],
            dataset.difficult[of_class],
            metric,
        )
        assert result.num_detections == np.count_nonzero(detections.labels == label) > 20
        assert 0.2 < result.ap < 1
        assert result.ap == pytest.approx(expected[name].ap, abs=1e-12)


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
    path = write_server_files(*two_detections(), config, tmp_path / "new")
    assert path == tmp_path / "new" / file
    assert [entry["image_id"] for entry in json.loads(path.read_text())] == [73, 9]


COCO = {"format": "coco", "test": ("val2017",)}


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        ({"test": ("2007/test", "2012/test")}, {}, "data.test joins 2007/test, 2012/test; an evaluation"),
        ({"format": "yolo", "test": ("val",)}, {}, "data.format is yolo: only VOC and COCO have an evaluat"),
        ({"test": ("/test",)}, {}, 'year "" cannot be part of a file name'),
        ({"test": ("2012/../test",)}, {}, r'image set "\.\./test" cannot be part of a file name'),
        ({}, {"class_names": ("a/b", "c", "d")}, 'class "a/b" cannot be part of a file name'),
        ({}, {"image_ids": ("2007/73", "9")}, 'image id "2007/73" cannot stand in VOC results'),
        ({}, {"image_ids": ("73", "photo 9")}, 'image id "photo 9" cannot stand in VOC results'),
        (COCO, {"image_ids": ("73", "val2017/9")}, 'image id "val2017/9" is not a number'),
        (COCO, {"class_names": ("cow", "sofa")}, 'class "sofa" is no category of COCO: person, '),
        (
            COCO,
            {"coco": indexed({"images": [], "annotations": [], "categories": [{"id": 1, "name": "cow"}]})},
            'class "zebra" is no category of the data set.s annotation file: cow',
        ),
    ],
)
def test_refused_before_the_work(tmp_path, data, change, message):
    dataset = two_detections()[1]
    dataset.__dict__.update(change)
    config = Config(data=DataConfig(**{"test": ("2012/test",), **data}))
    with pytest.raises(InputError, match=message):
        check_server_files(dataset, config, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_coco_results, write_voc_results])
def test_labels_and_images_out_of_range(tmp_path, write):
    detections, dataset = two_detections()
    with pytest.raises(InputError, match=r"detection 0 has the label 3; it must lie in 1\.\.2"):
        write(detections, dataclasses.replace(dataset, class_names=("zebra", "cow")), tmp_path)
    one = {"image_ids": ("73",), "image_sizes": dataset.image_sizes[:1], "offsets": dataset.offsets[:2]}
    with pytest.raises(InputError, match="has the image 1; it must lie in 0..0"):
        write(detections, dataclasses.replace(dataset, **one), tmp_path)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "results").touch()
    config = Config(data=DataConfig(test=("2012/test",)))
    with pytest.raises(InputError, match="folder .*file cannot be made: File exists"):
        check_server_files(two_detections()[1], config, tmp_path / "file")
    with pytest.raises(InputError, match=r"zebra\.txt cannot be written: Not a directory"):
        write_voc_results(*two_detections(), tmp_path)
    (tmp_path / f"detections_val2017_{config.name}_results.json").mkdir()
    with pytest.raises(InputError, match=r"results\.json cannot be written: Is a directory"):
        write_coco_results(*two_detections(), tmp_path)
