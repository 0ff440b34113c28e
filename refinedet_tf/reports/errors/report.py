"""The report of an evaluation: one self-contained HTML page, and the same numbers as JSON."""

import json
from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation import result_files
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.files import explain_os_errors, write_aside
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.reports.errors import analysis as analyses
from refinedet_tf.reports.errors.analysis import analyse
from refinedet_tf.reports.errors.report_page import render_report
from refinedet_tf.reports.pages import write_page

PAGE, NUMBERS = "report.html", "report.json"
"""The names of the two files in the folder of a report."""


def make_report_folder(folder: Path) -> None:
    """Makes the folder of a report, before the long work begins.

    Raises:
        InputError: it cannot be made.
    """
    with explain_os_errors(f"folder {folder}", "cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


def write_report(
    folder: Path,
    result: EvaluationResult,
    detections: DatasetDetections,
    dataset: DetectionDataset,
    config: Config,
) -> Path:
    """Writes `report.html` and `report.json`; each appears whole or not at all, and replaces an older one.

    Except for the speed in `result`, the same arguments give the same files.

    Args:
        folder: an existing folder.
        result: the accuracy and the speed.
        detections: the detections on all images of the dataset.
        dataset: the images and their ground truth.
        config: `name` and `data.test` are used.

    Returns:
        The file of the page.

    Raises:
        InputError: the reasons are those of `analyse`; or an image cannot be read, or a file cannot be
            written.
    """
    analysis = analyse(detections, dataset, result)
    tree = result_files.to_json(result) | {"report": analyses.to_json(analysis, dataset)}
    numbers, page = folder / NUMBERS, folder / PAGE
    with explain_os_errors(numbers):
        text = json.dumps(tree, indent=1) + "\n"
        write_aside(numbers, lambda aside: aside.write_text(text, encoding="utf-8"))
    write_page(page, render_report(result, analysis, dataset, config))
    return page
