"""evaluate.py beyond a single scale and its table: multi-scale, server files, soft-NMS."""

import json
import math
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

import evaluate
from refinedet_tf.config.files import load_config
from refinedet_tf.inference import multiscale
from refinedet_tf.refinedet.network import build_model
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


def test_multi_scale_says_what_it_costs(arguments, done, monkeypatch, tmp_path):
    monkeypatch.setattr(multiscale, "PASSES", {320: multiscale.PASSES[320][:3]})
    outputs = ["--json", tmp_path / "numbers.json", "--report", tmp_path / "report"]
    result = done(evaluate, *arguments, "--multi-scale", *outputs)
    assert "passes per image" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "multi-scale, 6 passes: " in result.out and " times slower" in result.out
    assert "4/4 images" in result.err
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    cost = numbers["multi_scale"]
    assert cost["passes"] == 6 and cost["ms_per_image"] > cost["single_scale_ms_per_image"] > 0
    assert 0 <= numbers["mAP"] <= 1 and "throughput" not in numbers


@pytest.mark.parametrize("multi_scale", [False, True])
def test_tiles_say_what_they_cost(arguments, done, devkit, monkeypatch, tmp_path, multi_scale):
    """The images have more than one tile; what is measured is what `TiledDetector` finds."""
    monkeypatch.setattr(multiscale, "PASSES", {320: multiscale.PASSES[320][:1]})
    outputs = ["--json", tmp_path / "numbers.json", "--report", tmp_path / "report"]
    options = ["--tiles", 150, "--tile-overlap", 0, *(["--multi-scale"] if multi_scale else [])]
    result = done(evaluate, *arguments, *options, *outputs)
    sizes = [Image.open(file).size for file in sorted((devkit / "VOC2007" / "JPEGImages").glob("val*"))]
    assert len(sizes) == 4
    tiles = [math.ceil(width / 150) * math.ceil(height / 150) for width, height in sizes]
    views = 1 + sum(count for count in tiles if count > 1) / 4
    assert views > 2
    passes = ", each in 2 passes" if multi_scale else ""
    assert f"tiles, {views:.1f} views per image{passes}: " in result.out and " times slower" in result.out
    cost = json.loads((tmp_path / "numbers.json").read_text())["tiles"]
    assert (cost["views_per_image"], cost["passes_per_view"]) == (views, 2 if multi_scale else 1)
    assert cost["ms_per_image"] > cost["whole_image_ms_per_image"] > 0
    assert "Detection on tiles" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def unlabelled(devkit, tmp_path):
    """The option for a split like VOC 2012 test, which has nothing to measure against."""
    root = shutil.copytree(devkit, tmp_path / "devkit")
    shutil.rmtree(root / "VOC2007" / "Annotations")
    return ["--set", f"data.root={root}"]


def test_test_split_without_annotations(arguments, done, refused, unlabelled, tmp_path):
    """Files for the server are written."""
    message = refused(evaluate, *arguments, *unlabelled)
    assert "data.test (2007/val) has no annotations to measure against: --server-files FOLDER" in message
    result = done(evaluate, *arguments, *unlabelled, "--server-files", tmp_path / "upload")
    assert str(tmp_path / "upload" / "results.tar.gz") in result.out
    assert "mAP" not in result.out
    with tarfile.open(tmp_path / "upload" / "results.tar.gz") as archive:
        names = sorted(archive.getnames())
        lines = archive.extractfile(names[0]).read().decode().splitlines()
    assert names[0] == "results/VOC2007/Main/comp4_det_val_circle.txt" and len(names) == 6
    assert {len(line.split()) for line in lines} <= {6}


def test_soft_nms_lowers_scores_of_overlapping_boxes(arguments):
    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.evaluation.evaluator import detect_portion, timed_replicas
    from refinedet_tf.inference.merging import merge_detections, soft_nms
    from refinedet_tf.weights import load_weights

    overrides = [f"data.classes={CLASSES}", *LOW[1::2], "postprocess.nms_iou=0.9"]
    config = load_config(arguments[1], overrides)
    soft = load_config(arguments[1], [*overrides, "evaluation.soft_nms=true"])
    model = build_model(config)
    load_weights(model, arguments[-1])
    dataset = read_dataset(config.data, "test")
    plain, found = (
        detect_portion(timed_replicas(model, each), each, dataset).detections for each in (config, soft)
    )
    expected = merge_detections(plain, dataset.image_sizes, soft_nms, 20)
    assert found.scores.sum() < plain.scores.sum()
    for name in ("images", "labels", "scores", "boxes"):
        assert (getattr(found, name) == getattr(expected, name)).all()


def test_report_and_coco_files(arguments, done, devkit, tmp_path):
    """The report has the numbers of --json, and a plain COCOeval of the files those of the metric."""
    from page_text import check_self_contained
    from pycocotools_program import pycocotools_summary

    folder, found = tmp_path / "new" / "report", tmp_path / "found.json"
    outputs = ["--report", folder, "--detections", found, "--json", tmp_path / "numbers.json"]
    outputs += ["--server-files", tmp_path / "upload"]
    root = tmp_path / "without_difficult"
    shutil.copytree(devkit, root)
    for file in (root / "VOC2007" / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<difficult>1<", "<difficult>0<"))
    sets = ["--set", "evaluation.metric=coco", "--set", f"data.root={root}"]
    result = done(evaluate, *arguments, *outputs, *sets)
    assert f"report written to {folder / 'report.html'}" in result.out
    assert (tmp_path / "upload" / "results.tar.gz").is_file()
    beside = tmp_path / "found_ground_truth.json"
    assert f"detections written to {found}, ground truth to {beside}" in result.out
    page = check_self_contained((folder / "report.html").read_text(encoding="utf-8"))
    assert page.title.startswith("Evaluation of ") and len(page.sections) == 7
    report, numbers = (
        json.loads(file.read_text()) for file in (folder / "report.json", tmp_path / "numbers.json")
    )
    assert {key: value for key, value in report.items() if key != "report"} == numbers
    names = [entry["name"] for entry in json.loads(beside.read_text())["categories"]]
    assert names == json.loads(CLASSES)
    assert "crowd regions" not in result.out
    measured = {name: np.nan if value is None else value for name, value in numbers["coco"].items()}
    assert pycocotools_summary(beside, found) == pytest.approx(measured, nan_ok=True, abs=0)


@pytest.mark.parametrize("option", ["--report", "--detections", "--server-files"])
def test_a_place_for_the_output_is_checked_before_the_work(arguments, refused, tmp_path, option):
    (tmp_path / "file").write_text("in the way")
    refused(evaluate, *arguments, option, tmp_path / "file" / "below")


@pytest.mark.parametrize("option", ["--report", "--detections"])
def test_report_needs_annotations(arguments, refused, unlabelled, tmp_path, option):
    options = [*unlabelled, "--server-files", tmp_path / "upload", option, tmp_path / "new"]
    message = refused(evaluate, *arguments, *options)
    assert f"{option} needs annotations, which data.test (2007/val) lacks" in message
