"""ImageNet weights in a backbone, from Caffe's, Keras' and PyTorch's files."""

import re

import keras
import numpy as np
import pytest
from caffe_writer import write_caffemodel
from keras import layers
from resnet import resnet
from thin_vgg import STAGES, thin_vgg

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.weights import load_initial_weights, load_weights
from refinedet_tf.weights.blobs import blob_shape, variables_by_blob
from refinedet_tf.weights.imagenet import load_keras_imagenet

PRETRAINED = re.compile(r"conv[1-5]_[1-3]|fc[67]|(bn_|scale_)?conv1|(res|bn|scale)[2-5][a-c]\d*_branch\w+")
"""The layers of the authors' networks for which ImageNet weights exist."""


def pretrained_layers(model, seed=0):
    """Random blobs of the backbone as (layer, type, [arrays])."""
    generator, found = np.random.default_rng(seed), {}
    for (layer, _), variable in sorted(variables_by_blob(model).items(), key=lambda pair: pair[0]):
        if PRETRAINED.fullmatch(layer):
            values = generator.uniform(0.5, 1.5, blob_shape(variable)).astype(np.float32)
            found.setdefault(layer, []).append(values)
    return [(layer, "Any", blobs) for layer, blobs in found.items()]


def own_values(model):
    """The values of the layers that RefineDet adds to the backbone, by path."""
    return {
        variable.path: np.array(variable)
        for (layer, _), variable in variables_by_blob(model).items()
        if not PRETRAINED.fullmatch(layer)
    }


def assert_untouched(tf_test, model, before):
    after = own_values(model)
    assert len(after) > 50
    for path, value in before.items():
        tf_test.assertAllEqual(after[path], value, msg=path)


@pytest.fixture
def vgg():
    return thin_vgg(num_classes=2)


def full_size(layers, inputs=16):
    """fc6 and fc7 as the classification network has them, four times as many channels."""
    generator = np.random.default_rng(1)
    fc6 = generator.normal(size=(4096, inputs * 49)).astype(np.float32)
    fc7 = generator.normal(size=(4096, 4096)).astype(np.float32)
    bias = generator.normal(size=4096).astype(np.float32)
    replaced = {"fc6": [fc6, bias], "fc7": [fc7, bias + 1]}
    return [(name, kind, replaced.get(name, blobs)) for name, kind, blobs in layers], fc6, fc7, bias


def assert_subsampled(tf_test, model, fc6, fc7, bias):
    """fc6: [4096, (channel, row, column)]: rows and columns 0, 3, 6 and every fourth output."""
    kernel = np.asarray(model.get_layer("fc6").kernel)
    for row, column, channel, output in ((0, 0, 0, 0), (1, 2, 5, 7), (2, 1, 15, 1023), (2, 2, 3, 500)):
        assert (
            kernel[row, column, channel, output] == fc6[4 * output, channel * 49 + 3 * row * 7 + 3 * column]
        )
    kernel = np.asarray(model.get_layer("fc7").kernel)
    for channel, output in ((0, 0), (1, 0), (0, 1), (1023, 500)):
        assert kernel[0, 0, channel, output] == fc7[4 * output, 4 * channel]
    tf_test.assertAllEqual(model.get_layer("fc6").bias, bias[::4])
    tf_test.assertAllEqual(model.get_layer("fc7").bias, bias[::4] + 1)


@pytest.mark.parametrize("v1", [False, True])
def test_reduced_vgg16_of_caffe(tf_test, v1, vgg, tmp_path):
    file = tmp_path / "VGG_ILSVRC_16_layers_fc_reduced.caffemodel"
    arrays = pretrained_layers(vgg)
    write_caffemodel(file, [*arrays, ("fc8", "InnerProduct", [np.ones((10, 1024))])], v1=v1, old_shapes=v1)
    before = own_values(vgg)
    with pytest.warns(UserWarning, match="holds ImageNet weights: they filled the backbone"):
        filled = load_weights(vgg, file)
    stages = [f"conv{s}_{i}" for s, (count, _) in enumerate(STAGES, 1) for i in range(1, count + 1)]
    assert filled == [*stages, "fc6", "fc7"]
    for name, _, (kernel, bias) in arrays:
        tf_test.assertAllEqual(vgg.get_layer(name).kernel, kernel.transpose(2, 3, 1, 0))
        tf_test.assertAllEqual(vgg.get_layer(name).bias, bias)
    assert_untouched(tf_test, vgg, before)


def test_whole_vgg16_of_caffe(tf_test, vgg, tmp_path, recwarn):
    file = tmp_path / "VGG_ILSVRC_16_layers.caffemodel"
    arrays, *expected = full_size(pretrained_layers(vgg))
    write_caffemodel(file, arrays, v1=True, old_shapes=True)
    load_initial_weights(vgg, ModelConfig(weights=str(file)))
    assert_subsampled(tf_test, vgg, *expected)
    assert not [w for w in recwarn if "ImageNet" in str(w.message)]


def test_resnet101_of_caffe(tf_test, tmp_path):
    model = resnet(image_size=(64, 64))
    file = tmp_path / "ResNet-101-model.caffemodel"
    arrays = pretrained_layers(model)
    write_caffemodel(file, [*arrays, ("fc1000", "InnerProduct", [np.ones((9, 8)), np.ones(9)])])
    before = own_values(model)
    filled = load_initial_weights(model, ModelConfig(backbone="resnet101", weights=str(file))).layers
    assert len(filled) == 2 * (1 + 4 + 3 * (3 + 4 + 23 + 3))
    blobs = {name: value for name, _, value in arrays}
    sums, variances, weight = blobs["bn4b22_branch2c"]
    norm = model.get_layer("res4b22_branch2c_bn")
    tf_test.assertAllClose(norm.moving_mean, sums / weight, rtol=1e-6, atol=0)
    tf_test.assertAllClose(norm.moving_variance, variances / weight, rtol=1e-6, atol=0)
    tf_test.assertAllEqual(norm.gamma, blobs["scale4b22_branch2c"][0])
    tf_test.assertAllEqual(norm.beta, blobs["scale4b22_branch2c"][1])
    assert_untouched(tf_test, model, before)


def test_missing_and_unknown_layers_are_named(vgg, tmp_path):
    file = tmp_path / "some.caffemodel"
    arrays = [layer for layer in pretrained_layers(vgg) if layer[0] != "conv5_2"]
    write_caffemodel(file, [*arrays, ("conv6_9", "Convolution", [np.ones((2, 2, 1, 1))])])
    message = r"2 missing \(conv5_2 blob 0, conv5_2 blob 1\); 1 left over \(conv6_9 blob 0\)"
    with pytest.raises(InputError, match=message):
        load_weights(vgg, file)


def small_keras_vgg16():
    """Keras' network, layers and names, with the channels of the thin one."""
    images = features = keras.Input((224, 224, 3))
    for stage, (convolutions, channels) in enumerate(STAGES, 1):
        for index in range(1, convolutions + 1):
            features = layers.Conv2D(channels, 3, padding="same", name=f"block{stage}_conv{index}")(features)
        features = layers.MaxPooling2D()(features)
    features = layers.Flatten()(features)
    for name, width in (("fc1", 4096), ("fc2", 4096), ("predictions", 10)):
        features = layers.Dense(width, bias_initializer="normal", name=name)(features)
    return keras.Model(images, features)


def test_vgg16_of_keras(tf_test, vgg, monkeypatch):
    classifier = small_keras_vgg16()
    classifier.get_layer("block4_conv2").bias.assign(np.arange(16.0))
    monkeypatch.setattr(keras.applications, "VGG16", lambda weights: classifier)
    before = own_values(vgg)
    load_keras_imagenet(vgg, "imagenet")
    kernel, bias = classifier.get_layer("block4_conv2").get_weights()
    tf_test.assertAllEqual(vgg.get_layer("conv4_2").kernel, kernel)
    tf_test.assertAllEqual(vgg.get_layer("conv4_2").bias, bias)
    fc1, fc1_bias = classifier.get_layer("fc1").get_weights()
    fc2, fc2_bias = classifier.get_layer("fc2").get_weights()
    kernel = np.asarray(vgg.get_layer("fc6").kernel)
    for row, column, channel, output in ((0, 0, 0, 0), (1, 2, 5, 7), (2, 1, 15, 1023)):
        # Keras flattens (row, column, channel).
        assert (
            kernel[row, column, channel, output] == fc1[(3 * row * 7 + 3 * column) * 16 + channel, 4 * output]
        )
    tf_test.assertAllEqual(np.asarray(vgg.get_layer("fc7").kernel)[0, 0], fc2[::4, ::4])
    tf_test.assertAllEqual(vgg.get_layer("fc6").bias, fc1_bias[::4])
    tf_test.assertAllEqual(vgg.get_layer("fc7").bias, fc2_bias[::4])
    assert_untouched(tf_test, vgg, before)


@pytest.mark.slow
def test_resnet101_of_keras_computes_the_same(tf_test, monkeypatch):
    """The outputs agree from after the first pooling, which Keras pads differently, to the last stage."""
    network = keras.applications.ResNet101(weights=None, include_top=False)
    generator = np.random.default_rng(0)
    for variable in network.weights:
        if variable.name != "kernel":
            low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.5
            variable.assign(generator.uniform(low, low + 1, variable.shape))
    monkeypatch.setattr(keras.applications, "ResNet101", lambda weights, include_top: network)
    model = resnet(thin=False, image_size=(64, 64))
    load_initial_weights(model, ModelConfig(backbone="resnet101", weights="imagenet"))

    def between(whole, first, last):
        return keras.Model(whole.get_layer(first).output, whole.get_layer(last).output)

    features = generator.uniform(0, 1, (1, 16, 16, 64)).astype(np.float32)
    expected = np.asarray(between(network, "pool1_pool", "conv5_block3_out")(features))
    found = np.asarray(between(model, "pool1", "res5c_relu")(features))
    tf_test.assertAllClose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    # conv1 lies before the pooling.
    tf_test.assertAllEqual(model.get_layer("conv1").kernel, network.get_layer("conv1_conv").kernel)
    bias, mean = network.get_layer("conv1_conv").bias, network.get_layer("conv1_bn").moving_mean
    tf_test.assertAllClose(
        model.get_layer("conv1_bn").moving_mean, np.asarray(mean) - np.asarray(bias), rtol=1e-6, atol=0
    )


def test_no_such_keras_file(vgg):
    with pytest.raises(InputError, match=r"model.weights gone.h5: .*vgg16_weights_tf_dim_ordering"):
        load_initial_weights(vgg, ModelConfig(weights="gone.h5"))
