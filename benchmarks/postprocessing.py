"""How long post-processing takes compared with the network, batch 1: python benchmarks/postprocessing.py

Prints one JSON line with the median milliseconds of both, measured in turns, and their ratio. The heads are
a hard case: random logits that leave far more candidates than the 400 that enter the suppression.
"""

import argparse
import json
from collections.abc import Sequence

import networks
import numpy as np
import timing

from refinedet_tf.commands.options import config_from
from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import PostprocessConfig
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.tensors import Heads


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_config_options_with_default(parser)
    parser.add_argument("--runs", type=int, default=11, help="measured runs of each (default: 11)")
    options = parser.parse_args(arguments)
    config = config_from(options)
    import_tensorflow()
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
    from refinedet_tf.refinedet.network import build_model

    detector = CompiledDetector(inference_network(build_model(config)), config)
    heads = _hard_heads(len(tile_anchors(detector.image_size, config.model.anchors)), config.num_classes)
    pixels = np.random.default_rng(1).uniform(0, 255, (1, *detector.image_size, 3))
    image = tf.constant(pixels, tf.float32)
    calls = {
        "network": lambda: detector.heads(image),
        "postprocessing": lambda: detector.detections(heads),
    }
    milliseconds = timing.measure_in_turns(calls, options.runs)
    medians = {name: float(np.median(values)) for name, values in milliseconds.items()}
    result = {
        "config": config.name,
        "network_ms": round(medians["network"], 2),
        "postprocessing_ms": round(medians["postprocessing"], 2),
        "ratio": round(medians["postprocessing"] / medians["network"], 4),
        "candidates": _count_candidates(heads, config.postprocess),
        "detections": int(detector.detections(heads)["num_detections"][0]),
        "runs": options.runs,
        "device": networks.device_name(),
    }
    print(json.dumps(result))


def _hard_heads(num_anchors: int, num_classes: int) -> Heads:
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


def _count_candidates(heads: Heads, postprocess_config: PostprocessConfig) -> int:
    """The number of (anchor, class) pairs above both thresholds."""
    import tensorflow as tf

    objectness = tf.nn.softmax(heads["arm_conf"])[..., 1:]
    scores = tf.nn.softmax(heads["odm_conf"])[..., 1:]
    passes = objectness >= postprocess_config.objectness_threshold
    return int(np.sum(passes & (scores > postprocess_config.score_threshold)))


if __name__ == "__main__":
    run(main)
