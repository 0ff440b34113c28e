"""ResNeXt-101 32x4d (Xie et al., CVPR 2017), which the paper names as usable (section 3.1).

The network is torchvision's: the stride is in the 3x3 convolution, padding is symmetric, convolutions
have no bias, and ReLU follows the addition. Layers have torchvision's names, with underscores.
"""

import keras
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.backbones.applications import normalize_imagenet, with_stride_64
from refinedet_tf.refinedet.batch_norm import batch_normalization
from refinedet_tf.tensors import Tensor

STAGES = ((3, 128), (4, 256), (23, 512), (3, 1024))
"""The number of blocks of the four stages, and the channels of their 3x3 convolutions.

The channels per group are 4, 8, 16 and 32.
"""

GROUPS = 32
"""The number of groups of the 3x3 convolutions."""

EXPANSION = 2
"""The output channels of a block per channel of its 3x3 convolution."""


def resnext101(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds ResNeXt-101 and returns the ends of stages 2 to 4 and one more stage, L2-normalised.

    The level of stride 4, which precedes them if it is wanted, is the end of stage 1.

    Args:
        images: [B, H, W, 3], RGB 0..255; H and W may be None.
        model_config: `has_stride_4`, `batch_norm_momentum` and `batch_norm_statistics` are used.

    Returns:
        Feature maps [B, ceil(H / stride), ceil(W / stride), C] of strides 8, 16, 32 and 64, after that of
        stride 4 if it is wanted.
    """
    features = normalize_imagenet()(images)
    features = _convolution(features, "conv1", "bn1", 64, 7, model_config, stride=2)
    features = layers.ReLU(name="relu")(features)
    # After a ReLU, padding with zeros does not change the maximum.
    features = layers.ZeroPadding2D(1, name="maxpool_padding")(features)
    features = layers.MaxPooling2D(3, strides=2, name="maxpool")(features)
    sources = []
    for stage, (blocks, width) in enumerate(STAGES, 1):
        for index in range(blocks):
            stride = 2 if index == 0 and stage > 1 else 1
            features = _block(features, f"layer{stage}_{index}", width, stride, index == 0, model_config)
        sources.append(features)
    return with_stride_64(sources[0 if model_config.has_stride_4 else 1 :], model_config)


def _block(
    features: keras.KerasTensor,
    name: str,
    width: int,
    stride: int,
    projection: bool,
    model_config: ModelConfig,
) -> keras.KerasTensor:
    """Builds 1x1, grouped 3x3 (with the stride) and 1x1 convolutions with a shortcut, and a final ReLU.

    Args:
        features: [B, H, W, C].
        name: the name of the block, the first part of its layers' names.
        width: the channels of the first two convolutions.
        stride: the stride of the 3x3 convolution and of the projection.
        projection: whether the input passes through a 1x1 convolution before it is added.
        model_config: `batch_norm_momentum` and `batch_norm_statistics` are used.
    """
    shortcut = features
    if projection:
        shortcut = _convolution(
            features,
            f"{name}_downsample_0",
            f"{name}_downsample_1",
            EXPANSION * width,
            1,
            model_config,
            stride=stride,
        )
    features = _convolution(features, f"{name}_conv1", f"{name}_bn1", width, 1, model_config)
    features = layers.ReLU(name=f"{name}_relu1")(features)
    features = _convolution(
        features, f"{name}_conv2", f"{name}_bn2", width, 3, model_config, stride=stride, groups=GROUPS
    )
    features = layers.ReLU(name=f"{name}_relu2")(features)
    features = _convolution(features, f"{name}_conv3", f"{name}_bn3", EXPANSION * width, 1, model_config)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=name)([shortcut, features]))


def _convolution(
    features: keras.KerasTensor,
    name: str,
    norm_name: str,
    channels: int,
    kernel_size: int,
    model_config: ModelConfig,
    stride: int = 1,
    groups: int = 1,
) -> keras.KerasTensor:
    """Builds a convolution with BatchNorm, padded by half its kernel size on every side."""
    if kernel_size > 1:
        features = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_padding")(features)
    layer_class = layers.Conv2D if groups == 1 else GroupedConvolution
    features = layer_class(
        channels,
        kernel_size,
        strides=stride,
        groups=groups,
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(features)
    frozen = model_config.batch_norm_statistics != "moving"
    return batch_normalization(norm_name, model_config.batch_norm_momentum, frozen)(features)


@keras.saving.register_keras_serializable("refinedet_tf")
class GroupedConvolution(layers.Conv2D):
    """A Conv2D with groups that TensorFlow computes without XLA.

    Keras compiles such convolutions with XLA on every device, because TensorFlow once had no kernel
    for CPUs. On CPUs the gradient then takes hundreds of times longer. TensorFlow's convolution derives
    the groups from the kernel's shape, and is a single Conv2D operation in an exported graph. On CPUs
    its gradient needs oneDNN, which is on by default on x86-64.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
