"""A network that trains within seconds, in the place of MobileNetV2, and batches to train it on."""

import numpy as np
import tensorflow as tf
from keras import layers

from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.batch_norm import batch_normalization
from refinedet_tf.refinedet.layers import L2Normalize, ScaleToUnitRange
from refinedet_tf.training import trainer

BACKBONE = "mobilenet_v2"
"""The name of the backbone in a config. Everything else of RefineDet is that of the package."""


def small_backbone(images, config):
    """Four convolutions with BatchNorm, the first one with the L2 normalisation of VGG-16.

    BatchNorm is frozen where `model.batch_norm_statistics` says so.
    """
    frozen = config.batch_norm_statistics != "moving"
    features, sources = ScaleToUnitRange(name="preprocessing")(images), []
    for level, stride in ((3, 8), (4, 2), (5, 2), (6, 2)):
        features = layers.Conv2D(
            8 * (level - 1),
            3,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_uniform",
            name=f"level{level}",
        )(features)
        features = batch_normalization(f"level{level}_norm", config.batch_norm_momentum, frozen)(features)
        features = layers.ReLU(name=f"level{level}_relu")(features)
        sources.append(features)
    return [L2Normalize(10.0, name="level3_l2")(sources[0]), *sources[1:]]


def use_small_backbone():
    """Replaces the backbone in a process that a test starts; tests take the fixture `small_network`."""
    BACKBONES[BACKBONE] = small_backbone


def use_logical_devices(count):
    """Divides the processor before TensorFlow starts; rewriting graphs takes longer than the few steps."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def make_trainer(config, strategy=None, network=None):
    """A compiled `RefineDetTrainer`, as a run makes it; without `network`, that of the config."""
    with (strategy or tf.distribute.get_strategy()).scope():
        return trainer.make_trainer(config, network)


def random_batch(config, seed=0, objects=(2, 1, 3, 1)):
    """Noise with at most 3 objects on each image: numpy arrays as `training_batches` gives them."""
    rng = np.random.default_rng(seed)
    count, max_objects = len(objects), 3  # The shape is always the same, so that a graph is traced once.
    low = rng.uniform(0, 0.5, (count, max_objects, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 0.5, low.shape)], axis=-1)
    labels = rng.integers(1, config.num_classes + 1, (count, max_objects))
    real = np.arange(max_objects) < np.array(objects)[:, None]
    return {
        "images": rng.integers(0, 256, (count, *config.model.image_size, 3), np.uint8),
        "boxes": np.where(real[..., None], boxes, 0).astype(np.float32),
        "labels": np.where(real, labels, 0).astype(np.int32),
    }


def state_of(trainer):
    """Copies of all weights, BatchNorm's moving statistics and the solver's momentum, by path.

    With an average of the weights, it is added, with "average/" before the path of each variable.
    """
    variables = [*trainer.network.variables, *trainer.optimizer.momentums]
    state = {variable.path: variable.numpy().copy() for variable in variables}
    if trainer.average is not None:
        paths = [f"average/{variable.path}" for variable in trainer.network.variables]
        values = [value.numpy().copy() for value in trainer.average.values]
        state |= dict(zip(paths, values, strict=True))
    return state


def assert_same_state(actual, expected):
    """Asserts that two results of `state_of` are equal bit for bit, so that NaN equals NaN."""
    assert actual.keys() == expected.keys() and len(actual) > 10
    for path, value in expected.items():
        assert actual[path].tobytes() == value.tobytes(), path
