"""Latency and throughput of everything that is exported: python benchmarks/exports.py --config voc320.json

Compares the network in this process with its SavedModel and its ONNX files (onnxruntime on the CPU) on
batches of 1, 8 and 32 images, in turns, after a warm-up: the network alone, from pixels of its own size to
raw heads, and the whole detector, from 640 x 480 pixels (and for `serving_default` JPEG files) to detections.
Prints one JSON line; `ratio` is the time beside that of the network in this process. Without --weights the
weights are random.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from refinedet_tf import cli

IMAGE_SIZE = (480, 640)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_config_options(parser, required=False)
    parser.set_defaults(config="voc320.json")
    parser.add_argument("--weights", metavar="FILE", help="trained weights (default: random)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--runs", type=int, default=10, help="measured runs of each (default: 10)")
    options = parser.parse_args(arguments)

    config, model = _load(options)
    import tensorflow as tf

    from refinedet_tf.export.savedmodel import ExportOptions, export_saved_model

    with tempfile.TemporaryDirectory() as output:
        narrow = ExportOptions(precision="bfloat16")
        folder, _ = export_saved_model(model, config, output, options=ExportOptions(onnx=True))
        narrow_folder, _ = export_saved_model(model, config, output, options=narrow)
        groups = _calls(model, config, folder, narrow_folder)
        rows = []
        for batch in options.batches:
            images = _scenes(batch)
            inputs = {
                "warped": tf.image.resize(images, config.model.image_size),
                "images": tf.constant(images),
                "files": tf.constant([tf.io.encode_jpeg(image).numpy() for image in images]),
            }
            for stage, calls in groups.items():
                rows += _measure(stage, calls, inputs, batch, options.runs)
    device = (tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU"))[0].name
    about = {"config": config.name, "backbone": config.model.backbone, "image_size": config.model.image_size}
    print(json.dumps({**about, "device": device, "runs": options.runs, "rows": rows}))


def _load(options):
    if options.weights:
        return cli.load_model(options)
    config = cli.config_from(options)
    cli.import_tensorflow()
    from refinedet_tf.model import build_model

    return config, build_model(config)


def _scenes(count):
    """Images of the generated set: uint8 [count, H, W, 3]."""
    from PIL import Image

    from refinedet_tf.data.shapes import make_image

    scenes = (Image.fromarray(make_image(0, "benchmark", index)[0]) for index in range(count))
    return np.stack([np.asarray(scene.resize(IMAGE_SIZE[::-1])) for scene in scenes])


def _calls(model, config, folder, narrow_folder):
    """{stage: {name: (function, the input it takes)}}; the first one is what the others are compared with."""
    import onnxruntime
    import tensorflow as tf

    from refinedet_tf.anchors import tile_anchors
    from refinedet_tf.inference.postprocessing import postprocess

    anchors, size = tile_anchors(config.model.image_size), config.model.image_size
    network = tf.function(lambda images: model(images, training=False))
    whole = tf.function(
        lambda images: postprocess(model(tf.image.resize(images, size), training=False), anchors, config)
    )
    saved, narrow = (tf.saved_model.load(str(path)) for path in (folder, narrow_folder))

    def signature(loaded, name, argument):
        # Through `loaded`, which keeps the variables alive.
        return lambda value: loaded.signatures[name](**{argument: value})

    def session(name):
        session = onnxruntime.InferenceSession(folder / "onnx" / name, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images.numpy()})

    return {
        "network": {
            "model": (network, "warped"),
            "serving_heads": (signature(saved, "serving_heads", "images"), "warped"),
            "serving_heads bfloat16": (signature(narrow, "serving_heads", "images"), "warped"),
            "heads.onnx": (session("heads.onnx"), "warped"),
        },
        "whole": {
            "model": (whole, "images"),
            "serving_tensor": (signature(saved, "serving_tensor", "images"), "images"),
            "serving_default": (signature(saved, "serving_default", "image_bytes"), "files"),
            "detector.onnx": (session("detector.onnx"), "images"),
        },
    }


def _measure(stage, calls, inputs, batch, runs):
    import tensorflow as tf

    milliseconds = {name: [] for name in calls}
    for run in range(runs + 2):
        for name, (function, argument) in calls.items():
            started = time.perf_counter()
            # Reading the results waits for the device.
            tf.nest.map_structure(np.asarray, function(inputs[argument]))
            if run >= 2:
                milliseconds[name].append(1e3 * (time.perf_counter() - started))
    rows, reference = [], None
    for name, values in milliseconds.items():
        low, median, high = np.percentile(values, (10, 50, 90)).tolist()
        reference = reference or median
        rows.append(
            {
                "stage": stage,
                "batch": batch,
                "form": name,
                "ms": round(median, 1),
                "p10": round(low, 1),
                "p90": round(high, 1),
                "images_per_second": round(1e3 * batch / median, 2),
                "ratio": round(median / reference, 3),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    cli.run(main)
