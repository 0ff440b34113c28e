"""The forms in which the result of an evaluation is shown: a table, JSON, precision-recall curves."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from refinedet_tf.config import ExpectedConfig
from refinedet_tf.evaluation.results import EvaluationResult, or_none
from refinedet_tf.files import explain_os_errors, write_text
from refinedet_tf.fonts import name_font

METRIC_TITLES = {
    "voc07": "AP of PASCAL VOC 2007, 11 points, IoU > 0.5",
    "voc": "AP of PASCAL VOC 2010 on, area under the curve, IoU > 0.5",
    "coco": "AP of COCO, IoU 0.50:0.95",
}
"""The title of the table and of the curves, by metric."""


LONG_TABLE = 20
"""A table of more classes than this is shortened to the worst and the best."""

_SHOWN = 5
"""The number of the worst and of the best classes in a shortened table."""


def to_text(
    result: EvaluationResult, expected: ExpectedConfig | None = None, all_classes: bool = True
) -> str:
    """Returns a table with one line per class, the mean, COCO's numbers, the speed and each replica's work.

    Args:
        result: the result of an evaluation.
        expected: the accuracy that the config states, which is shown with the measured mean; None: the
            config states none.
        all_classes: show every class; otherwise, of more than `LONG_TABLE` classes, the five of the lowest
            AP and the five of the highest.
    """
    width = max(len(name) for name in (*result.classes, "class"))
    row = f"{{:<{width}}}  {{:>6}}  {{:>7}}  {{:>10}}"
    lines = [METRIC_TITLES[result.metric], row.format("class", "AP", "objects", "detections")]
    names = list(result.classes)
    is_short = not all_classes and len(names) > LONG_TABLE
    if is_short:
        names = [name for name in names if not math.isnan(result.classes[name].ap)]
        names.sort(key=lambda name: result.classes[name].ap)
        names = [*names[:_SHOWN], *names[_SHOWN:][-_SHOWN:]]
    for number, name in enumerate(names):
        if is_short and number == _SHOWN:
            lines.append(f"... {len(result.classes) - len(names)} more classes; --all-classes shows them")
        class_result = result.classes[name]
        columns = _percent(class_result.ap), class_result.num_objects, class_result.num_detections
        lines.append(row.format(name, *columns))
    class_results = result.classes.values()
    num_objects = sum(class_result.num_objects for class_result in class_results)
    num_detections = sum(class_result.num_detections for class_result in class_results)
    lines.append(row.format("mAP", _percent(result.mean_ap), num_objects, num_detections))
    if any(math.isnan(class_result.ap) for class_result in class_results):
        lines.append("-: no object of the class to find; left out of the mean")
    if expected is not None:
        lines.append(
            f"measured {_percent(result.mean_ap)}, expected {_percent(expected.value)} "
            f"({expected.metric}; {expected.source}){_place_in_spread(result.mean_ap, expected)}"
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
            f"(batches of {speed.batch_size}{', on each replica' if len(result.work) > 1 else ''})"
        )
    if result.multi_scale is not None:
        cost = result.multi_scale
        lines.append(
            f"multi-scale, {cost.passes} passes: {cost.seconds * 1e3:.0f} ms/image; single scale: "
            f"{cost.single_seconds * 1e3:.0f} ms/image; {cost.seconds / cost.single_seconds:.1f} times slower"
        )
    if result.tiling is not None:
        tiling = result.tiling
        passes = f", each in {tiling.passes} passes" if tiling.passes > 1 else ""
        lines.append(
            f"tiles, {tiling.views:.1f} views per image{passes}: {tiling.seconds * 1e3:.0f} ms/image; "
            f"whole image alone: {tiling.whole_seconds * 1e3:.0f} ms/image; "
            f"{tiling.seconds / tiling.whole_seconds:.1f} times slower"
        )
    if len(result.work) > 1:
        lines += map(str, result.work)
    return "\n".join(lines)


def _place_in_spread(mean_ap: float, expected: ExpectedConfig) -> str:
    """Returns a text such as ": within the spread of 3 seeds, 79.30 to 83.90"; nothing without a spread."""
    if expected.spread is None or math.isnan(mean_ap):
        return ""
    # Both are compared in the digits that are shown.
    lowest, highest, measured = (round(value, 4) for value in (*expected.spread, mean_ap))
    place = "below" if measured < lowest else "above" if measured > highest else "within"
    seeds = f" of {expected.seeds} seeds" if expected.seeds else ""
    return f": {place} the spread{seeds}, {_percent(lowest)} to {_percent(highest)}"


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """Returns the result as a tree for `json.dumps`; nan becomes None.

    Returns:
        {"metric", "mAP", "AP": {class: 0..1}, "num_images"}, with "throughput": {"batch_size",
        "network_ms_per_image", "postprocess_ms_per_image", "network_images_per_second",
        "postprocess_images_per_second"}, the speed of one replica, and "replicas": [{"name", "images",
        "seconds"}] if a model ran, "multi_scale": {"passes", "ms_per_image", "single_scale_ms_per_image"}
        after multi-scale testing, "tiles": {"views_per_image", "passes_per_view", "ms_per_image",
        "whole_image_ms_per_image"} after detection on tiles, and "coco": {COCO's 12 names: 0..1} for the
        metric "coco".
    """
    tree: dict[str, Any] = {
        "metric": result.metric,
        "mAP": or_none(result.mean_ap),
        "AP": {name: or_none(class_result.ap) for name, class_result in result.classes.items()},
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
    if result.tiling is not None:
        tree["tiles"] = {
            "views_per_image": result.tiling.views,
            "passes_per_view": result.tiling.passes,
            "ms_per_image": result.tiling.seconds * 1e3,
            "whole_image_ms_per_image": result.tiling.whole_seconds * 1e3,
        }
    if result.work:
        tree["replicas"] = [dataclasses.asdict(work) for work in result.work]
    if result.coco is not None:
        tree["coco"] = {name: or_none(value) for name, value in result.coco.items()}
    return tree


def write_json(result: EvaluationResult, path: str | Path) -> None:
    """Writes the tree of `to_json` to a file.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(path, json.dumps(to_json(result), indent=2) + "\n")


def write_curves(result: EvaluationResult, path: str | Path) -> None:
    """Writes the precision-recall curves as a PNG with one panel per class.

    Raises:
        InputError: the file cannot be written.
    """
    columns = math.ceil(math.sqrt(len(result.classes)))
    rows = math.ceil(len(result.classes) / columns)
    figure = Figure(figsize=(max(2.3 * columns, 6.5), 2.3 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    font = name_font(list(result.classes))
    for panel, name, class_result in zip(panels, font.names, result.classes.values(), strict=False):
        title = f"{name}  {_percent(class_result.ap)}"
        # A name with two dollar signs is no formula.
        panel.set_title(title, font=FontProperties(fname=font.file, size=9), parse_math=False)
        panel.set(xlim=(0, 1), ylim=(0, 1.03))
        panel.tick_params(labelsize=7)
        panel.grid(color="0.9", linewidth=0.6)
        recall, precision = class_result.recall, class_result.precision
        if class_result.num_objects == 0:
            panel.text(0.5, 0.5, "no objects", ha="center", va="center", color="0.5", fontsize=9)
        elif len(recall) == 0:
            panel.text(0.5, 0.5, "no detections", ha="center", va="center", color="0.5", fontsize=9)
        else:
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            steps, heights = np.insert(recall, 0, 0.0), np.insert(envelope, 0, envelope[0])
            panel.fill_between(steps, heights, step="pre", color="#4477aa", alpha=0.18, linewidth=0)
            panel.plot(recall, precision, color="#4477aa", linewidth=1.2)
    for panel in panels[len(result.classes) :]:
        panel.set_visible(False)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision" if result.metric != "coco" else "precision at IoU 0.50", fontsize=9)
    figure.suptitle(f"{METRIC_TITLES[result.metric]}: mAP {_percent(result.mean_ap)}", fontsize=10)
    with explain_os_errors(path):
        figure.savefig(path, format="png", dpi=110)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
