"""The report of an evaluation: one self-contained HTML page, and the same numbers as JSON."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.images import read_image
from refinedet_tf.errors import listed
from refinedet_tf.evaluation import result_files
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.reports import charts, pages
from refinedet_tf.reports.errors.analysis import Analysis, analyse, to_json
from refinedet_tf.reports.errors.curves import RECALL_LEVELS, interpolated_ap, interpolated_precision
from refinedet_tf.reports.errors.error_kinds import KINDS, MEANINGS
from refinedet_tf.reports.errors.findings import find_advice
from refinedet_tf.reports.errors.worst_images import ImageErrors, describe_error, draw_errors

MAX_CLASSES = 20
"""With more classes than this, long parts are short at first and whole after a click."""

_SHOWN, _SHOWN_CHARTS = 10, 6
"""The number of rows and of charts that a long part shows at first."""

_SIZES = ("small", "medium", "large")

_SHORT_KINDS = ("class", "local.", "both", "dupl.", "backgr.", "missed")
"""The kinds of errors below the bars of a chart, in the order of `KINDS`."""

_MISSING = "–"


def report_errors(
    folder: Path,
    result: EvaluationResult,
    detections: DatasetDetections,
    dataset: DetectionDataset,
    config: Config,
) -> Path:
    """Writes the report. Except for the speed in `result`, the same arguments give the same files.

    The folder exists. The worst images of the dataset are read and drawn. Returns the file of the page.

    Raises:
        InputError: the reasons are those of `analyse`; or an image cannot be read, or a file cannot be
            written.
    """
    analysis = analyse(detections, dataset, result)
    numbers = result_files.to_json(result) | {"report": to_json(analysis, dataset)}
    return pages.write_report(folder, _page(result, analysis, dataset, config), numbers)


def _page(result: EvaluationResult, analysis: Analysis, dataset: DetectionDataset, config: Config) -> str:
    num_objects = sum(item.num_objects for item in result.classes.values())
    num_detections = sum(item.num_detections for item in result.classes.values())
    subtitle = (
        f"{', '.join(config.data.test)}: {result.num_images:,} images, {num_objects:,} objects of "
        f"{len(result.classes)} classes, {num_detections:,} detections. mAP {_percent(result.mean_ap)} "
        f"({result_files.METRIC_TITLES[result.metric]})."
    )
    sections = [
        pages.Section(
            "Summary", [pages.Findings(find_advice(result, analysis)), *_summary(result, analysis)]
        ),
        pages.Section("What the errors cost", _error_kinds(analysis)),
        pages.Section("Classes", _classes(result, analysis)),
        pages.Section("Precision and recall", _curves(result, analysis)),
        pages.Section("Confusion", _confusion(analysis, dataset.class_names)),
        pages.Section("Worst images", _worst_images(analysis, dataset)),
        pages.Section("Speed", _speed(result)),
    ]
    return pages.render_page(f"Evaluation of {config.name}", subtitle, sections)


def _summary(result: EvaluationResult, analysis: Analysis) -> list[pages.Block]:
    if result.coco is not None:
        rows = [[f"{name} of COCO", _percent(value)] for name, value in result.coco.items()]
    else:
        rows = [
            [f"mAP ({result_files.METRIC_TITLES[result.metric]})", _percent(result.mean_ap)],
            ["mAP of COCO at IoU 0.50", _percent(analysis.mean_ap50)],
        ]
    return [pages.Table(["number", "%"], rows)]


def _error_kinds(analysis: Analysis) -> list[pages.Block]:
    counts = analysis.errors.count()
    rows: list[list[str | int]] = [[kind, counts[kind], _percent(analysis.costs[kind], 2)] for kind in KINDS]
    costs = [_finite(100 * analysis.costs[kind]) for kind in KINDS]
    return [
        pages.Text(
            "The kinds of errors of TIDE (Bolya et al., ECCV 2020). The cost of a kind is the rise of mAP at "
            f"IoU 0.50 (now {_percent(analysis.mean_ap50)}, computed as COCO does) if all errors of that "
            "kind, and no others, were fixed. The costs do not add up to the distance from 100. All "
            "detections count, however low their score."
        ),
        pages.Columns(
            [
                charts.BarChart(
                    "Cost by kind", _SHORT_KINDS, {"cost": costs}, y_title="points of mAP at IoU 0.50"
                ),
                pages.Table(["kind", "errors", "cost"], rows),
            ],
        ),
        pages.Table(["kind", "what it is"], [[kind, MEANINGS[kind]] for kind in KINDS], text_columns=2),
    ]


def _classes(result: EvaluationResult, analysis: Analysis) -> list[pages.Block]:
    at_50 = result.metric != "coco"
    what = "IoU 0.50" if at_50 else "IoU 0.50:0.95"
    rows: list[list[str | int]] = []
    for name in _worst_first(result):
        item = analysis.classes[name]
        best = item.threshold
        rows.append(
            [
                name,
                result.classes[name].num_objects,
                _percent(result.classes[name].ap),
                *(
                    _size_cell(item.sizes[size].ap50 if at_50 else item.sizes[size].ap, found)
                    for size, found in ((size, item.sizes[size].num_objects) for size in _SIZES)
                ),
                *(
                    [_MISSING] * 4
                    if best is None
                    else [f"{best.score:.3f}", *map(_percent, (best.precision, best.recall, best.f1))]
                ),
            ]
        )
    header = ["class", "objects", "AP", *_SIZES, "threshold", "precision", "recall", "F1"]
    return [
        pages.Text(
            "The worst class comes first. AP is that of the metric. Small, medium and large are COCO's AP at "
            f"{what} (number of objects in brackets), by the area of an object in pixels of its image: up to "
            "32 x 32, up to 96 x 96, and more. The threshold is the score with the largest F1 at IoU 0.50; "
            "precision, recall and F1 are those of the detections of this score or more. Everything but the "
            "threshold is in percent."
        ),
        *_shortened(header, rows),
    ]


def _curves(result: EvaluationResult, analysis: Analysis) -> list[pages.Block]:
    curves: list[pages.Block] = []
    without = []
    for name in _worst_first(result):
        curve = analysis.classes[name].curve
        if not curve.num_objects:
            without.append(name)
            continue
        title = f"{name}: {_percent(interpolated_ap(curve))}"
        line = (RECALL_LEVELS, interpolated_precision(curve))
        curves.append(charts.LineChart(title, {"precision": line}, x_title="recall", y_title="precision"))
    blocks: list[pages.Block] = [
        pages.Text(
            "Precision at IoU 0.50 for each recall, interpolated as COCO does; the number is the AP of this "
            "curve, COCO's AP50."
        )
    ]
    if without:
        blocks.append(pages.Text(f"Without objects to find: {listed(without)}."))
    first = curves if len(curves) <= MAX_CLASSES else curves[:_SHOWN_CHARTS]
    blocks.append(pages.Columns(first, min_width=300))
    if len(curves) > len(first):
        rest = pages.Columns(curves[len(first) :], min_width=300)
        blocks.append(pages.Details(f"The other {len(curves) - len(first)} classes", [rest]))
    return blocks


def _confusion(analysis: Analysis, class_names: Sequence[str]) -> list[pages.Block]:
    matrix = analysis.confusion
    names = ["background", *class_names]
    pairs = [
        (int(matrix[truth, detected]), truth, detected)
        for truth, detected in zip(*np.nonzero(matrix), strict=True)
        if truth != detected
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    rows = [
        [
            names[truth] if truth else "nothing",
            names[detected] if detected else "not found",
            count,
            f"{100 * count / matrix[truth].sum():.1f}" if truth else _MISSING,
        ]
        for count, truth, detected in pairs[:_SHOWN]
    ]
    order = [*range(1, len(names)), 0]
    table = pages.Table(
        ["truth \\ detected", *class_names, "not found"],
        [
            [names[truth], *(int(matrix[truth, detected]) or "·" for detected in order)]
            for truth in order
            if truth
        ]
        + [["nothing there", *(int(matrix[0, detected]) or "·" for detected in order)]],
    )
    blocks: list[pages.Block] = [
        pages.Text(
            "Which class is taken for which, at the best threshold of each class and IoU 0.50. The last row "
            "counts detections where there is no object, the last column objects that nothing found. "
            "Detections of the right class are paired with the objects first, the others by IoU."
        )
    ]
    if len(class_names) <= MAX_CLASSES:
        blocks.append(table)
    blocks.append(
        pages.Table(
            ["truth", "detected", "count", "% of the class"],
            rows,
            text_columns=2,
            caption="The most frequent confusions" if rows else "There is no confusion.",
        )
    )
    if len(class_names) > MAX_CLASSES:
        blocks.append(pages.Details(f"The matrix of all {len(class_names)} classes", [table]))
    return blocks


def _worst_images(analysis: Analysis, dataset: DetectionDataset) -> list[pages.Block]:
    if not analysis.worst:
        return [pages.Text("No image has an error at the best thresholds.")]
    return [
        pages.Text(
            f"The {len(analysis.worst)} images with the largest weight of errors at the best threshold of "
            "each class: an object that is not found counts 1, a wrong detection counts its score. Objects "
            "are white, right detections green, objects that are not found yellow, and wrong detections red "
            "with their score in percent and the kind of error."
        ),
        pages.Columns([_picture(errors, analysis, dataset) for errors in analysis.worst], min_width=320),
    ]


def _picture(image_errors: ImageErrors, analysis: Analysis, dataset: DetectionDataset) -> pages.Picture:
    pixels = read_image(dataset.image_paths[image_errors.image], dataset.image_sizes[image_errors.image])
    names = dataset.class_names
    drawn = draw_errors(pixels, image_errors, analysis.matches, analysis.errors, names)
    labels = analysis.matches.ground_truth.labels[image_errors.not_found].tolist()
    parts = []
    if labels:
        counts = np.bincount(labels)
        numbers = [f"{counts[label]} {names[label - 1]}" for label in np.flatnonzero(counts).tolist()]
        parts.append(f"not found: {', '.join(numbers)}")
    if image_errors.wrong.size:
        shown = [
            describe_error(row, analysis.matches, analysis.errors, names)
            for row in image_errors.wrong[:4].tolist()
        ]
        more = f" and {image_errors.wrong.size - 4} more" if image_errors.wrong.size > 4 else ""
        parts.append(f"wrong: {', '.join(shown)}{more}")
    image_id = dataset.image_ids[image_errors.image]
    caption = f"{image_id} (weight {image_errors.weight:.1f}): {'; '.join(parts)}"
    return pages.Picture.from_pixels(drawn, f"errors on image {image_id}", caption, quality=80)


def _speed(result: EvaluationResult) -> list[pages.Block]:
    if result.throughput is not None:
        speed = result.throughput
        seconds = speed.network_seconds + speed.postprocess_seconds
        rows: list[list[str | int]] = [
            ["images per batch", speed.batch_size],
            ["network, ms per image", f"{1e3 * speed.network_seconds:.1f}"],
            ["post-processing, ms per image", f"{1e3 * speed.postprocess_seconds:.1f}"],
            ["images per second", f"{1 / seconds:.1f}"],
        ]
        note = "Reading and decoding files is not included."
    elif result.multi_scale is not None:
        cost = result.multi_scale
        rows = [
            ["passes per image", cost.passes],
            ["all passes, ms per image", f"{1e3 * cost.seconds:.0f}"],
            ["a single scale, ms per image", f"{1e3 * cost.single_seconds:.0f}"],
        ]
        note = "Multi-scale testing, with warping included."
    elif result.tiling is not None:
        tiling = result.tiling
        rows = [
            ["views per image, the whole image and its tiles", f"{tiling.views:.1f}"],
            ["passes per view", tiling.passes],
            ["all views, ms per image", f"{1e3 * tiling.seconds:.0f}"],
            ["the whole image alone, ms per image", f"{1e3 * tiling.whole_seconds:.0f}"],
        ]
        note = "Detection on tiles, with warping included."
    else:
        return [pages.Text("The speed was not measured.")]
    return [pages.Text(note), pages.Table(["what", "value"], rows)]


def _worst_first(result: EvaluationResult) -> list[str]:
    """Returns the names of the classes by ascending AP; those without objects come last."""
    aps = {name: item.ap for name, item in result.classes.items()}
    return sorted(aps, key=lambda name: math.inf if math.isnan(aps[name]) else aps[name])


def _shortened(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> list[pages.Block]:
    """Returns a table, of which only the first rows are shown at first if there are many."""
    if len(rows) <= MAX_CLASSES:
        return [pages.Table(header, rows)]
    return [
        pages.Table(header, rows[:_SHOWN]),
        pages.Details(f"All {len(rows)} classes", [pages.Table(header, rows)]),
    ]


def _size_cell(ap: float, num_objects: int) -> str:
    return f"{_percent(ap)} ({num_objects})" if num_objects else _MISSING


def _percent(value: float, digits: int = 1) -> str:
    return _MISSING if math.isnan(value) else f"{100 * value:.{digits}f}"


def _finite(value: float) -> float:
    return max(value, 0.0) if math.isfinite(value) else 0.0
