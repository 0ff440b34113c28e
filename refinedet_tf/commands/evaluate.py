"""Measures accuracy and speed of a trained model."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refinedet_tf.commands.options import (
    add_model_options,
    add_view_options,
    config_from,
    take_data_folder,
    tiling_from,
)
from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_folder
from refinedet_tf.inference.tiles import Tiling
from refinedet_tf.progress import Progress, ProgressPrinter

if TYPE_CHECKING:
    from refinedet_tf.data.dataset import DetectionDataset
    from refinedet_tf.evaluation.portions import Portion
    from refinedet_tf.training.cluster import Cluster
    from refinedet_tf.training.workers import Workers


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, detects on the test data and measures."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_model_options(parser)
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="measure on the test part of this folder, as train --data finds it, and not on data.test",
    )
    add_view_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="also draw precision and recall")
    parser.add_argument(
        "--server-files",
        type=Path,
        metavar="FOLDER",
        help="also write the detections as the evaluation server of VOC or COCO takes them",
    )
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE.json",
        help="also write the detections as COCO results, and the ground truth as COCO JSON next to them",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also write a page on what goes wrong: kinds of errors, thresholds, confusion, worst images",
    )
    parser.add_argument(
        "--all-classes", action="store_true", help="print the AP of every class, however many there are"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first defect of the test data")
    options = parser.parse_args(arguments)
    take_data_folder(options)
    tiling = tiling_from(options)
    config = config_from(options)
    cluster = _cluster(config)
    if cluster is None or cluster.index == 0:
        for path in (options.json, options.curves, options.detections):
            _check_output(path)

    import_tensorflow()
    from refinedet_tf.training.workers import Workers

    with Workers(cluster, config.training.wait_for_workers, remedy="start all workers again") as workers:
        _evaluate(config, options, tiling, workers)
        workers.exchange("finished")


def _cluster(config: Config) -> "Cluster | None":
    """The machines that share the evaluation, or None if this process is alone.

    They are those of TF_CONFIG if the config's `training.strategy` is "multi_worker". Without TF_CONFIG the
    run of several machines is evaluated by this process.
    """
    if "TF_CONFIG" not in os.environ or config.training.strategy != "multi_worker":
        return None
    from refinedet_tf.training.cluster import read_cluster

    return read_cluster()


def _evaluate(config: Config, options: argparse.Namespace, tiling: Tiling | None, workers: "Workers") -> None:
    """Detects on the part of this worker; the first worker measures, prints and writes."""
    model = load_model(config, options, on_all_devices=True)
    from refinedet_tf.data.acceptance import check_labelled, check_share_of_bad_boxes
    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.evaluation.evaluator import (
        detect_portion,
        detect_portion_on_files,
        timed_replicas,
    )
    from refinedet_tf.evaluation.server_files import check_server_files
    from refinedet_tf.reports.pages import make_report_folder
    from refinedet_tf.training.agreement import join_workers
    from refinedet_tf.training.validation import detect_together

    writes = workers.index == 0
    dataset = read_dataset(config.data, "test", strict=options.strict)
    check_share_of_bad_boxes(dataset, config.data, "test")
    if writes:
        print(dataset.defects.summary())
    if options.server_files is None:
        advice = ": --server-files FOLDER writes what the evaluation server takes"
        check_labelled(dataset, config.data, "test", advice)
    if not dataset.labelled and (options.report or options.detections):
        option = "--report" if options.report else "--detections"
        raise InputError(f"{option} needs annotations, which data.test ({', '.join(config.data.test)}) lacks")
    if options.server_files is not None and writes:
        check_server_files(dataset, config, options.server_files)
    if options.report is not None and writes:
        make_report_folder(options.report)
    facts = {"--multi-scale": options.multi_scale, "--tiles": tiling and list(dataclasses.astuple(tiling))}
    join_workers(workers, facts, config, {"test set": dataset}, model.variables)

    def detect(progress: Progress, part: tuple[int, int]) -> "Portion":
        if options.multi_scale or tiling is not None:
            return detect_portion_on_files(
                model, config, dataset, progress, part, multi_scale=options.multi_scale, tiling=tiling
            )
        return detect_portion(timed_replicas(model, config), config, dataset, progress, part)

    progress = ProgressPrinter() if writes else None
    batch_size = config.evaluation.batch_size
    portion = detect_together(workers, len(dataset), batch_size, detect, progress=progress)
    if portion is not None:
        _write(portion, config, dataset, options)


def _write(
    portion: "Portion", config: Config, dataset: "DetectionDataset", options: argparse.Namespace
) -> None:
    """Measures the detections of all workers, prints the numbers and writes the files."""
    from refinedet_tf.evaluation import result_files
    from refinedet_tf.evaluation.coco_files import write_coco_files
    from refinedet_tf.evaluation.evaluator import score_portion
    from refinedet_tf.evaluation.limits import reached_limits, too_crowded
    from refinedet_tf.evaluation.server_files import write_server_files
    from refinedet_tf.reports.errors.report_page import report_errors

    if options.server_files is not None:
        file = write_server_files(portion.detections, dataset, config, options.server_files)
        print(f"for the evaluation server: {file}")
    if not dataset.labelled:
        return
    if options.detections is not None:
        ground_truth = write_coco_files(portion.detections, dataset, options.detections)
        print(f"detections written to {options.detections}, ground truth to {ground_truth}")
        if dataset.coco is None and dataset.difficult.any():
            print(
                f"{dataset.difficult.sum()} difficult objects are crowd regions there, so other programs may "
                "measure a slightly different AP"
            )
    result = score_portion(portion, config, dataset)
    print(result_files.to_text(result, config.expected, options.all_classes))
    for line in (
        *reached_limits(portion.cost.limited, portion.cost.inputs, portion.num_images, config),
        *too_crowded(dataset, config.evaluation),
    ):
        print(f"note: {line}")
    if options.json:
        result_files.write_json(result, options.json)
        print(f"numbers written to {options.json}")
    if options.curves:
        result_files.write_curves(result, options.curves)
        print(f"curves written to {options.curves}")
    if options.report is not None:
        page = report_errors(options.report, result, portion.detections, dataset, config)
        print(f"report written to {page}")


def _check_output(path: Path | None) -> None:
    """Refuses an output file that could not be written, before the long work begins."""
    if path is None:
        return
    if is_folder(path):
        raise InputError(f"{path} is a folder; name a file in it")
    if not is_folder(path.parent):
        folder, name = shortened_text(path.parent), shortened_text(path.name)
        raise InputError(f"the folder {folder} does not exist; create it to write {name} there")
