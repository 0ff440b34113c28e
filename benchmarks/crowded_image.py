"""What one image of many objects costs the batches that it is not in: python benchmarks/crowded_image.py

Two datasets have 16 images of 20 objects each, except that one image of the second has 1,000 objects. The
same batch, without that image, is taken from the training batches of each dataset. Prints one JSON line with
the milliseconds of the loss (matching, mining, four terms and their gradients with respect to the heads) and
of the whole training step on both batches, measured in turns, and the ratios of their medians.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import input_pipeline
import networks
import numpy as np
import timing
from training_step import OBJECTS, compiled_loss

from refinedet_tf.commands.options import config_from
from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import Config

if TYPE_CHECKING:
    from refinedet_tf.data.dataset import DetectionDataset

NUM_IMAGES = 16
LOSS_RUNS_PER_STEP = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_config_options_with_default(parser)
    parser.add_argument("--batch-size", type=int, default=2, help="images per step (default: 2)")
    parser.add_argument("--objects", type=int, default=1000, help="of the crowded image (default: 1000)")
    parser.add_argument("--runs", type=int, default=7, help="measured steps of each kind (default: 7)")
    options = parser.parse_args(arguments)
    config = config_from(options)
    training_config = dataclasses.replace(config.training, batch_size=options.batch_size)
    config = dataclasses.replace(config, training=training_config)
    import_tensorflow()
    import tensorflow as tf

    trainer = networks.make_trainer(config)
    with tempfile.TemporaryDirectory() as folder:
        input_pipeline.generate_photos(Path(folder), NUM_IMAGES)
        photos = input_pipeline.with_random_objects(Path(folder))
        without, with_image = (
            first_batch(with_objects(photos, first, OBJECTS), config) for first in (OBJECTS, options.objects)
        )
    heads = trainer.network(without["images"])
    # As in training, the number of objects is open in the graphs.
    objects_spec = {
        "boxes": tf.TensorSpec([options.batch_size, None, 4]),
        "labels": tf.TensorSpec([options.batch_size, None], tf.int32),
    }
    batch_spec = {"images": tf.TensorSpec.from_tensor(without["images"]), **objects_spec}
    train_step = tf.function(trainer.train_step, input_signature=[batch_spec])
    heads_spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, heads)
    loss_and_gradients = compiled_loss(trainer.anchors, config, [heads_spec, objects_spec])
    loss_calls = {
        "loss_without": lambda: loss_and_gradients(heads, select(without, objects_spec)),
        "loss_with": lambda: loss_and_gradients(heads, select(with_image, objects_spec)),
    }
    step_calls = {
        "step_without": lambda: train_step(select(without, batch_spec)),
        "step_with": lambda: train_step(select(with_image, batch_spec)),
    }
    milliseconds = {
        **timing.measure_in_turns(loss_calls, LOSS_RUNS_PER_STEP * options.runs, warm_up_rounds=3),
        **timing.measure_in_turns(step_calls, options.runs, warm_up_rounds=3),
    }
    median = {name: float(np.median(values)) for name, values in milliseconds.items()}
    result = {
        "benchmark": "crowded_image",
        "loss_ratio": round(median["loss_with"] / median["loss_without"], 3),
        "step_ratio": round(median["step_with"] / median["step_without"], 3),
        "milliseconds": {name: timing.spread(values) for name, values in milliseconds.items()},
        "padded_to": {"without": without["labels"].shape[1], "with": with_image["labels"].shape[1]},
        "config": config.name,
        "batch_size": options.batch_size,
        "objects_per_image": OBJECTS,
        "objects_of_crowded_image": options.objects,
        "runs": options.runs,
    }
    print(json.dumps(result))


def with_objects(dataset: "DetectionDataset", first: int, others: int) -> "DetectionDataset":
    """The dataset with `first` random objects on its first image and `others` on each of the others.

    The objects of the others do not depend on `first`.
    """
    counts = np.array([first] + [others] * (len(dataset) - 1))
    total = counts.sum()
    # Reversed, so that another number of objects on the first image leaves those of the others alone.
    low = np.random.default_rng(0).uniform(0, 0.6, (total, 2))[::-1]
    sides = np.random.default_rng(1).uniform(0.02, 0.4, (total, 2))[::-1]
    labels = np.random.default_rng(2).integers(1, len(dataset.class_names) + 1, total)[::-1]
    return dataclasses.replace(
        dataset,
        boxes=np.concatenate([low, low + sides], axis=1).astype(np.float32),
        labels=labels.astype(np.int32),
        difficult=np.zeros(total, bool),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def first_batch(dataset: "DetectionDataset", config: Config) -> dict[str, Any]:
    """The first training batch, not augmented, without the first image of the dataset."""
    from refinedet_tf.config import AugmentationConfig
    from refinedet_tf.data.pipeline import training_batches

    augmentation_config = AugmentationConfig(expand_probability=0.0, crop_min_ious=())
    batches = training_batches(dataset, dataclasses.replace(config, augmentation=augmentation_config))
    return next(batch for batch in batches if 0 not in batch["image_indices"].numpy())


def select(batch: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The parts of a batch that have these names."""
    return {name: batch[name] for name in names}


if __name__ == "__main__":
    run(main)
