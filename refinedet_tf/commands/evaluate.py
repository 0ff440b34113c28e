"""Measures accuracy and speed of a trained model."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.commands.options import add_model_options, add_multi_scale_option
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.errors import InputError
from refinedet_tf.progress import ProgressPrinter


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, detects on the test data and measures."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_model_options(parser)
    add_multi_scale_option(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="also draw precision and recall")
    parser.add_argument(
        "--server-files",
        type=Path,
        metavar="FOLDER",
        help="also write the detections as the evaluation server of VOC or COCO takes them",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first defect of the test data")
    arguments = parser.parse_args(arguments)
    for path in (arguments.json, arguments.curves):
        _check_output(path)

    config, model = load_model(arguments)
    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.evaluation import result_files
    from refinedet_tf.evaluation.evaluator import detect_all, detect_all_multi_scale, score_detections
    from refinedet_tf.evaluation.server_files import check_server_files, write_server_files

    dataset = read_dataset(config.data, "test", strict=arguments.strict)
    print(dataset.defects.summary())
    if not dataset.labelled and arguments.server_files is None:
        raise InputError(
            f"data.test ({', '.join(config.data.test)}) has no annotations to measure against: "
            "--server-files FOLDER writes what the evaluation server takes"
        )
    if arguments.server_files is not None:
        check_server_files(dataset, config, arguments.server_files)
    detect = detect_all_multi_scale if arguments.multi_scale else detect_all
    detections, cost = detect(model, config, dataset, ProgressPrinter())
    if arguments.server_files is not None:
        file = write_server_files(detections, dataset, config, arguments.server_files)
        print(f"for the evaluation server: {file}")
    if not dataset.labelled:
        return
    result = score_detections(detections, dataset, config.evaluation.metric)
    kind = "multi_scale" if arguments.multi_scale else "throughput"
    result = dataclasses.replace(result, **{kind: cost})
    print(result_files.to_text(result, config.expected))
    if arguments.json:
        result_files.write_json(result, arguments.json)
        print(f"numbers written to {arguments.json}")
    if arguments.curves:
        result_files.write_curves(result, arguments.curves)
        print(f"curves written to {arguments.curves}")


def _check_output(path: Path | None) -> None:
    """Refuses an output file that could not be written, before the long work begins."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; create it to write {path.name} there")
