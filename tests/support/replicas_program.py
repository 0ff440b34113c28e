"""Training steps of several replicas and of one, on logical CPU devices, compared.

    python replicas_program.py CONFIG REPLICAS [whole]

Without "whole", VGG-16 has few channels, and MobileNetV2 a step less. Devices must be set up before
TensorFlow starts, so this is a program. It prints one JSON object; the tests in `test_training_step.py`
say what its values must be.
"""

import importlib
import json
import sys

from refinedet_tf.commands import terminal  # noqa: F401 - sets TensorFlow's environment

import keras  # isort: skip - after terminal
import numpy as np
import tensorflow as tf
from small_network import make_trainer, random_batch, state_of, use_logical_devices
from thin_vgg import STAGES
from training_config import CLASSES_OVERRIDE
from trunk_model import trunk_model

import refinedet_tf as rd
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.losses import TERMS
from refinedet_tf.training.strategy import make_strategy

HALVES = [(3, 2, 0, 0), (0, 0, 1, 3), (2, 1, 3, 1), (1, 0, 0, 0), (0, 2, 0, 1)]
"""Objects on the four images of each step, which two or four replicas share."""


def main(config_file, num_replicas, words):
    """Trains both networks with both strategies and prints what was found."""
    whole = "whole" in words
    if not whole:
        importlib.import_module("refinedet_tf.refinedet.backbones.vgg16").STAGES = STAGES
    keras.utils.set_random_seed(0)
    use_logical_devices(num_replicas)
    vgg = load_config(
        config_file,
        [
            CLASSES_OVERRIDE,
            "model.backbone=vgg16",
            "model.tcb_batch_norm=false",
            "training.learning_rate=1e-4",
            "training.warmup=2",
        ],
    )
    mobilenet = load_config(
        config_file,
        [
            CLASSES_OVERRIDE,
            "model.image_size=[128,128]",
            "training.learning_rate=1e-5",
            "training.ema_decay=0.5",
            "training.warmup=2",
            "training.gradient_clip_norm=5.0",
        ],
    )
    # There is a single strategy of each kind, since the collective operations of several disturb each other.
    several_replicas, single_replica = make_strategy(vgg), tf.distribute.MirroredStrategy(["CPU:0"])
    found = {
        "vgg16": compare_replicas(vgg, several_replicas, single_replica, HALVES, in_graph=True),
        # Without graphs: tracing so many layers twice takes a minute.
        "mobilenet_v2": compare_replicas(
            mobilenet, several_replicas, single_replica, HALVES[: 3 if whole else 2], in_graph=False
        ),
    }
    # Moving statistics need a graph that holds each micro-batch, whose tracing takes long.
    for statistics in ("frozen", "moving") if num_replicas > 2 else ("frozen",):
        found[f"accumulation, {statistics}"] = compare_accumulation(
            config_file, statistics, several_replicas, single_replica
        )
    found["odd batch"] = refusal(config_file, "training.batch_size=5")
    found["odd micro-batches"] = refusal(
        config_file, "training.batch_size=6", "training.accumulation_steps=2"
    )
    found["jit"] = refusal(config_file, "training.jit_compile=true")
    print(json.dumps(found))


def refusal(config_file, *overrides):
    """The message of the error that the strategy of a config ends with."""
    try:
        make_strategy(load_config(config_file, overrides))
    except InputError as error:
        return str(error)


def split(strategy, batch):
    """The batch, its rows divided over the replicas in their order."""
    per_replica = len(batch["images"]) // strategy.num_replicas_in_sync
    batch = {**batch, "images": batch["images"].astype(np.float32)}

    def part(context):
        first = context.replica_id_in_sync_group * per_replica
        return {name: tf.constant(value[first : first + per_replica]) for name, value in batch.items()}

    return strategy.experimental_distribute_values_from_function(part)


def make_step(trainer, strategy, in_graph):
    """A function from a divided batch to what the first replica reports."""

    def step(batch):
        result = strategy.run(trainer.train_step, args=(batch,))
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], result)

    return tf.function(step) if in_graph else step


def compare_accumulation(config_file, statistics, several_replicas, single_replica):
    """Compares two micro-batches per replica with one replica, which has the whole batch at once.

    Images without objects have a loss, and the last step has no others. Where the statistics of BatchNorm
    are those of the micro-batches, the single replica has two as well.
    """
    overrides = [
        CLASSES_OVERRIDE,
        f"model.batch_norm_statistics={statistics}",
        "training.warmup=0",
        "loss.background_negatives=30",
    ]
    accumulated = load_config(config_file, [*overrides, "training.accumulation_steps=2"])
    whole = load_config(config_file, overrides)
    return compare_replicas(
        accumulated,
        several_replicas,
        single_replica,
        [(*HALVES[0], *HALVES[2]), (*HALVES[1], *HALVES[3]), (0,) * 8],
        in_graph=True,
        single_config=whole if statistics == "frozen" else accumulated,
        make_network=trunk_model,
    )


def compare_replicas(
    config, several_replicas, single_replica, steps, in_graph, single_config=None, make_network=rd.build_model
):
    """Trains on the same batches with both strategies.

    `single_config` is the config of the single replica, where it has one of its own.

    Returns:
        "replicas": the number of replicas of the first strategy; "terms": the largest relative
        difference of a loss term; "bad": see `bad_replica`; "copies_of_the_average": see the function;
        "weights", "momentum", "statistics", "average": the largest absolute difference between the
        strategies, and the largest movement since the start.
    """
    trainers = []
    for strategy, its_config in ((several_replicas, config), (single_replica, single_config or config)):
        with strategy.scope():
            trainers.append(make_trainer(its_config, strategy, make_network(its_config)))
    trainers[1].network.set_weights(trainers[0].network.get_weights())
    if trainers[1].average is not None:
        trainers[1].average.restart()
    start = state_of(trainers[0])
    functions = [
        make_step(trainers[0], several_replicas, in_graph),
        make_step(trainers[1], single_replica, False),
    ]
    terms = []
    for number, objects in enumerate(steps):
        batch = random_batch(config, number, objects)
        results = [
            function(split(strategy, batch))
            for function, strategy in zip(functions, (several_replicas, single_replica), strict=True)
        ]
        values = [np.array([float(result[name]) for name in TERMS]) for result in results]
        terms.append(float((np.abs(values[0] - values[1]) / np.maximum(values[1], 1e-3)).max()))
    after, expected = (state_of(trainer) for trainer in trainers)
    bad_batch = random_batch(config, 9, (2, 1, 3, 1) * (len(steps[0]) // 4))
    found = {
        "replicas": several_replicas.num_replicas_in_sync,
        "terms": max(terms),
        "bad": bad_replica(trainers[0], several_replicas, functions[0], bad_batch),
        "copies_of_the_average": copies_of_the_average(trainers[0], several_replicas),
    }
    for path in after:
        kind = "statistics" if "/moving_" in path else "momentum" if "_momentum" in path else "weights"
        kind = "average" if path.startswith("average/") else kind
        difference, movement = (float(np.abs(after[path] - state[path]).max()) for state in (expected, start))
        largest_difference, largest_movement = found.get(kind, (0.0, 0.0))
        found[kind] = (max(largest_difference, difference), max(largest_movement, movement))
    return found


def copies_of_the_average(trainer, strategy):
    """The numbers of different copies that the replicas have of each averaged variable, each once."""
    values = trainer.average.values if trainer.average else []
    copies = [[copy.numpy().tobytes() for copy in strategy.experimental_local_results(v)] for v in values]
    return sorted({(len(of_replicas), len(set(of_replicas))) for of_replicas in copies})


def bad_replica(trainer, strategy, step, batch):
    """What a step does whose last replica sees a pixel that is not a number."""
    before = state_of(trainer)
    batch["images"] = batch["images"].astype(np.float32)
    batch["images"][3, 5, 5] = np.nan
    result = step(split(strategy, batch))
    trainer.restore_statistics(result["statistics"])
    after = state_of(trainer)
    return {
        "terms_are_finite": [bool(np.isfinite(float(result[name]))) for name in TERMS],
        "bad_replicas": sorted({int(count) for count in result["bad_gradients"].numpy() if count}),
        "changed": [path for path in after if after[path].tobytes() != before[path].tobytes()],
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
