"""Time of one image as in Table 1 of the paper: python benchmarks/inference.py --config voc320.json

Batch 1 unless said otherwise; the network and the post-processing apart, as medians with the 10th and
90th percentile, after a warm-up. Prints one JSON line. Without --weights the weights are random, so that
every anchor is a candidate, which is harder on the post-processing than trained weights are.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from refinedet_tf import cli
from refinedet_tf.anchors import tile_anchors

WARM_UP = 5


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_options(parser, required=False)
    parser.set_defaults(config="voc320.json")
    parser.add_argument("--weights", metavar="FILE", help="trained weights (default: random)")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--runs", type=int, default=30, help="measured runs (default: 30)")
    options = parser.parse_args(arguments)

    if options.weights:
        config, model = cli.load_model(options)
    else:
        config = cli.config_from(options)
        cli.import_tensorflow()
        from refinedet_tf.model import build_model

        model = build_model(config)
    import tensorflow as tf

    from refinedet_tf.inference.postprocessing import postprocess

    size = config.model.image_size
    anchors = tf.constant(tile_anchors(size))
    network = tf.function(lambda images: model(images, training=False))
    detect = tf.function(lambda heads: postprocess(heads, anchors, config))
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (options.batch, *size, 3)), tf.float32)
    seconds = []
    for _ in range(WARM_UP + options.runs):
        start = time.perf_counter()
        heads = network(images)
        # Reading a number waits for the device.
        for head in heads.values():
            head[0, 0, 0].numpy()
        middle = time.perf_counter()
        for value in detect(heads).values():
            value.numpy()
        seconds.append((middle - start, time.perf_counter() - middle))
    stages = 1e3 * np.array(seconds[WARM_UP:])
    total = stages.sum(axis=1)
    gpus = tf.config.list_physical_devices("GPU")
    result = {
        "config": config.name,
        "backbone": config.model.backbone,
        "image_size": list(size),
        "classes": config.num_classes,
        "batch": options.batch,
        "network_ms": _spread(stages[:, 0]),
        "postprocessing_ms": _spread(stages[:, 1]),
        "total_ms": _spread(total),
        "images_per_second": round(1e3 * options.batch / float(np.median(total)), 2),
        "peak_memory_mb": round(_peak_memory(tf, gpus) / 2**20),
        "device": (gpus or tf.config.list_physical_devices("CPU"))[0].name,
        "runs": options.runs,
    }
    print(json.dumps(result))


def _spread(milliseconds) -> dict[str, float]:
    low, median, high = np.percentile(milliseconds, (10, 50, 90))
    return {"median": round(median, 2), "p10": round(low, 2), "p90": round(high, 2)}


def _peak_memory(tf, gpus) -> int:
    """Bytes: of the GPU what TensorFlow used of it, of a CPU what the process held."""
    if gpus:
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    cli.run(main)
