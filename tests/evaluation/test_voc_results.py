"""Result files for VOC's evaluation server."""

import tarfile

import numpy as np
import pytest
from detection_scenes import CLASSES, make_scene, two_detections

from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import server_files
from refinedet_tf.evaluation.ground_truth import GroundTruth
from refinedet_tf.evaluation.server_files import write_voc_results
from refinedet_tf.evaluation.voc_ap import average_precisions, class_average_precision


@pytest.fixture
def scene():
    return make_scene()


def test_voc_files(tmp_path):
    archive = write_voc_results(*two_detections(), tmp_path / "new" / "folder", 2012, "test")
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
    write_voc_results(*two_detections(), tmp_path, "2012", "test", "comp3")
    with tarfile.open(write_voc_results(*two_detections(), tmp_path, "2007", "val")) as packed:
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
    detections, dataset = two_detections()
    dataset.__dict__.update(change)
    if "image_sizes" in change:
        dataset.offsets = dataset.offsets[:2]
    with pytest.raises(InputError, match=message):
        write_voc_results(detections, dataset, tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_voc_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"zebra\.txt cannot be written: Not a directory"):
        write_voc_results(*two_detections(), tmp_path / "file", "2012", "test")
