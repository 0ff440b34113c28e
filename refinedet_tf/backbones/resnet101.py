"""ResNet-101 in the authors' topology, with res6 added and a bottleneck block before the heads.

The paper names the network only; the authors' program defines the rest: the stride sits in the first
1x1 of a stage, the first pooling is not padded at the start, convolutions have no bias, and res6 is
one more bottleneck. Layer names are those of that program, a BatchNorm's is its convolution's and _bn.
"""

from keras import layers

from refinedet_tf.batch_norm import batch_normalization
from refinedet_tf.config import ModelConfig
from refinedet_tf.layers import SubtractMean, gaussian

STAGES = ((3, 64), (4, 128), (23, 256), (3, 512))
"""Bottlenecks of res2 to res5, and the channels of their 3x3 convolutions."""

EXPANSION = 4
"""A bottleneck's outputs per channel of its 3x3 convolution."""

RES6_CHANNELS = (128, 512)
HEAD_BLOCK_CHANNELS = (256, 1024)


def resnet101(images, config: ModelConfig):
    """res3b3, res4b22, res5c and res6: strides 8, 16, 32, 64."""
    frozen = config.batch_norm_statistics != "moving"
    features = SubtractMean(config.channel_order, name="preprocessing")(images)
    features = layers.ZeroPadding2D(3, name="conv1_padding")(features)
    features = _convolution(features, "conv1", 64, 7, 2, config, frozen)
    features = layers.ReLU(name="conv1_relu")(features)
    # Caffe rounds the size up: windows start at pixel 0 and may run over the far edge. What they find
    # there must not count, and a zero does not after a ReLU.
    features = layers.ZeroPadding2D(((0, 2), (0, 2)), name="pool1_padding")(features)
    features = layers.MaxPooling2D(3, strides=2, name="pool1")(features)
    stage_ends = []
    for stage, (_, channels) in enumerate(STAGES, 2):
        for index, name in enumerate(block_names(stage)):
            stride = 2 if index == 0 and stage > 2 else 1
            widths = (channels, EXPANSION * channels)
            features = bottleneck(features, name, widths, stride, index == 0, config, frozen)
        stage_ends.append(features)
    res6 = bottleneck(
        features, "res6", RES6_CHANNELS, 2, True, config, config.batch_norm_statistics == "frozen"
    )
    return [*stage_ends[1:], res6]


def head_block(features, name, config: ModelConfig):
    """The bottleneck block that the authors put before the heads of one level: [B, H, W, 1024]."""
    frozen = config.batch_norm_statistics == "frozen"
    return bottleneck(features, f"{name}_block", HEAD_BLOCK_CHANNELS, 1, True, config, frozen)


def bottleneck(features, name, channels, stride, projection, config: ModelConfig, frozen):
    """1x1 with the stride, 3x3, 1x1, each with BatchNorm; plus the input, or its projection; ReLU.

    Args:
        features: Keras tensor [B, H, W, C].
        name: of the block; its convolutions are called `NAME_branch1` (the projection),
            `NAME_branch2a`, `2b` and `2c`, as in the authors' program.
        channels: of the first two convolutions, and of the output.
        stride: of the first 1x1 and of the projection.
        projection: whether the input goes through a 1x1 convolution before it is added.
        config: `batch_norm_momentum` is used.
        frozen: the BatchNorm statistics stay as they are loaded.
    """
    inner, outer = channels
    shortcut = features
    if projection:
        shortcut = _convolution(features, f"{name}_branch1", outer, 1, stride, config, frozen)
    features = _convolution(features, f"{name}_branch2a", inner, 1, stride, config, frozen)
    features = layers.ReLU(name=f"{name}_branch2a_relu")(features)
    features = _convolution(features, f"{name}_branch2b", inner, 3, 1, config, frozen)
    features = layers.ReLU(name=f"{name}_branch2b_relu")(features)
    features = _convolution(features, f"{name}_branch2c", outer, 1, 1, config, frozen)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=name)([shortcut, features]))


def _convolution(features, name, channels, kernel_size, stride, config, frozen):
    """A convolution with BatchNorm. One with a stride gets its padding before, as Caffe pads."""
    features = layers.Conv2D(
        channels,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=gaussian(),
        name=name,
    )(features)
    return batch_normalization(f"{name}_bn", config.batch_norm_momentum, frozen)(features)


def block_names(stage):
    """The names of the blocks of stage 2..5: res2a, res2b, res2c; res3a, res3b1, res3b2, ..."""
    blocks = STAGES[stage - 2][0]
    suffixes = "abc"[:blocks] if blocks <= 3 else ["a", *(f"b{i}" for i in range(1, blocks))]
    return [f"res{stage}{suffix}" for suffix in suffixes]
