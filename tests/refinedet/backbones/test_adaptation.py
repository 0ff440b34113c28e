"""The rules by which a network of Keras becomes a backbone, on a network small enough to see them."""

import keras
import numpy as np
import pytest
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.backbones.adaptation import adapted, copy_weights
from refinedet_tf.refinedet.backbones.applications import find_levels
from refinedet_tf.refinedet.batch_norm import BatchNormalization


def small_network():
    """Stride 8 ends in `level8`; then a block of three branches, a residual one, stride 32."""
    images = keras.Input((None, None, 3))
    features = layers.Conv2D(8, 3, strides=2, name="stem")(images)
    features = layers.BatchNormalization(scale=False)(features)
    features = layers.ZeroPadding2D(1, name="symmetric")(features)
    features = layers.MaxPooling2D(3, strides=2, name="pool")(features)
    features = layers.ZeroPadding2D(((0, 1), (0, 1)), name="for_even_sizes")(features)
    features = layers.DepthwiseConv2D(3, strides=2, name="level8")(features)
    branches = [layers.Conv2D(8, 1)(features), layers.MaxPooling2D(3, strides=2)(features)]
    branches[0] = layers.Conv2D(4, 3, strides=2)(branches[0])
    features = shortcut = layers.Concatenate(name="level16_start")(branches)
    features = layers.Conv2D(12, 5, padding="same", groups=12, name="grouped")(features)
    features = layers.Dropout(0.5)(features)
    features = shortcut + layers.Conv2D(12, 3, padding="same", name="residual")(features)
    features = layers.BatchNormalization(name="level16")(features)
    features = layers.Conv2D(16, 3, strides=2, name="level32")(features)
    return keras.Model(images, features)


@pytest.mark.parametrize("statistics", ["moving", "frozen_backbone", "frozen"])
def test_adapted_layers(statistics):
    network = small_network()
    model_config = ModelConfig(batch_norm_statistics=statistics, batch_norm_momentum=0.7)
    copy, pairs = adapted(network, model_config)
    assert [op.name for op in find_levels(copy)] == ["level8", "level16", "level32"]
    # However many networks were made before.
    assert {layer.name for layer in copy.layers} > {"batch_normalization", "conv2d", "conv2d_1"}
    for name in ("batch_normalization", "level16"):
        norm = copy.get_layer(name)
        assert isinstance(norm, BatchNormalization)
        assert (norm.momentum, norm.frozen, norm.epsilon) == (0.7, statistics != "moving", 1e-3)
    assert not copy.get_layer("batch_normalization").scale and copy.get_layer("level16").scale
    names = {layer.name for layer in copy.layers}
    assert "symmetric" in names and not {"for_even_sizes", "dropout"} & names
    paddings = {name: copy.get_layer(name).padding for name in ("stem", "pool", "level8", "conv2d_1")}
    assert paddings == {"stem": "same", "pool": "valid", "level8": "same", "conv2d_1": "same"}
    for size in ((64, 64), (65, 70), (95, 101)):
        shape = copy.compute_output_shape((1, *size, 3))
        assert tuple(shape[1:3]) == tuple(-(-side // 32) for side in size)


def test_a_group_for_each_channel_is_a_depthwise_convolution(tf_test):
    network = small_network()
    copy, pairs = adapted(network, ModelConfig())
    copy_weights(pairs)
    found, expected = copy.get_layer("grouped"), network.get_layer("grouped")
    assert isinstance(found, layers.DepthwiseConv2D)
    features = np.random.default_rng(0).normal(size=(1, 6, 7, 12)).astype(np.float32)
    tf_test.assertAllClose(found(features), expected(features), rtol=1e-4, atol=1e-5)
    tf_test.assertAllEqual(copy.get_layer("stem").kernel, network.get_layer("stem").kernel)


def test_initial_values():
    """Kernels with the default of Keras start with different values of He; a stated initializer stays."""
    images = keras.Input((None, None, 64))
    features = layers.Conv2D(64, 3, name="first")(images)
    features = layers.Conv2D(64, 3, name="second")(features)
    features = layers.DepthwiseConv2D(3, name="depthwise")(features)
    threes = keras.initializers.Constant(3)
    features = layers.Conv2D(64, 3, kernel_initializer=threes, name="constant")(features)
    copy, _ = adapted(keras.Model(images, features), ModelConfig())
    first, second = (np.asarray(copy.get_layer(name).kernel) for name in ("first", "second"))
    for kernel in (first, second):
        assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)
    assert np.abs(first - second).max() > 0.05
    assert np.asarray(copy.get_layer("depthwise").kernel).std() == pytest.approx(np.sqrt(2 / 9), rel=0.15)
    assert (np.asarray(copy.get_layer("constant").kernel) == 3).all()


def test_a_network_without_a_level():
    images = keras.Input((None, None, 3))
    features = layers.Conv2D(4, 3, strides=16, padding="same")(images)
    with pytest.raises(ValueError, match="no level of stride 8"):
        find_levels(keras.Model(images, layers.Conv2D(4, 3, strides=2, padding="same")(features)))
