"""How much of a VGG-16 320 training step is matching, mining and loss: python benchmarks/training_step.py

Prints one JSON line with the median seconds of the whole step (forward, loss, gradients, update) and of the
loss alone (matching, mining, four terms and their gradients with respect to the heads), measured in turns,
and their ratio.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from refinedet_tf import cli
from refinedet_tf.anchors import tile_anchors

RUNS = 5
OBJECTS = 20
"""Per image; VOC has 2.4 on average, COCO 7.3."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_options(parser, required=False)
    parser.set_defaults(config="voc320.json")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    import tensorflow as tf

    from refinedet_tf.losses import TERMS, refinedet_loss
    from refinedet_tf.model import build_model
    from refinedet_tf.training.optimizer import CaffeSGD
    from refinedet_tf.training.trainer import RefineDetTrainer

    config = cli.config_from(options)
    anchors = tile_anchors(config.model.image_size)
    network = build_model(config)
    trainer = RefineDetTrainer(network, anchors, config)
    trainer.compile(optimizer=CaffeSGD.from_training(config.training))
    batch = _random_batch(options.batch_size, config)
    heads = network(batch["images"])

    @tf.function
    def loss_alone(heads):
        with tf.GradientTape() as tape:
            tape.watch(heads)
            terms = refinedet_loss(heads, batch, anchors, config)
            total = tf.add_n([terms[name] for name in TERMS])
        return tape.gradient(total, heads)

    calls = {"step": (tf.function(trainer.train_step), batch), "loss": (loss_alone, heads)}
    seconds = {name: [] for name in calls}
    for _ in range(RUNS + 1):
        for name, (function, value) in calls.items():
            start = time.perf_counter()
            tf.nest.map_structure(lambda output: output.numpy(), function(value))
            seconds[name].append(time.perf_counter() - start)
    # The first round traces the graphs.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "step_seconds": round(medians["step"], 4),
                "loss_seconds": round(medians["loss"], 4),
                "ratio": round(medians["loss"] / medians["step"], 4),
                "config": config.name,
                "batch_size": options.batch_size,
                "objects_per_image": OBJECTS,
                "runs": RUNS,
            }
        )
    )


def _random_batch(batch_size, config):
    """Noise images with random boxes of 2 to 40 % of the side."""
    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 0.6, (batch_size, OBJECTS, 2))
    sides = generator.uniform(0.02, 0.4, (batch_size, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)
    labels = generator.integers(1, config.num_classes + 1, (batch_size, OBJECTS), np.int32)
    images = generator.integers(0, 256, (batch_size, *config.model.image_size, 3), np.uint8)
    return {"images": images, "boxes": boxes, "labels": labels}


if __name__ == "__main__":
    cli.run(lambda _: main())
