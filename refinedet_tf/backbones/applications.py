"""Adapter from keras.applications to the four levels of RefineDet."""

import math

import keras
from keras import layers

from refinedet_tf.batch_norm import BatchNormalization, batch_normalization
from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.layers import L2Normalize, ScaleToUnitRange, caffe_xavier

MOBILENET_V2_SOURCES = ("block_6_expand_relu", "block_13_expand_relu", "out_relu")
"""The last layers of strides 8, 16 and 32: what the next stride-2 convolution sees."""

SOURCE_SCALE = 2.0
"""Initial norm of a source's feature vectors, that of conv5_3 in the paper."""


def mobilenet_v2(images, config: ModelConfig):
    """MobileNetV2 (Sandler et al., CVPR 2018) with one more stage of stride 64."""
    height, width = images.shape[1:3]
    try:
        network = keras.applications.MobileNetV2(
            input_shape=(height, width, 3),
            alpha=config.width_multiplier,
            include_top=False,
            weights="imagenet" if config.weights == "imagenet" else None,
        )
    except ValueError as error:
        raise InputError(f"model.width_multiplier {config.width_multiplier:g}: {error}") from None
    adapted = _adapted(network, config)
    if config.weights == "imagenet":
        _copy_weights(network, adapted)
    network = adapted
    outputs = [network.get_layer(name).output for name in MOBILENET_V2_SOURCES]
    trunk = keras.Model(network.input, outputs, name="mobilenet_v2")
    sources = trunk(ScaleToUnitRange(name="preprocessing")(images))
    sources = [*sources, _stride_64(sources[-1], config)]
    # As in VGG-16: heads on hundreds of channels of unbounded size would diverge at the usual rates.
    return [
        L2Normalize(SOURCE_SCALE, name=f"source{level}_norm")(source)
        for level, source in enumerate(sources, 3)
    ]


def _adapted(network, config):
    """The network with BatchNorm layers of our kind, padding for any size, and new initial weights."""
    frozen = config.batch_norm_statistics != "moving"

    def clone(layer):
        if isinstance(layer, layers.BatchNormalization):
            return batch_normalization(
                layer.name,
                config.batch_norm_momentum,
                frozen,
                epsilon=layer.epsilon,
                dtype=layer.dtype_policy,
            )
        # Keras pads for the parity of a known size. "same" pads as much, for any size.
        if isinstance(layer, layers.ZeroPadding2D):
            return layers.Identity(name=layer.name)
        if isinstance(layer, layers.DepthwiseConv2D):
            changes = {"padding": "same", "depthwise_initializer": _he_depthwise()}
            return layers.DepthwiseConv2D.from_config({**layer.get_config(), **changes})
        if isinstance(layer, layers.Conv2D):
            return layers.Conv2D.from_config({**layer.get_config(), "kernel_initializer": "he_normal"})
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=clone)


def _copy_weights(pretrained, adapted):
    for layer in pretrained.layers:
        own, weights = adapted.get_layer(layer.name), layer.get_weights()
        if isinstance(own, BatchNormalization):
            weights.append(own.converged_weight)
        own.set_weights(weights)


def _he_depthwise():
    """He initialisation of a 3x3 depthwise kernel, whose fan-in is its 9 taps.

    Keras counts all channels and starts many times smaller; behind BatchNorm that means huge first
    updates, after which the weights are so large that they hardly learn.
    """
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / 9))


def _stride_64(features, config: ModelConfig):
    """1x1 to half the channels of VGG's extra layers, 3x3 with stride 2, each with BatchNorm."""
    momentum, frozen = config.batch_norm_momentum, config.batch_norm_statistics == "frozen"
    features = layers.Conv2D(256, 1, use_bias=False, kernel_initializer=caffe_xavier(), name="extra_1")(
        features
    )
    features = batch_normalization("extra_1_norm", momentum, frozen)(features)
    features = layers.ReLU(name="extra_1_relu")(features)
    features = layers.ZeroPadding2D(1, name="extra_2_padding")(features)
    features = layers.Conv2D(
        512, 3, strides=2, use_bias=False, kernel_initializer=caffe_xavier(), name="extra_2"
    )(features)
    features = batch_normalization("extra_2_norm", momentum, frozen)(features)
    return layers.ReLU(name="extra_2_relu")(features)
