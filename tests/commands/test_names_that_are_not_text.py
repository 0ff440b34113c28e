"""Files whose names are not UTF-8, as an archive in Latin-1 leaves them: they are data as any other."""

import json
import os

import pytest
from training_config import training_tree
from yolo_layout import write_yolo

import evaluate
import inspect_data
import train
from refinedet_tf.errors import InputError
from refinedet_tf.exports import savedmodel
from refinedet_tf.run_folder import RunFolder

CAFE = os.fsdecode(b"caf\xe9")


@pytest.fixture
def config_file(tmp_path):
    """A config for images in YOLO's layout; the only one of `test` is cut off."""
    lines = dict.fromkeys((CAFE, f"{CAFE}2", "plain"), "0 .5 .5 .4 .4\n1 .5 .5 0 .4\n")
    splits = "train: images\nval: images\ntest: broken\nnames: [cat, dog]\n"
    root = write_yolo(tmp_path / "data", splits, size=(90, 60), **lines)
    (root / "broken").mkdir()
    whole = (root / "images" / f"{CAFE}.jpg").read_bytes()
    (root / "broken" / f"{CAFE}.jpg").write_bytes(whole[:-20])
    (root / "broken" / f"{CAFE}.txt").write_text(lines[CAFE])
    tree = training_tree(root)
    tree["data"] = {
        "format": "yolo",
        "root": str(root),
        "train": ["train"],
        "validation": ["val"],
        "test": ["val"],
        "max_bad_boxes": 1.0,
    }
    tree["training"] |= {"length": 1, "batch_size": 2}
    file = tmp_path / "cups.json"
    file.write_text(json.dumps(tree))
    return file


@pytest.mark.slow
def test_training_evaluation_and_inspection(config_file, command, eagerly, tmp_path):
    run, report = tmp_path / "run", tmp_path / "report"
    for module, *arguments in (
        (inspect_data, "--config", config_file, "--output", tmp_path / "inspected"),
        (train, "--config", config_file, "--output", run),
        (evaluate, "--config", run, "--report", report, "--detections", tmp_path / "found.json"),
    ):
        result = command(module, *arguments)
        assert result.code == 0, (module, result.err)
        assert (result.out + result.err).isascii()
    escaped = r"caf\udce9"
    assert escaped in (report / "report.html").read_text(encoding="utf-8")
    assert escaped in (tmp_path / "inspected" / "report.html").read_text(encoding="utf-8")
    defects = json.loads((run / "box_defects.json").read_text(encoding="utf-8"))
    assert escaped in json.dumps(defects)
    tree = json.loads((tmp_path / "found_ground_truth.json").read_text(encoding="utf-8"))
    assert [entry["file_name"] for entry in tree["images"]] == [f"{CAFE}.jpg", f"{CAFE}2.jpg", "plain.jpg"]

    with pytest.raises(InputError, match=r"image .*broken/caf.*\.jpg cannot be decoded"):
        evaluate.main(["--config", str(run), "--set", 'data.test=["test"]'])


def test_folders_in_which_tensorflow_could_not_write(tmp_path):
    folder = tmp_path / CAFE
    for write in (
        lambda: RunFolder(folder).check(resume=False),
        lambda: RunFolder(folder).check(resume=True),
        lambda: savedmodel._make_folder_aside(folder, version=None),
    ):
        with pytest.raises(InputError, match=r"caf\\udce9 cannot be written: the name is not UTF-8"):
            write()
    assert list(tmp_path.iterdir()) == []
