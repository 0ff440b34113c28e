"""How long post-processing takes beside the VGG-16 320 network, batch 1: python benchmarks/postprocessing.py

Prints one JSON line with the median milliseconds of both, measured in turns, and their ratio. The heads are
a hard case: random logits that leave far more candidates than the 400 that enter the suppression.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from refinedet_tf import cli  # noqa: F401  (before TensorFlow, whose log level it sets)
from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config_files import load_config

RUNS = 11


def main() -> None:
    import tensorflow as tf

    from refinedet_tf.model import build_model
    from refinedet_tf.inference.postprocessing import postprocess

    config = load_config("voc320.json")
    anchors = tile_anchors(config.model.image_size)
    model = build_model(config)
    heads = _hard_heads(len(anchors), config.num_classes)
    image = np.random.default_rng(1).uniform(0, 255, (1, *config.model.image_size, 3)).astype(np.float32)
    network = tf.function(lambda images: model(images, training=False))
    detections = tf.function(lambda heads: postprocess(heads, anchors, config))
    calls = {"network": (network, tf.constant(image)), "postprocessing": (detections, heads)}
    milliseconds = {name: [] for name in calls}
    for _ in range(RUNS + 2):
        for name, (function, value) in calls.items():
            start = time.perf_counter()
            tf.nest.map_structure(lambda output: output.numpy(), function(value))
            milliseconds[name].append(1000 * (time.perf_counter() - start))
    # The first two rounds trace the graphs and fill caches.
    medians = {name: statistics.median(values[2:]) for name, values in milliseconds.items()}
    result = {
        "network_ms": round(medians["network"], 2),
        "postprocessing_ms": round(medians["postprocessing"], 2),
        "ratio": round(medians["postprocessing"] / medians["network"], 4),
        "candidates": _count_candidates(heads, config),
        "detections": int(detections(heads)["num_detections"][0]),
        "runs": RUNS,
        "device": (tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU"))[0].name,
    }
    print(json.dumps(result))


def _hard_heads(num_anchors, num_classes):
    """Random heads of one image: most anchors pass the objectness filter, boxes move by some tenths."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    deviations = {
        "arm_loc": (4, 1.0),
        "arm_conf": (2, 3.0),
        "odm_loc": (4, 1.0),
        "odm_conf": (num_classes + 1, 2.0),
    }
    return {
        name: tf.constant(rng.normal(0, deviation, (1, num_anchors, depth)), tf.float32)
        for name, (depth, deviation) in deviations.items()
    }


def _count_candidates(heads, config):
    """(anchor, class) pairs above both thresholds."""
    import tensorflow as tf

    limits = config.postprocess
    objectness = tf.nn.softmax(heads["arm_conf"])[..., 1:]
    scores = tf.nn.softmax(heads["odm_conf"])[..., 1:]
    return int(np.sum((objectness >= limits.objectness_threshold) & (scores > limits.score_threshold)))


if __name__ == "__main__":
    main()
