"""The report of an evaluation, read back from its page and its JSON."""

import dataclasses
import json
import math

import numpy as np
import pytest
from config_of import config_of
from detection_scenes import make_dataset, make_detections, make_scene
from page_text import check_self_contained
from PIL import Image

from refinedet_tf.evaluation.evaluator import score_detections
from refinedet_tf.evaluation.results import MultiScaleCost, Throughput
from refinedet_tf.reports import PAGE
from refinedet_tf.reports.errors.analysis import analyse, difficult_rule
from refinedet_tf.reports.errors.error_kinds import KINDS
from refinedet_tf.reports.errors.report_page import report_errors
from refinedet_tf.reports.pages import make_report_folder

SECTIONS = [
    *("Summary", "What the errors cost", "Classes", "Precision and recall", "Confusion", "Worst images"),
    "Speed",
]


@pytest.fixture
def scene(tmp_path):
    return with_images(*make_scene(), tmp_path)


def with_images(detections, dataset, folder):
    """Writes a grey image for each of the data set, and returns the arguments."""
    dataset.image_paths = tuple(str(folder / f"{name}.png") for name in dataset.image_ids)
    for path, (height, width) in zip(dataset.image_paths, dataset.image_sizes, strict=True):
        Image.new("RGB", (int(width), int(height)), (90, 90, 90)).save(path)
    return detections, dataset


def report_of(detections, dataset, folder, metric="voc", **speed):
    """(the parsed page, its HTML, the JSON) of a report."""
    result = dataclasses.replace(score_detections(detections, dataset, metric), **speed)
    make_report_folder(folder)
    page = report_errors(
        folder,
        result,
        detections,
        dataset,
        config_of(dataset.class_names, name="pets", data={"test": ("v",)}),
    )
    assert page == folder / PAGE
    html = page.read_text(encoding="utf-8")
    return check_self_contained(html), html, json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_page_and_json_have_the_same_numbers(scene, tmp_path, metric):
    page, html, tree = report_of(*scene, tmp_path / "report", metric, throughput=Throughput(8, 0.010, 0.005))
    assert page.title == "Evaluation of pets"
    assert list(page.sections) == SECTIONS
    report = tree["report"]
    kinds = {row[0]: row for row in page.tables["What the errors cost"][1:7]}
    assert list(kinds) == list(KINDS)
    for kind, entry in report["error_kinds"].items():
        assert kinds[kind][1:] == [str(entry["count"]), f"{100 * entry['cost']:.2f}"]
    rows = page.tables["Classes"][1:]
    assert [row[0] for row in rows] == sorted(tree["AP"], key=tree["AP"].get)
    for name, *cells in rows:
        best, sizes = report["classes"][name]["best_threshold"], report["classes"][name]["sizes"]
        large = sizes["large"]
        assert cells[1] == f"{100 * tree['AP'][name]:.1f}"
        assert cells[4] == f"{100 * large['AP50' if metric == 'voc' else 'AP']:.1f} ({large['objects']})"
        assert cells[5] == f"{best['score']:.3f}"
        assert cells[6:] == [f"{100 * best[key]:.1f}" for key in ("precision", "recall", "f1")]
    matrix = np.array(report["confusion"]["matrix"])
    assert report["confusion"]["names"][0] == "background"
    shown = page.tables["Confusion"][1 : len(matrix) + 1]
    numbers = [[0 if cell == "·" else int(cell.replace(",", "")) for cell in row[1:]] for row in shown]
    assert np.array(numbers).tolist() == np.roll(matrix, -1, axis=(0, 1)).tolist()
    assert f"{100 * report['AP50']:.1f}" in page.sections["What the errors cost"]
    worst = report["worst_images"]
    assert [entry["weight"] for entry in worst] == sorted((entry["weight"] for entry in worst), reverse=True)
    assert html.count("data:image/jpeg") == len(worst) > 3
    assert "66.7" in page.sections["Speed"]
    if metric == "coco":
        assert report["AP50"] == pytest.approx(tree["coco"]["AP50"], abs=1e-12)


def test_same_arguments_give_the_same_files(scene, tmp_path):
    first = report_of(*scene, tmp_path / "a")
    second = report_of(*scene, tmp_path / "b")
    assert first[1:] == second[1:]
    assert str(tmp_path) not in first[1]


def test_eighty_classes_are_short_at_first(tmp_path):
    names = [f"kind{number:02d}" for number in range(80)]
    box = [0.1, 0.1, 0.5, 0.5]
    objects = [(0, label, box, False) for label in range(1, 80)]
    rows = [(0, label, 0.5 + label / 200, box) for label in range(1, 80, 2)]
    detections, dataset = make_detections(*rows), make_dataset(["5"], [[200, 300]], names, objects)
    page, html, tree = report_of(*with_images(detections, dataset, tmp_path), tmp_path / "report")
    assert len(page.tables["Classes"]) == (1 + 10) + (1 + 80)
    assert html.count("<details>") == 3
    assert "left out of the mean (1): kind79." in page.sections["Summary"]
    assert "say little about a class (79): kind00 (1), kind01 (1)," in page.sections["Summary"]
    assert "Without objects to find: kind79." in page.sections["Precision and recall"]
    assert tree["AP"]["kind79"] is None
    assert tree["report"]["classes"]["kind79"]["precision"] is None
    assert len(tree["report"]["confusion"]["matrix"]) == 81


def test_names_are_escaped_and_errors_are_told(tmp_path):
    box, away = [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    detections = make_detections((0, 2, 0.9, box), (0, 1, 0.8, away))
    dataset = make_dataset(["5"], [[200, 300]], ("<b>cat", "dog"), [(0, 1, box, False)])
    page, html, tree = report_of(*with_images(detections, dataset, tmp_path), tmp_path / "report")
    assert "&lt;b&gt;cat" in html
    assert "<b>cat" not in html
    # No detection is right, so no class has a threshold, and no detection counts.
    assert tree["report"]["classes"]["<b>cat"]["best_threshold"] is None
    assert "5 (weight 1.0): not found: 1 <b>cat" in page.sections["Worst images"]
    assert "Fewer than 20 objects" in page.sections["Summary"]


def test_nothing_detected_and_nothing_to_find(scene, tmp_path):
    _, dataset = scene
    page, _, tree = report_of(make_detections(), dataset, tmp_path / "a")
    assert tree["mAP"] == tree["report"]["AP50"] == 0
    assert tree["report"]["error_kinds"]["missed"] == {"count": int((~dataset.difficult).sum()), "cost": 1.0}
    empty = make_dataset(["1"], [[20, 30]])
    page, _, tree = report_of(*with_images(make_detections(), empty, tmp_path), tmp_path / "b")
    assert "nothing can be measured" in page.sections["Summary"]
    assert page.sections["Worst images"].endswith("No image has an error at the best thresholds.")
    assert tree["report"]["AP50"] is None


def test_a_perfect_result_is_called_good(tmp_path):
    box = [0.1, 0.1, 0.5, 0.5]
    detections, dataset = (
        make_detections((0, 1, 0.9, box)),
        make_dataset(["5"], [[20, 30]], ("cat",), [(0, 1, box, False)]),
    )
    page, _, _ = report_of(
        *with_images(detections, dataset, tmp_path),
        tmp_path / "report",
        multi_scale=MultiScaleCost(16, 0.8, 0.05),
    )
    assert "No kind of error costs 1 point of mAP or more." in page.sections["Summary"]
    assert "There is no confusion." in page.sections["Confusion"]
    assert "16" in page.sections["Speed"]


def test_difficult_objects_are_ignored_as_the_metric_does(scene):
    detections, dataset = scene
    assert difficult_rule("voc", dataset) == difficult_rule("voc07", dataset) == "always"
    assert difficult_rule("coco", dataset) == "once"
    dataset.coco = object()
    assert difficult_rule("coco", dataset) == "crowd"
    dataset.coco = None
    voc, coco = (
        analyse(detections, dataset, score_detections(detections, dataset, metric))
        for metric in ("voc", "coco")
    )
    assert voc.matches.ignored.sum() > coco.matches.ignored.sum() > 0
    assert not math.isnan(voc.mean_ap50)
