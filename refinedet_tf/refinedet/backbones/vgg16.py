"""VGG-16 with fc6 and fc7 as convolutions, and with conv6 added (paper, section 3.1)."""

from typing import Any

import keras
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.layers import L2Normalize, SubtractMean, caffe_xavier

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""The number of convolutions of conv1 to conv5, and their channels."""


def vgg16(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds VGG-16 and returns conv4_3 and conv5_3 (L2-normalised), fc7 and conv6_2.

    The layers have the names of the authors' Caffe program. The level of stride 4, which the paper does not
    have, is conv3_3, L2-normalised with the initial scale that S3FD (Zhang et al., ICCV 2017) gives it.

    Args:
        images: [B, H, W, 3], RGB 0..255; H and W may be None.
        model_config: `channel_order` and `has_stride_4` are used.

    Returns:
        Feature maps [B, ceil(H / stride), ceil(W / stride), C] of strides 8, 16, 32 and 64, after that of
        stride 4 if it is wanted.
    """
    features = SubtractMean(model_config.channel_order, name="preprocessing")(images)
    stage_ends = []
    for stage, (convolutions, channels) in enumerate(STAGES, 1):
        for index in range(1, convolutions + 1):
            features = _convolution(features, channels, 3, f"conv{stage}_{index}")
        stage_ends.append(features)
        # "same" rounds the size up, as Caffe's pooling does.
        features = layers.MaxPooling2D(2, padding="same", name=f"pool{stage}")(features)
    features = _convolution(features, 1024, 3, "fc6", dilation_rate=3)
    fc7 = _convolution(features, 1024, 1, "fc7")
    features = _convolution(fc7, 256, 1, "conv6_1")
    # Keras' "same" pads an even side at one end only, but Caffe pads one pixel at both ends.
    padded = layers.ZeroPadding2D(1, name="conv6_2_padding")(features)
    conv6_2 = _convolution(padded, 512, 3, "conv6_2", strides=2, padding="valid")
    stride_4 = [L2Normalize(10.0, name="conv3_3_norm")(stage_ends[2])] if model_config.has_stride_4 else []
    return [
        *stride_4,
        L2Normalize(10.0, name="conv4_3_norm")(stage_ends[3]),
        L2Normalize(8.0, name="conv5_3_norm")(stage_ends[4]),
        fc7,
        conv6_2,
    ]


def _convolution(
    features: keras.KerasTensor,
    channels: int,
    kernel_size: int,
    name: str,
    padding: str = "same",
    **kwargs: Any,
) -> keras.KerasTensor:
    """Builds a convolution with ReLU; `kwargs` are further arguments of Keras' layer."""
    return layers.Conv2D(
        channels,
        kernel_size,
        padding=padding,
        activation="relu",
        kernel_initializer=caffe_xavier(),
        name=name,
        **kwargs,
    )(features)
