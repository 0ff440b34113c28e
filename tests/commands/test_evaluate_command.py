"""evaluate.py beyond a single scale and its table: multi-scale, server files, soft-NMS."""

import json
import shutil
import tarfile

import pytest

import evaluate
from refinedet_tf.config_files import load_config
from refinedet_tf.model import build_model
from refinedet_tf.weights import save_weights

CLASSES = '["circle", "cross", "rectangle", "ring", "star", "triangle"]'
LOW = ["--set", "postprocess.score_threshold=0.0", "--set", "postprocess.max_detections=20"]


@pytest.fixture
def arguments(config_file, devkit, small_network, tmp_path):
    """The options of a small network with random weights, which detects something everywhere."""
    settings = ["--set", f"data.classes={CLASSES}", *LOW]
    config = load_config(config_file, settings[1::2])
    save_weights(build_model(config), tmp_path / "random.weights.h5")
    return ["--config", config_file, *settings, "--weights", tmp_path / "random.weights.h5"]


def test_multi_scale_says_what_it_costs(arguments, command, tmp_path):
    result = command(evaluate, *arguments, "--multi-scale", "--json", tmp_path / "numbers.json")
    assert result.code == 0, result.err
    assert "multi-scale, 16 passes: " in result.out and " times slower" in result.out
    assert "4/4 images" in result.err
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    cost = numbers["multi_scale"]
    assert cost["passes"] == 16 and cost["ms_per_image"] > cost["single_scale_ms_per_image"] > 0
    assert 0 <= numbers["mAP"] <= 1 and "throughput" not in numbers


def test_test_split_without_annotations(arguments, command, refused, devkit, tmp_path):
    """A split like VOC 2012 test has nothing to measure against, but files for the server are written."""
    root = tmp_path / "devkit"
    shutil.copytree(devkit, root)
    shutil.rmtree(root / "VOC2007" / "Annotations")
    unlabelled = [*arguments, "--set", f"data.root={root}"]
    message = refused(evaluate, *unlabelled)
    assert "data.test (2007/val) has no annotations to measure against: --server-files FOLDER" in message
    result = command(evaluate, *unlabelled, "--server-files", tmp_path / "upload")
    assert result.code == 0, result.err
    assert str(tmp_path / "upload" / "results.tar.gz") in result.out
    assert "mAP" not in result.out
    with tarfile.open(tmp_path / "upload" / "results.tar.gz") as archive:
        names = sorted(archive.getnames())
        lines = archive.extractfile(names[0]).read().decode().splitlines()
    assert names[0] == "results/VOC2007/Main/comp4_det_val_circle.txt" and len(names) == 6
    assert {len(line.split()) for line in lines} <= {6}


def test_server_files_together_with_the_measurement(arguments, command, tmp_path):
    result = command(evaluate, *arguments, "--server-files", tmp_path / "upload")
    assert result.code == 0, result.err
    assert "mAP" in result.out and (tmp_path / "upload" / "results.tar.gz").is_file()


def test_folder_of_server_files_is_checked_before_the_work(arguments, refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(evaluate, *arguments, "--server-files", tmp_path / "file" / "upload")


def test_soft_nms_lowers_scores_of_overlapping_boxes(arguments):
    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.evaluation.evaluator import detect_all
    from refinedet_tf.inference.merging import merge_detections, soft_nms
    from refinedet_tf.weights import load_weights

    overrides = [f"data.classes={CLASSES}", *LOW[1::2], "postprocess.nms_iou=0.9"]
    config = load_config(arguments[1], overrides)
    soft = load_config(arguments[1], [*overrides, "evaluation.soft_nms=true"])
    model = build_model(config)
    load_weights(model, arguments[-1])
    dataset = read_dataset(config.data, "test")
    plain, _ = detect_all(model, config, dataset)
    found, _ = detect_all(model, soft, dataset)
    expected = merge_detections(plain, dataset.image_sizes, soft_nms, 20, clip=False)
    assert found.scores.sum() < plain.scores.sum()
    for name in ("images", "labels", "scores", "boxes"):
        assert (getattr(found, name) == getattr(expected, name)).all()
