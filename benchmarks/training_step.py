"""What a training step costs, and which share its parts have: python benchmarks/training_step.py

Prints one JSON line with the median seconds of the whole step (forward, loss, gradients, update) and of some
parts, each a graph of its own, measured in turns: the loss (matching, mining, four terms and their gradients
with respect to the heads), the update of all variables, and all layers of BatchNorm and all depthwise
convolutions, forward and backward. `shares` are those of the step. With --keras, the plain step of
keras.applications.MobileNetV2 takes turns, too: mean square of its features, SGD with momentum, the same
batch and image size; `to_keras` is the seconds of this step divided by those of that one.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

import networks
import numpy as np
import timing

from refinedet_tf.commands.options import config_from
from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import Config, with_classes
from refinedet_tf.tensors import Heads, Tensor

if TYPE_CHECKING:
    import keras

    from refinedet_tf.training.trainer import RefineDetTrainer

OBJECTS = 20
"""Objects per image; VOC has 2.4 on average, COCO 7.3."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    networks.add_config_options_with_default(parser)
    parser.add_argument("--batch-size", type=int, default=4, help="images per step (default: 4)")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each (default: 5)")
    parser.add_argument("--keras", action="store_true", help="compare with keras.applications.MobileNetV2")
    options = parser.parse_args(arguments)
    config = config_from(options)
    if config.data.classes is None:
        config = with_classes(config, ("a", "b", "c"))
    import_tensorflow()
    import tensorflow as tf

    from refinedet_tf.inference.compiled_detector import network_size

    image_size = network_size(config)
    trainer = networks.make_trainer(config)
    train_step = tf.function(trainer.train_step)
    batch = random_batch(options.batch_size, image_size, config.num_classes)
    heads = trainer.network(batch["images"])
    loss_and_gradients = compiled_loss(trainer.anchors, config)
    calls = {
        "step": lambda: train_step(batch),
        "loss": lambda: loss_and_gradients(heads, batch),
        "update": compiled_update(trainer),
        **compiled_layers(trainer, batch["images"]),
    }
    if options.keras:
        calls["keras"] = keras_step(batch["images"])
    milliseconds = timing.measure_in_turns(calls, options.runs, warm_up_rounds=1)
    seconds = {name: float(np.median(values)) / 1e3 for name, values in milliseconds.items()}
    step, keras_seconds = seconds.pop("step"), seconds.pop("keras", None)
    result = {
        "step_seconds": round(step, 4),
        "shares": {name: round(value / step, 4) for name, value in seconds.items()},
        "keras_seconds": keras_seconds and round(keras_seconds, 4),
        "to_keras": keras_seconds and round(step / keras_seconds, 3),
        "config": config.name,
        "precision": config.training.precision,
        "batch_size": options.batch_size,
        "objects_per_image": OBJECTS,
        "runs": options.runs,
    }
    print(json.dumps(result))


def compiled_update(trainer: "RefineDetTrainer") -> Callable[[], Tensor]:
    """The update of all variables with gradients of ones."""
    import tensorflow as tf

    variables = trainer.network.trainable_variables
    gradients = [tf.ones(variable.shape) for variable in variables]

    @tf.function
    def update() -> Tensor:
        trainer.optimizer.update_if(tf.constant(True), gradients, variables)
        return tf.zeros([])

    return update


def compiled_layers(trainer: "RefineDetTrainer", images: np.ndarray) -> dict[str, Callable[[], Tensor]]:
    """All BatchNorm layers, and all depthwise convolutions, on inputs of the shapes that images give them.

    Each call computes their outputs and the gradients of their inputs and variables.
    """
    import keras
    import tensorflow as tf

    from refinedet_tf.refinedet.batch_norm import BatchNormalization

    def compiled(calls: list[tuple[keras.layers.Layer, Tensor]]) -> Callable[[], Tensor]:
        @tf.function
        def forward_and_backward() -> Tensor:
            total = tf.zeros([])
            for layer, inputs in calls:
                with tf.GradientTape() as tape:
                    tape.watch(inputs)
                    outputs = layer(inputs, training=True)
                wanted = [inputs, *(variable.value for variable in layer.trainable_variables)]
                gradients = tape.gradient(outputs, wanted, output_gradients=outputs)
                # One element keeps what was computed from being removed from the graph.
                total += tf.add_n([tf.cast(tf.reshape(g, [-1])[0], tf.float32) for g in gradients])
            return total

        return forward_and_backward

    kinds = {"batch_norm": BatchNormalization, "depthwise": keras.layers.DepthwiseConv2D}
    functions: dict[str, Callable[[], Tensor]] = {}
    for name, kind in kinds.items():
        calls = calls_of(kind, trainer, images)
        if calls:
            with_inputs = [
                (layer, tf.cast(tf.random.normal(shape), layer.compute_dtype)) for layer, shape in calls
            ]
            functions[name] = compiled(with_inputs)
    return functions


def calls_of(
    kind: type["keras.layers.Layer"], trainer: "RefineDetTrainer", images: np.ndarray
) -> list[tuple["keras.layers.Layer", tuple[int, ...]]]:
    """The layers of a kind that a network calls for a batch of images, and the shapes of their inputs."""
    calls: list[tuple[keras.layers.Layer, tuple[int, ...]]] = []
    original = kind.call

    def call(layer: "keras.layers.Layer", inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        calls.append((layer, tuple(inputs.shape)))
        return original(layer, inputs, *arguments, **options)

    with mock.patch.object(kind, "call", call):
        trainer.network(images)
    return calls


def keras_step(images: np.ndarray) -> Callable[[], Tensor]:
    """A step of keras.applications.MobileNetV2 alone: mean square of its features, SGD with momentum."""
    import keras
    import tensorflow as tf

    network = keras.applications.MobileNetV2(include_top=False, input_shape=images.shape[1:], weights=None)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(network.trainable_variables)
    inputs = tf.constant(images / np.float32(127.5) - np.float32(1))

    @tf.function
    def step() -> Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(network(inputs, training=True)))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    return step


def compiled_loss(
    anchors: np.ndarray, config: Config, input_signature: Sequence[Mapping[str, Tensor]] | None = None
) -> Callable[[Heads, Mapping[str, Tensor]], dict[str, Tensor]]:
    """The gradients of the loss with respect to the heads, as a graph of heads and ground truth.

    With an input signature, the specifications of the two, the graph is traced once.
    """
    import tensorflow as tf

    from refinedet_tf.refinedet.losses import TERMS, refinedet_loss

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
