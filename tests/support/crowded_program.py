"""A few steps of train.py on a dataset with one image of 100 objects, on two logical CPU devices.

    python crowded_program.py CONFIG OUTPUT

Prints one JSON object; `test_crowded_image.py` says what its values must be.
"""

import dataclasses
import json
import sys

import train
from refinedet_tf.commands import terminal

import numpy as np  # isort: skip - after terminal, which sets TensorFlow's environment
from small_network import use_logical_devices, use_small_backbone  # isort: skip
from training_config import sets  # isort: skip

from refinedet_tf.training import loop, preparation
from refinedet_tf.training.preparation import PreparedRun
from refinedet_tf.training.trainer import RefineDetTrainer

OBJECTS = 100


def main(config_file, output):
    """Trains and prints the length of each replica's batch and the number of tracings before each step."""
    use_small_backbone()
    use_logical_devices(2)
    preparation.read_dataset = crowd_first_image(preparation.read_dataset)
    loop.detection_pictures = lambda detector, dataset: [np.zeros((8, 8, 3), np.uint8)]
    train_step, next_batch = RefineDetTrainer.train_step, PreparedRun.next_batch
    traced, found = [], {"lengths": [], "traced_before": []}

    def noted_step(self, batch, told_to_stop):
        traced.append(batch["labels"].shape)
        return train_step(self, batch, told_to_stop)

    def noted_batch(self, step):
        batch = next_batch(self, step)
        parts = self.strategy.experimental_local_results(batch["labels"])
        found["lengths"].append([part.shape[1] for part in parts])
        found["traced_before"].append(len(traced))
        return batch

    RefineDetTrainer.train_step, PreparedRun.next_batch = noted_step, noted_batch
    # A crop would hide some of the objects.
    changes = ("data.validation=[]", "training.length=4", "augmentation.crop_min_ious=[]")
    terminal.run(train.main, ["--config", config_file, *sets(*changes), "--output", output])
    found["traced"] = len(traced)
    print(json.dumps(found))


def crowd_first_image(read_dataset):
    """Returns a function like `read_dataset` that gives the first image 100 objects."""

    def read(data_config, split, strict):
        dataset = read_dataset(data_config, split, strict)
        added = OBJECTS - int(dataset.offsets[1])
        low = np.random.default_rng(0).uniform(0, 0.8, (added, 2))
        boxes = np.concatenate([low, low + 0.2], axis=1).astype(np.float32)
        return dataclasses.replace(
            dataset,
            boxes=np.concatenate([boxes, dataset.boxes]),
            labels=np.concatenate([np.ones(added, np.int32), dataset.labels]),
            difficult=np.concatenate([np.zeros(added, bool), dataset.difficult]),
            offsets=np.concatenate([[0], dataset.offsets[1:] + added]),
        )

    return read


if __name__ == "__main__":
    main(*sys.argv[1:])
