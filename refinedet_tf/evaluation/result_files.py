"""How the result of an evaluation is shown: as a table, as JSON, as precision-recall curves."""

import json
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from refinedet_tf.config import ExpectedConfig
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.files import explain_os_errors

METRIC_TITLES = {
    "voc07": "AP of PASCAL VOC 2007, 11 points, IoU > 0.5",
    "voc": "AP of PASCAL VOC 2010 on, area under the curve, IoU > 0.5",
    "coco": "AP of COCO, IoU 0.50:0.95",
}


def to_text(result: EvaluationResult, expected: ExpectedConfig | None = None) -> str:
    """A table with a line per class, the mean, COCO's numbers and the speed.

    Args:
        result: an `EvaluationResult`.
        expected: the config's `ExpectedConfig`, shown beside the measured mean; None: nothing.
    """
    width = max(len(name) for name in (*result.classes, "class"))
    lines = [METRIC_TITLES[result.metric], f"{'class':<{width}}      AP  objects  detections"]
    for name, one in result.classes.items():
        lines.append(
            f"{name:<{width}}  {_percent(one.ap):>6}  {one.num_objects:>7}  {one.num_detections:>10}"
        )
    objects = sum(one.num_objects for one in result.classes.values())
    found = sum(one.num_detections for one in result.classes.values())
    lines.append(f"{'mAP':<{width}}  {_percent(result.mean_ap):>6}  {objects:>7}  {found:>10}")
    if any(math.isnan(one.ap) for one in result.classes.values()):
        lines.append("-: no object of the class to find; left out of the mean")
    if expected is not None:
        lines.append(
            f"measured {_percent(result.mean_ap)}, expected {_percent(expected.value)} "
            f"({expected.metric}; {expected.source})"
        )
    if result.coco is not None:
        lines.append("  ".join(f"{name} {_percent(value)}" for name, value in result.coco.items()))
    lines.append(f"images: {result.num_images}")
    if result.throughput is not None:
        speed = result.throughput
        lines.append(
            f"network: {speed.network_seconds * 1e3:.1f} ms/image, "
            f"post-processing: {speed.postprocess_seconds * 1e3:.1f} ms/image, "
            f"together {1 / (speed.network_seconds + speed.postprocess_seconds):.1f} images/s "
            f"(batches of {speed.batch_size})"
        )
    if result.multi_scale is not None:
        cost = result.multi_scale
        lines.append(
            f"multi-scale, {cost.passes} passes: {cost.seconds * 1e3:.0f} ms/image; single scale: "
            f"{cost.single_seconds * 1e3:.0f} ms/image; {cost.seconds / cost.single_seconds:.1f} times slower"
        )
    return "\n".join(lines)


def to_json(result: EvaluationResult) -> dict:
    """An `EvaluationResult` as a tree for `json.dumps`; nan becomes None.

    Returns:
        {"metric", "mAP", "AP": {class: 0..1}, "num_images"}, with "throughput": {"batch_size",
        "network_ms_per_image", "postprocess_ms_per_image", "network_images_per_second",
        "postprocess_images_per_second"} where a model ran, "multi_scale": {"passes", "ms_per_image",
        "single_scale_ms_per_image"} after multi-scale testing, and "coco": {COCO's 12 names: 0..1} for
        the metric "coco".
    """
    tree = {
        "metric": result.metric,
        "mAP": _or_none(result.mean_ap),
        "AP": {name: _or_none(one.ap) for name, one in result.classes.items()},
        "num_images": result.num_images,
    }
    if result.throughput is not None:
        speed = result.throughput
        tree["throughput"] = {
            "batch_size": speed.batch_size,
            "network_ms_per_image": speed.network_seconds * 1e3,
            "postprocess_ms_per_image": speed.postprocess_seconds * 1e3,
            "network_images_per_second": 1 / speed.network_seconds,
            "postprocess_images_per_second": 1 / speed.postprocess_seconds,
        }
    if result.multi_scale is not None:
        cost = result.multi_scale
        tree["multi_scale"] = {
            "passes": cost.passes,
            "ms_per_image": cost.seconds * 1e3,
            "single_scale_ms_per_image": cost.single_seconds * 1e3,
        }
    if result.coco is not None:
        tree["coco"] = {name: _or_none(value) for name, value in result.coco.items()}
    return tree


def write_json(result: EvaluationResult, path: str | Path) -> None:
    """Writes `to_json` as a file.

    Raises:
        InputError: the file cannot be written.
    """
    with explain_os_errors(path):
        Path(path).write_text(json.dumps(to_json(result), indent=2) + "\n", encoding="utf-8")


def write_curves(result: EvaluationResult, path: str | Path) -> None:
    """Writes the precision-recall curve of every class as one PNG, a panel a class.

    Raises:
        InputError: the file cannot be written.
    """
    columns = math.ceil(math.sqrt(len(result.classes)))
    rows = math.ceil(len(result.classes) / columns)
    figure = Figure(figsize=(max(2.3 * columns, 6.5), 2.3 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, (name, one) in zip(panels, result.classes.items(), strict=False):
        panel.set_title(f"{name}  {_percent(one.ap)}", fontsize=9)
        panel.set(xlim=(0, 1), ylim=(0, 1.03))
        panel.tick_params(labelsize=7)
        panel.grid(color="0.9", linewidth=0.6)
        if one.num_objects == 0:
            panel.text(0.5, 0.5, "no objects", ha="center", va="center", color="0.5", fontsize=9)
        elif len(one.recall) == 0:
            panel.text(0.5, 0.5, "no detections", ha="center", va="center", color="0.5", fontsize=9)
        else:
            envelope = np.maximum.accumulate(one.precision[::-1])[::-1]
            recall, envelope = np.insert(one.recall, 0, 0.0), np.insert(envelope, 0, envelope[0])
            panel.fill_between(recall, envelope, step="pre", color="#4477aa", alpha=0.18, linewidth=0)
            panel.plot(one.recall, one.precision, color="#4477aa", linewidth=1.2)
    for panel in panels[len(result.classes) :]:
        panel.set_visible(False)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision" if result.metric != "coco" else "precision at IoU 0.50", fontsize=9)
    figure.suptitle(f"{METRIC_TITLES[result.metric]}: mAP {_percent(result.mean_ap)}", fontsize=10)
    with explain_os_errors(path):
        figure.savefig(path, format="png", dpi=110)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
