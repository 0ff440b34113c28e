"""Time per image as in Table 1 of the paper: python benchmarks/inference.py --config voc320.json

The batch size is 1 unless said otherwise. The network and the post-processing are timed apart, as medians
with the 10th and the 90th percentile, after a warm-up. Prints one JSON line. Without --weights the weights
are random, so that every anchor is a candidate, which is harder on the post-processing than trained weights
are.
"""

import argparse
import json
import resource
from collections.abc import Sequence

import networks
import numpy as np
import timing

from refinedet_tf.commands.terminal import run

WARM_UP_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_network_options(parser)
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default: 1)")
    parser.add_argument("--runs", type=int, default=30, help="measured runs (default: 30)")
    options = parser.parse_args(arguments)

    config, model = networks.load_network(options)
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network

    detector = CompiledDetector(inference_network(model), config)
    shape = (options.batch, *detector.image_size, 3)
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, shape), tf.float32)
    heads = detector.heads(images)

    def network() -> dict[str, tf.Tensor]:
        # Reading one number of each head waits for the device without copying the heads from it.
        return {name: head[0, 0, 0] for name, head in detector.heads(images).items()}

    calls = {"network": network, "postprocessing": lambda: detector.detections(heads)}
    milliseconds = timing.measure_in_turns(calls, options.runs, WARM_UP_ROUNDS)
    total = milliseconds["network"] + milliseconds["postprocessing"]
    result = {
        "config": config.name,
        "backbone": config.model.backbone,
        "image_size": list(detector.image_size),
        "classes": config.num_classes,
        "batch": options.batch,
        "network_ms": timing.spread(milliseconds["network"]),
        "postprocessing_ms": timing.spread(milliseconds["postprocessing"]),
        "total_ms": timing.spread(total),
        "images_per_second": round(1e3 * options.batch / float(np.median(total)), 2),
        "peak_memory_mb": round(_peak_memory() / 2**20),
        "device": networks.device_name(),
        "runs": options.runs,
    }
    print(json.dumps(result))


def _peak_memory() -> int:
    """Bytes: what TensorFlow used of the GPU, or where there is none, what the process held."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    run(main)
