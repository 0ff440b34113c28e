"""Speed, size, memory, start and accuracy of everything that is exported:

    python benchmarks/exports.py --config runs/mine --int8 photos/ --check-split test --plot exports.png

Compares the network in this process ("model") with its SavedModel, with its ONNX files in onnxruntime and,
if that is installed, in OpenVINO (`pip install openvino`), and with its LiteRT files, in float32, bfloat16
and int8 where the form exists, on the CPU: the network alone, from pixels of its own size to raw heads, and
the whole detector, from 640 x 480 pixels (or from JPEG files, "files") to detections. The forms run in turns,
so that other work on the machine meets all of them alike; `ratio` is the time divided by that of the model
in float32. Memory and start are those of a fresh process that runs one image: the peak of the memory, the
processor seconds for importing the runtime, and then for loading and the first answer.
On a machine with other work, `--one-thread` measures the processor time of one thread, because threads wait
for each other when other programs take their processors.
Prints one JSON line. Without a run folder or --weights the weights are random.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import export_tables
import networks
import numpy as np
import timing
from export_forms import has_openvino, network_forms, scenes, whole_forms, write_forms
from export_runtimes import Form, load

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.files import is_folder

if TYPE_CHECKING:
    from refinedet_tf.data.dataset import DetectionDataset

IMAGE_SIZE = (480, 640)
"""(height, width) in pixels of the images that the whole detector takes."""

Row = dict[str, Any]
"""The figures of one form."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, exports, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    networks.add_network_options(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--runs", type=int, default=10, help="measured runs of each (default: 10)")
    parser.add_argument("--one-thread", action="store_true", help="one thread, and its processor time")
    parser.add_argument(
        "--starts", type=int, default=3, help="fresh processes of each form (default: 3; 0: none)"
    )
    parser.add_argument("--int8", nargs="+", metavar="IMAGE", help="for the ranges (default: generated)")
    parser.add_argument("--check-split", choices=("validation", "test"), help="measure the mAP on it")
    parser.add_argument("--network-only", action="store_true", help="leave out the whole detector")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="write a table in Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw accuracy against latency")
    parser.add_argument("--exports", type=Path, metavar="FOLDER", help="keep the exports, or use those there")
    options = parser.parse_args(arguments)
    if options.plot and not options.check_split:
        raise InputError("--plot draws accuracy against latency: add --check-split")
    calibration_images = find_images(options.int8) if options.int8 else None
    if not has_openvino():
        print("note: OpenVINO is not installed and left out", file=sys.stderr)

    # Whatever training computed in, its weights are float32.
    options.overrides.append("training.precision=float32")
    threads = 1 if options.one_thread else os.cpu_count() or 1
    _limit_tensorflow(threads)
    config, model = networks.load_network(options)
    dataset = _read_split(config, options.check_split) if options.check_split else None
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.exports or Path(temporary) / "exports"
        if not is_folder(folder):
            # The folder appears when all files are there.
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            write_forms(model, config, unfinished, options.batches, calibration_images)
            unfinished.rename(folder)
        rows: list[Row] = []
        for batch in options.batches:
            rows += _measure("network", network_forms(folder, batch, threads), config, options.runs)
            if not options.network_only:
                rows += _measure("whole", whole_forms(folder, batch, threads), config, options.runs)
        forms = network_forms(folder, 1, threads)
        facts = [{"form": form.name, "size_mb": round(form.megabytes(), 2)} for form in forms]
        if options.starts:
            _add(facts, _measure_starts(forms, config, options.starts))
        if dataset is not None:
            _add(facts, _measure_accuracy(forms, config, dataset))
    result = {
        "config": config.name,
        "backbone": config.model.backbone,
        "image_size": config.model.image_size,
        "device": networks.device_name(),
        "runs": options.runs,
        "threads": threads,
        "forms": facts,
        "rows": rows,
    }
    print(json.dumps(result))
    if options.table:
        options.table.write_text(export_tables.markdown(result), encoding="utf-8")
    if options.plot:
        export_tables.draw(result, options.plot)


def _limit_tensorflow(threads: int) -> None:
    """Gives TensorFlow a number of threads, before it starts them."""
    import_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _measure(stage: str, forms: Sequence[Form], config: Config, runs: int) -> list[Row]:
    """Times forms of the same batch in turns; returns a row per form, also printed to stderr.

    With one thread, the time is that of the processor.
    """
    inputs = {function: _input(function, forms[0].batch, config) for function in ("heads", "whole", "files")}
    calls = {f"{form.name} {form.function}": partial(load(form), inputs[form.function]) for form in forms}
    clock = time.process_time if forms[0].threads == 1 else time.perf_counter
    milliseconds = timing.measure_in_turns(calls, runs, settle=True, clock=clock)
    reference = float(np.median(next(iter(milliseconds.values()))))
    rows: list[Row] = []
    for form, values in zip(forms, milliseconds.values(), strict=True):
        spread = timing.spread(values)
        rows.append(
            {
                "stage": stage,
                "batch": form.batch,
                "form": form.name + (" files" if form.function == "files" else ""),
                "ms": spread["median"],
                "p10": spread["p10"],
                "p90": spread["p90"],
                "images_per_second": round(1e3 * form.batch / spread["median"], 2),
                "ratio": round(spread["median"] / reference, 3),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _input(function: str, batch: int, config: Config) -> Any:
    """Returns what a form with this `function` takes."""
    import tensorflow as tf

    images = scenes(batch, IMAGE_SIZE)
    if function == "heads":
        return tf.image.resize(images, config.model.image_size).numpy()
    if function == "files":
        return [tf.io.encode_jpeg(image).numpy() for image in images]
    return images


def _measure_starts(forms: Sequence[Form], config: Config, starts: int) -> list[Row]:
    """Starts a fresh process per form, in turns; returns the medians of what each prints."""
    assert config.model.image_size is not None
    shape = [1, *config.model.image_size, 3]
    measured: list[list[Row]] = [[] for _ in forms]
    for _ in range(starts):
        for form, rows in zip(forms, measured, strict=True):
            tree = dataclasses.asdict(form) | {"input_shape": shape}
            program = Path(__file__).with_name("export_runtimes.py")
            done = subprocess.run(
                [sys.executable, str(program), json.dumps(tree)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return [
        {
            key: None if rows[0][key] is None else round(float(np.median([row[key] for row in rows])), 2)
            for key in rows[0]
        }
        for rows in measured
    ]


class _File:
    """A form in the place of an exported file for any number of images, see `ExportedFile`."""

    batch = 1

    def __init__(self, form: Form) -> None:
        self._call = load(form)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Calls the form with one image after the other."""
        parts = [self._call(image[None]) for image in images]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measure_accuracy(forms: Sequence[Form], config: Config, dataset: "DetectionDataset") -> list[Row]:
    """Evaluates forms for one image per call, with the post-processing of the config."""
    from refinedet_tf.exports.accuracy import evaluate_file

    rows: list[Row] = []
    for form in forms:
        result = evaluate_file(_File(form), config, dataset)
        rows.append({"mAP": round(result.mean_ap, 4), "metric": result.metric})
        print(json.dumps({"form": form.name, **rows[-1]}), file=sys.stderr, flush=True)
    return rows


def _add(facts: Sequence[Row], rows: Sequence[Row]) -> None:
    """Adds the figures of each form to those that are known of it."""
    for fact, row in zip(facts, rows, strict=True):
        fact.update(row)


def _read_split(config: Config, split: str) -> "DetectionDataset":
    """Reads data.validation or data.test, which must have annotations."""
    from refinedet_tf.data.dataset import read_dataset

    dataset = read_dataset(config.data, split)
    if not dataset.labelled:
        raise InputError(f"--check-split: data.{split} has no annotations to measure against")
    return dataset


if __name__ == "__main__":
    run(main)
