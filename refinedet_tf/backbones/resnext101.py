"""ResNeXt-101 32x4d (Xie et al., CVPR 2017), which the paper names as usable (section 3.1).

As torchvision builds it: the stride sits in the 3x3, padding is symmetric, convolutions have no bias,
ReLU follows the addition. Layer names are torchvision's, with underscores.
"""

import keras
from keras import layers

from refinedet_tf.backbones.applications import normalize_imagenet, with_stride_64
from refinedet_tf.batch_norm import batch_normalization
from refinedet_tf.config import ModelConfig

STAGES = ((3, 128), (4, 256), (23, 512), (3, 1024))
"""Blocks of the four stages, and the channels of their 3x3 convolutions: 4, 8, 16, 32 a group."""

GROUPS = 32

EXPANSION = 2
"""A block's outputs per channel of its 3x3 convolution."""


def resnext101(images, config: ModelConfig):
    """The ends of stages 2 to 4 and one more stage: strides 8, 16, 32, 64, L2-normalised.

    Args, returns: as `application`.
    """
    features = normalize_imagenet()(images)
    features = _convolution(features, "conv1", "bn1", 64, 7, config, stride=2)
    features = layers.ReLU(name="relu")(features)
    # Behind a ReLU a zero is no more than nothing.
    features = layers.ZeroPadding2D(1, name="maxpool_padding")(features)
    features = layers.MaxPooling2D(3, strides=2, name="maxpool")(features)
    sources = []
    for stage, (blocks, width) in enumerate(STAGES, 1):
        for index in range(blocks):
            stride = 2 if index == 0 and stage > 1 else 1
            features = _block(features, f"layer{stage}_{index}", width, stride, index == 0, config)
        sources.append(features)
    return with_stride_64(sources[1:], config)


def _block(features, name, width, stride, projection, config):
    """1x1, grouped 3x3 with the stride, 1x1; plus the input, or its projection; ReLU."""
    shortcut = features
    if projection:
        shortcut = _convolution(
            features,
            f"{name}_downsample_0",
            f"{name}_downsample_1",
            EXPANSION * width,
            1,
            config,
            stride=stride,
        )
    features = _convolution(features, f"{name}_conv1", f"{name}_bn1", width, 1, config)
    features = layers.ReLU(name=f"{name}_relu1")(features)
    features = _convolution(
        features, f"{name}_conv2", f"{name}_bn2", width, 3, config, stride=stride, groups=GROUPS
    )
    features = layers.ReLU(name=f"{name}_relu2")(features)
    features = _convolution(features, f"{name}_conv3", f"{name}_bn3", EXPANSION * width, 1, config)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=name)([shortcut, features]))


def _convolution(features, name, norm_name, channels, kernel_size, config, stride=1, groups=1):
    """A convolution with BatchNorm, padded by half its kernel at every side."""
    if kernel_size > 1:
        features = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_padding")(features)
    kind = layers.Conv2D if groups == 1 else GroupedConvolution
    features = kind(
        channels,
        kernel_size,
        strides=stride,
        groups=groups,
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(features)
    frozen = config.batch_norm_statistics != "moving"
    return batch_normalization(norm_name, config.batch_norm_momentum, frozen)(features)


@keras.saving.register_keras_serializable("refinedet_tf")
class GroupedConvolution(layers.Conv2D):
    """Conv2D with groups that TensorFlow computes without XLA.

    Keras compiles them with XLA on every device, because TensorFlow once had no kernel for CPUs; on
    CPUs the gradient then takes hundreds of times longer. TensorFlow's own convolution finds the
    groups from the kernel's shape, and stays one Conv2D operation in an exported graph.
    On CPUs its gradient needs oneDNN, which is on by default on x86-64.
    """

    def convolution_op(self, inputs, kernel):
        if keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
