"""How much of a training step is matching, mining and loss: python benchmarks/training_step.py

Prints one JSON line with the median seconds of the whole step (forward, loss, gradients, update) and of the
loss alone (matching, mining, four terms and their gradients with respect to the heads), measured in turns,
and their ratio.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence

import networks
import numpy as np
import timing

from refinedet_tf.commands.options import config_from
from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import Config
from refinedet_tf.tensors import Heads, Tensor

OBJECTS = 20
"""Objects per image; VOC has 2.4 on average, COCO 7.3."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_config_options_with_default(parser)
    parser.add_argument("--batch-size", type=int, default=4, help="images per step (default: 4)")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each (default: 5)")
    options = parser.parse_args(arguments)
    config = config_from(options)
    import_tensorflow()
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import network_size

    image_size = network_size(config)
    trainer = networks.make_trainer(config)
    train_step = tf.function(trainer.train_step)
    batch = random_batch(options.batch_size, image_size, config.num_classes)
    heads = trainer.network(batch["images"])

    loss_and_gradients = compiled_loss(trainer.anchors, config)
    calls = {"step": lambda: train_step(batch), "loss": lambda: loss_and_gradients(heads, batch)}
    milliseconds = timing.measure_in_turns(calls, options.runs, warm_up_rounds=1)
    seconds = {name: float(np.median(values)) / 1e3 for name, values in milliseconds.items()}
    result = {
        "step_seconds": round(seconds["step"], 4),
        "loss_seconds": round(seconds["loss"], 4),
        "ratio": round(seconds["loss"] / seconds["step"], 4),
        "config": config.name,
        "batch_size": options.batch_size,
        "objects_per_image": OBJECTS,
        "runs": options.runs,
    }
    print(json.dumps(result))


def compiled_loss(
    anchors: np.ndarray, config: Config, input_signature: Sequence[Mapping[str, Tensor]] | None = None
) -> Callable[[Heads, Mapping[str, Tensor]], dict[str, Tensor]]:
    """The gradients of the loss with respect to the heads, as a graph of heads and ground truth.

    With an input signature, the specifications of the two, the graph is traced once.
    """
    import tensorflow as tf

    from refinedet_tf.losses import TERMS, refinedet_loss

    @tf.function(input_signature=input_signature)
    def loss_and_gradients(heads: Heads, ground_truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(heads)
            terms = refinedet_loss(heads, ground_truth, anchors, config)
            total = tf.add_n([terms[name] for name in TERMS])
        return tape.gradient(total, heads)

    return loss_and_gradients


def random_batch(batch_size: int, image_size: tuple[int, int], num_classes: int) -> dict[str, np.ndarray]:
    """Noise images with random boxes of 2 to 40 % of the side."""
    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 0.6, (batch_size, OBJECTS, 2))
    sides = generator.uniform(0.02, 0.4, (batch_size, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)
    labels = generator.integers(1, num_classes + 1, (batch_size, OBJECTS), np.int32)
    images = generator.integers(0, 256, (batch_size, *image_size, 3), np.uint8)
    return {"images": images, "boxes": boxes, "labels": labels}


if __name__ == "__main__":
    run(main)
