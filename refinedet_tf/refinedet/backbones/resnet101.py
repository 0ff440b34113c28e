"""ResNet-101 in the authors' topology, with res6 added and a bottleneck block before the heads.

The paper only names the network; the authors' program defines the details. The stride is in the first
1x1 convolution of a stage, the first pooling is not padded at the start, convolutions have no bias, and
res6 is one more bottleneck block. Layers have the names of that program; a BatchNorm layer has the name
of its convolution with the suffix _bn.
"""

import keras
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.batch_norm import batch_normalization
from refinedet_tf.refinedet.layers import SubtractMean, gaussian

STAGES = ((3, 64), (4, 128), (23, 256), (3, 512))
"""The number of blocks of res2 to res5, and the channels of their 3x3 convolutions."""

EXPANSION = 4
"""The output channels of a block per channel of its 3x3 convolution."""

RES6_CHANNELS = (128, 512)
"""The inner and output channels of res6."""

HEAD_BLOCK_CHANNELS = (256, 1024)
"""The inner and output channels of the blocks before the heads."""


def resnet101(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds ResNet-101 and returns res3b3, res4b22, res5c and res6, of strides 8, 16, 32 and 64.

    The level of stride 4, which precedes them if it is wanted, is res2c.

    Args:
        images: [B, H, W, 3], RGB 0..255; H and W may be None.
        model_config: `channel_order`, `has_stride_4`, `batch_norm_momentum` and `batch_norm_statistics` are
            used.
    """
    frozen = model_config.batch_norm_statistics != "moving"
    features = SubtractMean(model_config.channel_order, name="preprocessing")(images)
    features = layers.ZeroPadding2D(3, name="conv1_padding")(features)
    features = _convolution(features, "conv1", 64, 7, 2, model_config, frozen)
    features = layers.ReLU(name="conv1_relu")(features)
    # Caffe rounds the size up: windows start at pixel 0 and may reach over the far edge. The values there
    # must not count, and zeros do not count after a ReLU.
    features = layers.ZeroPadding2D(((0, 2), (0, 2)), name="pool1_padding")(features)
    features = layers.MaxPooling2D(3, strides=2, name="pool1")(features)
    stage_ends = []
    for stage, (_, channels) in enumerate(STAGES, 2):
        for index, name in enumerate(block_names(stage)):
            stride = 2 if index == 0 and stage > 2 else 1
            widths = (channels, EXPANSION * channels)
            features = bottleneck(features, name, widths, stride, index == 0, model_config, frozen)
        stage_ends.append(features)
    res6_frozen = model_config.batch_norm_statistics == "frozen"
    res6 = bottleneck(features, "res6", RES6_CHANNELS, 2, True, model_config, res6_frozen)
    return [*stage_ends[0 if model_config.has_stride_4 else 1 :], res6]


def head_block(features: keras.KerasTensor, name: str, model_config: ModelConfig) -> keras.KerasTensor:
    """Builds the bottleneck block that precedes the heads of one level; the output is [B, H, W, 1024]."""
    frozen = model_config.batch_norm_statistics == "frozen"
    return bottleneck(features, f"{name}_block", HEAD_BLOCK_CHANNELS, 1, True, model_config, frozen)


def bottleneck(
    features: keras.KerasTensor,
    name: str,
    channels: tuple[int, int],
    stride: int,
    projection: bool,
    model_config: ModelConfig,
    frozen: bool,
) -> keras.KerasTensor:
    """Builds a bottleneck block.

    It applies 1x1 (with the stride), 3x3 and 1x1 convolutions, each with BatchNorm, adds the input or
    its projection, and applies ReLU.

    Args:
        features: [B, H, W, C].
        name: the name of the block. Its convolutions are called `NAME_branch1` (the projection),
            `NAME_branch2a`, `NAME_branch2b` and `NAME_branch2c`, as in the authors' program.
        channels: the channels of the first two convolutions, and of the output.
        stride: the stride of the first 1x1 convolution and of the projection.
        projection: whether the input passes through a 1x1 convolution before it is added.
        model_config: `batch_norm_momentum` is used.
        frozen: whether the BatchNorm statistics stay as they were loaded.
    """
    inner, outer = channels
    shortcut = features
    if projection:
        shortcut = _convolution(features, f"{name}_branch1", outer, 1, stride, model_config, frozen)
    features = _convolution(features, f"{name}_branch2a", inner, 1, stride, model_config, frozen)
    features = layers.ReLU(name=f"{name}_branch2a_relu")(features)
    features = _convolution(features, f"{name}_branch2b", inner, 3, 1, model_config, frozen)
    features = layers.ReLU(name=f"{name}_branch2b_relu")(features)
    features = _convolution(features, f"{name}_branch2c", outer, 1, 1, model_config, frozen)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=name)([shortcut, features]))


def _convolution(
    features: keras.KerasTensor,
    name: str,
    channels: int,
    kernel_size: int,
    stride: int,
    model_config: ModelConfig,
    frozen: bool,
) -> keras.KerasTensor:
    """Builds a convolution with BatchNorm. With a stride, it expects features that are padded as in Caffe."""
    features = layers.Conv2D(
        channels,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=gaussian(),
        name=name,
    )(features)
    return batch_normalization(f"{name}_bn", model_config.batch_norm_momentum, frozen)(features)


def block_names(stage: int) -> list[str]:
    """Returns the names of the blocks of a stage, 2..5: res2a, res2b, res2c; res3a, res3b1, res3b2, ..."""
    blocks = STAGES[stage - 2][0]
    suffixes = "abc"[:blocks] if blocks <= 3 else ["a", *(f"b{i}" for i in range(1, blocks))]
    return [f"res{stage}{suffix}" for suffix in suffixes]
