"""ResNeXt-101: its size, its grouped convolution, and the normalisation of its images."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.backbones import build_features
from refinedet_tf.refinedet.backbones.applications import normalize_imagenet

resnext_module = importlib.import_module("refinedet_tf.refinedet.backbones.resnext101")


def test_resnext_has_the_published_number_of_parameters():
    """44,177,704 with a classifier of 1000 classes, BatchNorm's statistics not counted."""
    images = keras.Input((64, 64, 3))
    sources = build_features(images, ModelConfig(backbone="resnext101"))
    end = keras.Model(images, sources).get_layer("layer4_2_relu").output
    trunk = keras.Model(images, end)
    trainable = sum(int(np.prod(variable.shape)) for variable in trunk.trainable_variables)
    assert trainable == 44_177_704 - (2048 * 1000 + 1000)
    assert tuple(end.shape) == (None, 2, 2, 2048)
    for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 1), ("downsample_0", 2)):
        assert trunk.get_layer(f"layer3_0_{name}").strides == (stride, stride)
    kernel = trunk.get_layer("layer3_5_conv2").kernel
    assert tuple(kernel.shape) == (3, 3, 16, 512)
    assert np.asarray(kernel).std() == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.05)


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolution_and_its_gradient(tf_test, stride):
    """The results are those of one convolution per group on the channels of that group."""
    layer = resnext_module.GroupedConvolution(12, 3, strides=stride, groups=4, padding="same", use_bias=False)
    generator = np.random.default_rng(0)
    features = tf.constant(generator.normal(size=(2, 7, 6, 8)), tf.float32)
    layer.build(features.shape)

    def apart(features, kernel):
        pairs = zip(tf.split(features, 4, -1), tf.split(kernel, 4, -1), strict=True)
        return tf.concat([tf.nn.conv2d(f, k, stride, "SAME") for f, k in pairs], -1)

    results = []
    for function in (layer, lambda f: apart(f, layer.kernel.value)):
        with tf.GradientTape() as tape:
            tape.watch(features)
            output = function(features)
            loss = tf.reduce_sum(output**2)
        results.append([output, *tape.gradient(loss, [features, layer.kernel.value])])
    for found, expected in zip(*results, strict=True):
        tf_test.assertAllClose(found, expected, rtol=1e-4, atol=1e-4)
    again = resnext_module.GroupedConvolution.from_config(layer.get_config())
    assert again.groups == 4


def test_imagenet_normalization_takes_the_mean_colour_to_zero(tf_test):
    colours = np.array([[[[123.675, 116.28, 103.53], [123.675 + 58.395, 116.28, 103.53 - 57.375]]]])
    tf_test.assertAllClose(normalize_imagenet()(colours), [[[[0, 0, 0], [1, 0, -1]]]], rtol=1e-7, atol=1e-5)
