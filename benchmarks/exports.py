"""Latency and throughput of everything that is exported: python benchmarks/exports.py --config voc320.json

Compares the network in this process with its SavedModel and its ONNX files (onnxruntime on the CPU) on
batches of 1, 8 and 32 images, in turns, after a warm-up: the network alone, from pixels of its own size to
raw heads, and the whole detector, from 640 x 480 pixels (and for `serving_default` JPEG files) to detections.
Prints one JSON line; `ratio` is the time divided by that of the network in this process. Without --weights
the weights are random.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import networks
import numpy as np
import timing

from refinedet_tf.commands.terminal import run
from refinedet_tf.config import Config
from refinedet_tf.tensors import Tensor

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = (480, 640)
"""(height, width) in pixels of the images that the whole detector takes."""

Form = tuple[Callable[[Tensor], object], str]
"""A function of a batch, and the name of the input that it takes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, exports, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    networks.add_network_options(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--runs", type=int, default=10, help="measured runs of each (default: 10)")
    options = parser.parse_args(arguments)

    config, model = networks.load_network(options)
    import tensorflow as tf

    from refinedet_tf.export.savedmodel import ExportOptions, export_saved_model

    with tempfile.TemporaryDirectory() as output:
        bfloat16 = ExportOptions(precision="bfloat16")
        folder, _ = export_saved_model(model, config, output, options=ExportOptions(onnx=True))
        bfloat16_folder, _ = export_saved_model(model, config, output, options=bfloat16)
        stages = _forms(model, config, folder, bfloat16_folder)
        rows = []
        for batch in options.batches:
            images = _scenes(batch)
            inputs = {
                "warped": tf.image.resize(images, config.model.image_size),
                "images": tf.constant(images),
                "files": tf.constant([tf.io.encode_jpeg(image).numpy() for image in images]),
            }
            for stage, forms in stages.items():
                rows += _measure(stage, forms, inputs, batch, options.runs)
    about = {"config": config.name, "backbone": config.model.backbone, "image_size": config.model.image_size}
    print(json.dumps({**about, "device": networks.device_name(), "runs": options.runs, "rows": rows}))


def _scenes(count: int) -> np.ndarray:
    """Images of the generated set: uint8 [count, H, W, 3]."""
    from PIL import Image

    from refinedet_tf.data.shapes import make_image

    scenes = (Image.fromarray(make_image(0, "benchmark", index)[0]) for index in range(count))
    return np.stack([np.asarray(scene.resize(IMAGE_SIZE[::-1])) for scene in scenes])


def _forms(
    model: "keras.Model", config: Config, folder: Path, bfloat16_folder: Path
) -> dict[str, dict[str, Form]]:
    """{stage: {name: form}}; the others of a stage are compared with its first form."""
    import onnxruntime
    import tensorflow as tf

    from refinedet_tf.data.images import warp_image
    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network

    detector = CompiledDetector(inference_network(model), config)
    whole = tf.function(lambda images: detector(warp_image(images, detector.image_size)))
    saved, saved_bfloat16 = (tf.saved_model.load(str(path)) for path in (folder, bfloat16_folder))

    def signature(loaded: Tensor, name: str, argument: str) -> Callable[[Tensor], object]:
        # Through `loaded`, which keeps the variables alive.
        return lambda value: loaded.signatures[name](**{argument: value})

    def session(name: str) -> Callable[[Tensor], object]:
        session = onnxruntime.InferenceSession(folder / "onnx" / name, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images.numpy()})

    return {
        "network": {
            "model": (detector.heads, "warped"),
            "serving_heads": (signature(saved, "serving_heads", "images"), "warped"),
            "serving_heads bfloat16": (signature(saved_bfloat16, "serving_heads", "images"), "warped"),
            "heads.onnx": (session("heads.onnx"), "warped"),
        },
        "whole": {
            "model": (whole, "images"),
            "serving_tensor": (signature(saved, "serving_tensor", "images"), "images"),
            "serving_default": (signature(saved, "serving_default", "image_bytes"), "files"),
            "detector.onnx": (session("detector.onnx"), "images"),
        },
    }


def _measure(
    stage: str, forms: Mapping[str, Form], inputs: Mapping[str, Tensor], batch: int, runs: int
) -> list[dict[str, object]]:
    """One row per form, also printed to stderr as it is made."""
    calls = {name: partial(function, inputs[argument]) for name, (function, argument) in forms.items()}
    milliseconds = timing.measure_in_turns(calls, runs)
    reference = float(np.median(next(iter(milliseconds.values()))))
    rows: list[dict[str, object]] = []
    for name, values in milliseconds.items():
        p10, median, p90 = np.percentile(values, (10, 50, 90)).tolist()
        rows.append(
            {
                "stage": stage,
                "batch": batch,
                "form": name,
                "ms": round(median, 1),
                "p10": round(p10, 1),
                "p90": round(p90, 1),
                "images_per_second": round(1e3 * batch / median, 2),
                "ratio": round(median / reference, 3),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    run(main)
