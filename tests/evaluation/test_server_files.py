"""The files for the evaluation servers: which of them a config asks for, and what is refused beforehand."""

import json
import tarfile

import pytest
from detection_scenes import two_detections

from refinedet_tf.config import Config, DataConfig
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.server_files import check_server_files, write_server_files


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


def test_voc_files_of_a_config(tmp_path):
    config = Config(data=DataConfig(test=("2012/test",)))
    assert write_server_files(*two_detections(), config, tmp_path) == tmp_path / "results.tar.gz"
    with tarfile.open(tmp_path / "results.tar.gz") as packed:
        assert packed.getnames()[0] == "results/VOC2012/Main/comp4_det_test_zebra.txt"


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        ({"test": ("2007/test", "2012/test")}, {}, "data.test joins 2007/test, 2012/test; an evaluation"),
        ({"test": ("2012/test",)}, {"class_names": ("a/b",)}, 'class "a/b" cannot be part of a file name'),
        (
            {"format": "yolo", "test": ("val",)},
            {},
            "data.format is yolo: only VOC and COCO have an evaluation",
        ),
        ({"format": "coco", "test": ("val2017",)}, {"image_ids": ("a", "9")}, 'image id "a" is not a number'),
        (
            {"format": "coco", "test": ("val2017",)},
            {"class_names": ("cow", "sofa")},
            'class "sofa" is no cat',
        ),
    ],
)
def test_refused_before_the_work(tmp_path, data, change, message):
    dataset = two_detections()[1]
    dataset.__dict__.update(change)
    with pytest.raises(InputError, match=message):
        check_server_files(dataset, Config(data=DataConfig(**data)), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    config = Config(data=DataConfig(test=("2012/test",)))
    with pytest.raises(InputError, match="folder .*file cannot be made: File exists"):
        check_server_files(two_detections()[1], config, tmp_path / "file")
