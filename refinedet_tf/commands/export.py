"""Exports a trained model as a SavedModel, and as ONNX and LiteRT files where wanted."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.commands.options import add_model_options, config_from
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.config.files import run_folder_of
from refinedet_tf.data.image_header import MAX_PIXELS
from refinedet_tf.errors import InputError
from refinedet_tf.progress import ProgressPrinter
from refinedet_tf.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, exports and compares."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog="Thresholds and limits become part of the graph, e.g. --set postprocess.score_threshold=0.3 "
        "--set postprocess.max_detections=100. Whatever was written is compared with the model at the end.",
    )
    add_model_options(parser)
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="the folder of all versions, named as the model"
    )
    parser.add_argument(
        "--version", type=int, metavar="N", help="number of the version's folder (default: the next free)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: half the size, faster where the hardware has it, other detections at the thresholds",
    )
    parser.add_argument("--xla", action="store_true", help="have the server compile the network with XLA")
    parser.add_argument("--onnx", action="store_true", help="also write ONNX files, with and without NMS")
    parser.add_argument(
        "--onnx-batch", type=int, metavar="N", help="images per call of the ONNX files (default: any number)"
    )
    parser.add_argument(
        "--litert", action="store_true", help="also write LiteRT files (.tflite), with and without NMS"
    )
    parser.add_argument(
        "--litert-batch", type=int, metavar="N", help="images per call of the LiteRT files (default: 1)"
    )
    parser.add_argument(
        "--mediapipe",
        action="store_true",
        help="also write a file that MediaPipe's object detector opens, on phones and in browsers",
    )
    parser.add_argument(
        "--int8",
        nargs="+",
        metavar="IMAGE",
        help="also write files whose convolutions compute in int8, for --onnx, --litert and --mediapipe; "
        "files, folders or quoted patterns of images like those of the application, on which ranges are "
        "measured",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="pixels of the largest image file that the model decodes; larger ones are answered like files "
        "that are no images (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        nargs="+",
        metavar="IMAGE",
        help="files, folders or quoted patterns to compare on (default: generated images)",
    )
    parser.add_argument(
        "--check-split",
        choices=("validation", "test"),
        help="measure the mAP of the files in int8 and of the network on data.validation or data.test",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help="what evaluate.py --json wrote, for assets/model.json (default: a run's best validation)",
    )
    options = parser.parse_args(arguments)
    paths = find_images(options.check) if options.check else None
    calibration = find_images(options.int8) if options.int8 else None
    if options.check_split and calibration is None:
        raise InputError("--check-split measures files in int8: add --int8 IMAGES")
    config = config_from(options)
    # Whatever training computed in, its weights are float32.
    in_float32 = dataclasses.replace(config.training, precision="float32")
    model = load_model(dataclasses.replace(config, training=in_float32), options)

    from refinedet_tf.data.acceptance import read_labelled
    from refinedet_tf.evaluation.evaluator import check_dataset
    from refinedet_tf.exports.accuracy import accuracy_lines, measure_int8
    from refinedet_tf.exports.card import read_measured, validation_of_run
    from refinedet_tf.exports.check import ExportMismatch, Sample
    from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model

    export_options = ExportOptions(
        precision=options.precision,
        xla=options.xla,
        onnx=options.onnx or options.onnx_batch is not None,
        onnx_batch=options.onnx_batch,
        max_pixels=options.max_pixels,
        litert=options.litert or options.litert_batch is not None,
        litert_batch=1 if options.litert_batch is None else options.litert_batch,
        mediapipe=options.mediapipe,
        int8=calibration,
    )
    labelled = None
    if options.check_split:
        labelled = read_labelled(config.data, options.check_split)
        check_dataset(config, labelled)
    measured = None
    if options.evaluation is not None:
        measured = read_measured(options.evaluation, config)
    elif options.weights is None:
        measured = validation_of_run(RunFolder(run_folder_of(options.config)), config)
    samples = None if paths is None else [Sample.of_file(path) for path in paths]
    try:
        folder, comparisons = export_saved_model(
            model,
            config,
            options.output,
            options.version,
            options=export_options,
            measured=measured,
            samples=samples,
            progress=lambda doing: print(f"{doing} ...", file=sys.stderr, flush=True),
        )
    except ExportMismatch as error:
        raise SystemExit(f"error: {error}; nothing was exported") from None
    print(f"{folder}, compared with the network on {len(paths) if paths else 'generated'} images:")
    for comparison in comparisons:
        print(f"  {comparison}")
    if labelled is not None:
        results = measure_int8(folder, model, config, labelled, ProgressPrinter())
        names = ", ".join(getattr(config.data, options.check_split))
        print(f"mAP ({config.evaluation.metric}) on {names}, {len(labelled)} images:")
        for line in accuracy_lines(results):
            print(f"  {line}")
