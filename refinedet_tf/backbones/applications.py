"""Adapter from keras.applications to the four levels of RefineDet."""

import dataclasses
from collections.abc import Callable

import keras
from keras import layers

from refinedet_tf.backbones.adaptation import adapted
from refinedet_tf.batch_norm import batch_normalization
from refinedet_tf.config import ModelConfig
from refinedet_tf.layers import L2Normalize, ScaleToUnitRange, SubtractMean, caffe_xavier

SOURCE_SCALE = 2.0
"""Initial norm of a source's feature vectors, near that of conv5_3 in the paper."""

STRIDES = (8, 16, 32)
"""Of the levels that the networks have; stride 64 is added."""

PROBE_SIZE = 256
"""Image side at which grids tell strides: a multiple of them all."""


def normalize_imagenet() -> layers.Layer:
    """RGB 0..255 to ImageNet's mean 0 and standard deviation 1 of each colour, in float32."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return layers.Rescaling(
        scale=[1 / (255 * d) for d in deviation],
        offset=[-m / d for m, d in zip(mean, deviation, strict=True)],
        dtype="float32",
        name="preprocessing",
    )


def _subtract_mean(config):
    return SubtractMean(config.channel_order, name="preprocessing")


def _unit_range(config):
    return ScaleToUnitRange(name="preprocessing")


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of keras.applications.

    Attributes:
        constructor: its name there.
        file: what Keras calls its ImageNet weights without the classifier.
        preprocessing: config -> the layer from RGB 0..255 to what those weights were trained on.
        options: of the constructor.
    """

    constructor: str
    file: str
    preprocessing: Callable[[ModelConfig], layers.Layer]
    options: dict = dataclasses.field(default_factory=dict)


# EfficientNetV2 and ConvNeXt would preprocess by themselves; the same arithmetic in a layer of ours
# stays float32 where the network computes in bfloat16.
APPLICATIONS = {
    # Keras' own means are 103.939, 116.779, 123.68. These are those of VGG-16 and ResNet-101 here,
    # and of the colour that the augmentation fills with.
    "resnet50": Application(
        "ResNet50", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", _subtract_mean
    ),
    "inception_v3": Application(
        "InceptionV3", "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", _unit_range
    ),
    "inception_resnet_v2": Application(
        "InceptionResNetV2", "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5", _unit_range
    ),
    "mobilenet_v2": Application(
        "MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", _unit_range
    ),
    "efficientnet_v2_s": Application(
        "EfficientNetV2S",
        "efficientnetv2-s_notop.h5",
        lambda config: layers.Rescaling(1 / 128, -1.0, dtype="float32", name="preprocessing"),
        {"include_preprocessing": False},
    ),
    "convnext_tiny": Application(
        "ConvNeXtTiny",
        "convnext_tiny_notop.h5",
        lambda config: normalize_imagenet(),
        {"include_preprocessing": False},
    ),
}
"""By the name in `model.backbone`."""


def application(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """A network of keras.applications, followed by one more stage of stride 64.

    Its layers are those of Keras, whose weights fit; what changes is said in `adapted`. Its levels
    are found by `find_levels`. The whole network is one layer, called after the backbone.

    Args:
        images: Keras tensor [B, H, W, 3], RGB 0..255; H and W may be None.
        model_config: `backbone` is a key of `APPLICATIONS`.

    Returns:
        Four Keras tensors [B, ceil(H / stride), ceil(W / stride), C] of strides 8, 16, 32, 64, each
        after an L2 normalisation (`with_stride_64`).
    """
    trunk, _ = adapted(make_application(model_config), model_config)
    outputs = [operation.output for operation in find_levels(trunk)]
    trunk = keras.Model(trunk.input, outputs, name=model_config.backbone)
    features = APPLICATIONS[model_config.backbone].preprocessing(model_config)(images)
    return with_stride_64(trunk(features), model_config)


def make_application(model_config: ModelConfig, weights: str | None = None) -> keras.Model:
    """The network as Keras makes it, for images of any size, without its classifier.

    Args:
        model_config: `backbone` is a key of `APPLICATIONS`; `width_multiplier` is used by MobileNetV2.
        weights: None, random; or what keras.applications takes: "imagenet" or a file. Whatever Keras
            raises then comes through.
    """
    known = APPLICATIONS[model_config.backbone]
    options = dict(known.options)
    if model_config.backbone == "mobilenet_v2":
        options["alpha"] = model_config.width_multiplier
    constructor = getattr(keras.applications, known.constructor)
    return constructor(include_top=False, input_shape=(None, None, 3), weights=weights, **options)


def find_levels(network: keras.Model) -> list[keras.Operation]:
    """The layers of a network whose outputs are the levels of strides 8, 16 and 32.

    Of each stride the last layer that all paths to the network's end go through: all that was
    computed at that stride, as the next stride-2 layers see it. So no single branch of a block and
    nothing that a shortcut goes around can be a level.

    Args:
        network: a functional model with one input and one output, where an image of `PROBE_SIZE`
            has maps of sides `PROBE_SIZE` / stride.

    Raises:
        ValueError: the network has no such layer of one of the strides.
    """
    waists = _waists(network)
    maps = keras.Model(network.input, [operation.output for operation in waists])
    shapes = maps.compute_output_shape((1, PROBE_SIZE, PROBE_SIZE, 3))
    last = {PROBE_SIZE // shape[1]: operation for operation, shape in zip(waists, shapes, strict=True)}
    if missing := [stride for stride in STRIDES if stride not in last]:
        raise ValueError(f"{network.name} has no level of stride {missing[0]}")
    return [last[stride] for stride in STRIDES]


def with_stride_64(sources, config: ModelConfig):
    """The levels of strides 8, 16 and 32 and one more behind them, each behind an L2 normalisation.

    The normalisation is that of VGG-16's first levels: heads on hundreds of channels of unbounded
    size would diverge at the usual learning rates.
    """
    sources = [*sources, _stride_64(sources[-1], config)]
    return [
        L2Normalize(SOURCE_SCALE, name=f"source{level}_norm")(source)
        for level, source in enumerate(sources, 3)
    ]


def _waists(network):
    """The operations that every path from the network's input to its output goes through, in order."""
    operations = network.operations
    position = {id(operation.output): index for index, operation in enumerate(operations)}
    farthest = [0] * len(operations)
    for index, operation in enumerate(operations[1:], 1):
        for tensor in keras.tree.flatten(operation.input):
            farthest[position[id(tensor)]] = index
    waists, reached = [], 0
    for index, operation in enumerate(operations):
        # Operations are sorted: a path around this one would have to jump from before it to behind.
        if reached <= index:
            waists.append(operation)
        reached = max(reached, farthest[index])
    return waists


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
