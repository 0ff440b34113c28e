"""Time per image as in Table 1 of the paper: python benchmarks/inference.py --config voc320.json

The batch size is 1 unless said otherwise. The network and the post-processing are timed apart, as medians
with the 10th and the 90th percentile, after a warm-up; `ratio` is that of the medians. Prints one JSON line.
Without --weights the weights are random, so that every anchor is a candidate, which is harder on the
post-processing than trained weights are. With --hard-heads, it gets random logits, most of which are
candidates, and boxes that move by some tenths.

With --keras-batch-norm, the network takes turns with its form in which BatchNorm is Keras' own two passes and
not one kernel; `to_keras` is the processor time of the network divided by that of the other form.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from unittest import mock

import networks
import numpy as np
import timing

from refinedet_tf.commands.terminal import run
from refinedet_tf.config import Config
from refinedet_tf.tensors import Heads, Tensor

if TYPE_CHECKING:
    import keras

    from refinedet_tf.inference.compiled_detector import CompiledDetector

WARM_UP_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_network_options(parser)
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default: 1)")
    parser.add_argument("--runs", type=int, default=30, help="measured runs (default: 30)")
    parser.add_argument("--hard-heads", action="store_true", help="post-process random heads instead")
    parser.add_argument("--keras-batch-norm", action="store_true", help="compare with BatchNorm of Keras")
    options = parser.parse_args(arguments)

    config, model = networks.load_network(options)
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network

    detector = CompiledDetector(inference_network(model), config)
    shape = (options.batch, *detector.image_size, 3)
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, shape), tf.float32)
    heads = _hard_heads(options.batch, config) if options.hard_heads else detector.heads(images)

    def network() -> Heads:
        return _one_number_of_each(detector.heads(images))

    calls = {"network": network, "postprocessing": lambda: detector.detections(heads)}
    network_ms, postprocessing_ms = timing.measure_in_turns(calls, options.runs, WARM_UP_ROUNDS).values()
    total = network_ms + postprocessing_ms
    result = {
        "config": config.name,
        "backbone": config.model.backbone,
        "image_size": list(detector.image_size),
        "classes": config.num_classes,
        "batch": options.batch,
        "network_ms": timing.spread(network_ms),
        "postprocessing_ms": timing.spread(postprocessing_ms),
        "total_ms": timing.spread(total),
        "ratio": round(float(np.median(postprocessing_ms) / np.median(network_ms)), 4),
        "candidates": int(np.count_nonzero(detector.candidates(heads)[1])),
        "detections": int(np.sum(detector.detections(heads)["num_detections"])),
        "images_per_second": round(1e3 * options.batch / float(np.median(total)), 2),
        "peak_memory_mb": round(_peak_memory() / 2**20),
        "device": networks.device_name(),
        "runs": options.runs,
    }
    if options.keras_batch_norm:
        result |= _compared_with_keras(detector, model, config, images, options.runs)
    print(json.dumps(result))


def _one_number_of_each(heads: Heads) -> Heads:
    """Waits for the device without copying the heads from it."""
    return {name: head[0, 0, 0] for name, head in heads.items()}


def _compared_with_keras(
    detector: "CompiledDetector", model: "keras.Model", config: Config, images: Tensor, runs: int
) -> dict[str, float]:
    """Times the network and the same one with Keras' BatchNorm, in turns, in processor time."""
    import keras

    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
    from refinedet_tf.refinedet.batch_norm import BatchNormalization

    of_keras = CompiledDetector(inference_network(model), config)
    with mock.patch.object(BatchNormalization, "call", keras.layers.BatchNormalization.call):
        of_keras.heads.get_concrete_function()
    calls = {
        "network": lambda: _one_number_of_each(detector.heads(images)),
        "keras": lambda: _one_number_of_each(of_keras.heads(images)),
    }
    times = timing.measure_in_turns(calls, runs, WARM_UP_ROUNDS, clock=time.process_time)
    network_ms, keras_ms = (float(np.median(milliseconds)) for milliseconds in times.values())
    return {
        "network_cpu_ms": round(network_ms, 2),
        "keras_cpu_ms": round(keras_ms, 2),
        "to_keras": round(network_ms / keras_ms, 3),
    }


def _hard_heads(batch: int, config: Config) -> Heads:
    """Random heads; most anchors pass the objectness filter."""
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import network_size
    from refinedet_tf.refinedet.anchors import tile_anchors

    num_anchors = len(tile_anchors(network_size(config), config.model.anchors))
    rng = np.random.default_rng(0)
    deviations = {
        "arm_loc": (4, 1.0),
        "arm_conf": (2, 3.0),
        "odm_loc": (4, 1.0),
        "odm_conf": (config.num_classes + 1, 2.0),
    }
    return {
        name: tf.constant(rng.normal(0, deviation, (batch, num_anchors, depth)), tf.float32)
        for name, (depth, deviation) in deviations.items()
    }


def _peak_memory() -> int:
    """Bytes: what TensorFlow used of the GPU, or where there is none, what the process held."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    run(main)
