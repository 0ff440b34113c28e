"""EfficientNet-Lite0, -Lite1 and -Lite2, TensorFlow's EfficientNets for phones and for int8.

They are those of Tan and Le (ICML 2019) without squeeze-and-excitation, and with ReLU6 in the place of
swish. The layers have the names of the PyTorch checkpoints of their ImageNet weights
(refinedet_tf/weights/lite_packages.py), with underscores.
"""

import math
from typing import NamedTuple

import keras
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.backbones.adaptation import he_depthwise
from refinedet_tf.refinedet.backbones.applications import as_backbone
from refinedet_tf.refinedet.batch_norm import batch_normalization


class Stage(NamedTuple):
    """A stage of Lite0: `repeats` inverted residual blocks, of which the first has the stride."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""The stages of Lite0. The first convolution and the repeats of the first and the last stage are those of all
networks of the family."""


class Scaling(NamedTuple):
    """How a network of the family differs from Lite0: the factors on channels and on repeats."""

    width: float
    depth: float


SCALINGS = {
    "efficientnet_lite0": Scaling(1.0, 1.0),
    "efficientnet_lite1": Scaling(1.0, 1.1),
    "efficientnet_lite2": Scaling(1.1, 1.2),
}
"""The networks by their names in `model.backbone`."""

STEM_CHANNELS = 32
CHANNEL_DIVISOR = 8
"""The number of channels of a block's output is a multiple of it."""

EPSILON = 1e-3
"""The epsilon of the BatchNorm layers."""


def efficientnet_lite(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds a network of the family, followed by one more stage of stride 64.

    Args:
        images: [B, H, W, 3], RGB 0..255; H and W may be None.
        model_config: `backbone` is a key of `SCALINGS`.

    Returns:
        The feature maps that `as_backbone` describes.
    """
    # (x - 127) / 128
    preprocessing = layers.Rescaling(1 / 128, -127 / 128, dtype="float32", name="preprocessing")
    return as_backbone(_network(model_config), preprocessing(images), model_config)


def scaled_channels(channels: int, width: float) -> int:
    """Returns the multiple of 8 nearest to `channels` x `width`; the next one, if it loses more than 10 %."""
    scaled = channels * width
    rounded = max(CHANNEL_DIVISOR, int(scaled + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR)
    return rounded + CHANNEL_DIVISOR if rounded < 0.9 * scaled else rounded


def _network(model_config: ModelConfig) -> keras.Model:
    """Makes a network without its classifier, which begins with a 1x1 convolution to 1280 channels."""
    scaling = SCALINGS[model_config.backbone]
    inputs = keras.Input((None, None, 3))
    features = _convolution(inputs, STEM_CHANNELS, "conv_stem", kernel_size=3, stride=2)
    features = _norm(features, model_config, "bn0", "stem_relu")
    number = 0
    for index, stage in enumerate(STAGES):
        is_scaled = 0 < index < len(STAGES) - 1
        repeats = math.ceil(stage.repeats * scaling.depth) if is_scaled else stage.repeats
        channels = scaled_channels(stage.channels, scaling.width)
        for repeat in range(repeats):
            stride = stage.stride if repeat == 0 else 1
            features = _block(features, model_config, f"blocks_{number}", stage, channels, stride)
            number += 1
    return keras.Model(inputs, features)


def _block(
    inputs: keras.KerasTensor, model_config: ModelConfig, name: str, stage: Stage, channels: int, stride: int
) -> keras.KerasTensor:
    """Builds an inverted residual block: expansion, depthwise convolution, linear projection, shortcut."""
    features = inputs
    if stage.expansion > 1:
        features = _convolution(features, stage.expansion * inputs.shape[-1], f"{name}_expand_conv")
        features = _norm(features, model_config, f"{name}_bn0", f"{name}_expand_relu")
    features = layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=he_depthwise((stage.kernel_size, stage.kernel_size)),
        name=f"{name}_depthwise_conv",
    )(features)
    features = _norm(features, model_config, f"{name}_bn1", f"{name}_depthwise_relu")
    features = _convolution(features, channels, f"{name}_project_conv")
    features = _norm(features, model_config, f"{name}_bn2")
    if stride == 1 and inputs.shape[-1] == channels:
        features = layers.Add(name=f"{name}_add")([features, inputs])
    return features


def _convolution(
    features: keras.KerasTensor, channels: int, name: str, kernel_size: int = 1, stride: int = 1
) -> keras.KerasTensor:
    """Applies a convolution without a bias, since a BatchNorm follows."""
    convolution = layers.Conv2D(
        channels,
        kernel_size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )
    return convolution(features)


def _norm(
    features: keras.KerasTensor, model_config: ModelConfig, name: str, relu: str | None = None
) -> keras.KerasTensor:
    """Applies BatchNorm, and then ReLU6 if it is given a name."""
    frozen = model_config.batch_norm_statistics != "moving"
    norm = batch_normalization(name, model_config.batch_norm_momentum, frozen, epsilon=EPSILON)
    return norm(features) if relu is None else layers.ReLU(6.0, name=relu)(norm(features))
