"""Backbones made of the networks of keras.applications."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.backbones.adaptation import adapted
from refinedet_tf.refinedet.batch_norm import batch_normalization
from refinedet_tf.refinedet.layers import L2Normalize, ScaleToUnitRange, SubtractMean, caffe_xavier

SOURCE_SCALE = 2.0
"""The initial norm of the feature vectors of a level, near that of conv5_3 in the paper."""

STRIDES = (4, 8, 16, 32)
"""The strides of the levels that the networks have; stride 64 is added, and stride 4 left out by default."""

PROBE_SIZE = 256
"""The image side at which the sides of the feature maps tell their strides; a multiple of all strides."""


def normalize_imagenet() -> layers.Layer:
    """Makes a layer that scales RGB 0..255 to mean 0 and standard deviation 1 over ImageNet, in float32."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return layers.Rescaling(
        scale=[1 / (255 * d) for d in deviation],
        offset=[-m / d for m, d in zip(mean, deviation, strict=True)],
        dtype="float32",
        name="preprocessing",
    )


def _subtract_mean(model_config: ModelConfig) -> layers.Layer:
    return SubtractMean(model_config.channel_order, name="preprocessing")


def _unit_range(model_config: ModelConfig) -> layers.Layer:
    return ScaleToUnitRange(name="preprocessing")


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of keras.applications.

    Attributes:
        constructor: the name of its function there.
        file: the name of Keras' file of its ImageNet weights without the classifier.
        preprocessing: makes the layer that turns RGB 0..255 into the input of those weights.
        options: further arguments of the constructor.
    """

    constructor: str
    file: str
    preprocessing: Callable[[ModelConfig], layers.Layer]
    options: dict[str, bool] = dataclasses.field(default_factory=dict)


# EfficientNetV2 and ConvNeXt have layers for preprocessing. The layers here do the same arithmetic, and
# stay float32 when the network computes in bfloat16.
APPLICATIONS = {
    # The means in Keras are 103.939, 116.779 and 123.68. The means here are those of VGG-16 and
    # ResNet-101, and the fill colour of the augmentation.
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
        lambda model_config: layers.Rescaling(1 / 128, -1.0, dtype="float32", name="preprocessing"),
        {"include_preprocessing": False},
    ),
    "convnext_tiny": Application(
        "ConvNeXtTiny",
        "convnext_tiny_notop.h5",
        lambda model_config: normalize_imagenet(),
        {"include_preprocessing": False},
    ),
}
"""The networks by their names in `model.backbone`."""


def application(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds a network of keras.applications, followed by one more stage of stride 64.

    Keras' weights fit its layers; `adapted` says how they differ from Keras'.

    Args:
        images: [B, H, W, 3], RGB 0..255; H and W may be None.
        model_config: `backbone` is a key of `APPLICATIONS`.

    Returns:
        The feature maps that `as_backbone` describes.
    """
    trunk, _ = adapted(make_application(model_config), model_config)
    preprocessing = APPLICATIONS[model_config.backbone].preprocessing(model_config)
    return as_backbone(trunk, preprocessing(images), model_config)


def as_backbone(
    network: keras.Model, inputs: keras.KerasTensor, model_config: ModelConfig
) -> list[keras.KerasTensor]:
    """Makes a backbone of a network, followed by one more stage of stride 64.

    The network becomes one layer, which has the name of the backbone. `find_levels` finds its levels.

    Args:
        network: a result of `adapted`.
        inputs: [B, H, W, 3], its input after the preprocessing.
        model_config: `backbone` is the name of the network; the fields that `with_stride_64` uses.

    Returns:
        Feature maps [B, ceil(H / stride), ceil(W / stride), C] of strides 8, 16, 32 and 64, after that of
        stride 4 if it is wanted, each after an L2 normalisation (`with_stride_64`).
    """
    strides = STRIDES if model_config.has_stride_4 else STRIDES[1:]
    outputs = [operation.output for operation in find_levels(network, strides)]
    trunk = keras.Model(network.input, outputs, name=model_config.backbone)
    return with_stride_64(trunk(inputs), model_config)


def make_application(model_config: ModelConfig, weights: str | None = None) -> keras.Model:
    """Makes a network of keras.applications for images of any size, without its classifier.

    Args:
        model_config: `backbone` is a key of `APPLICATIONS`; MobileNetV2 uses `width_multiplier`.
        weights: None for random weights, "imagenet", or the path of Keras' file.

    Raises:
        Exception: any error of Keras' download or file reading.
    """
    known = APPLICATIONS[model_config.backbone]
    options: dict[str, bool | float] = dict(known.options)
    if model_config.backbone == "mobilenet_v2":
        options["alpha"] = model_config.width_multiplier
    constructor = getattr(keras.applications, known.constructor)
    return constructor(include_top=False, input_shape=(None, None, 3), weights=weights, **options)


def find_levels(network: keras.Model, strides: Sequence[int] = STRIDES[1:]) -> list[keras.Operation]:
    """Finds the layers of a network whose outputs are the levels of strides 8, 16 and 32, or of others.

    The level of a stride is the last layer of that stride through which all paths to the network's
    end lead. It holds everything that was computed at that stride, as the next stride-2 layers see
    it. So neither a single branch of a block nor a layer that a shortcut bypasses can be a level.

    Args:
        network: a functional model with one input and one output. For an image of side `PROBE_SIZE`,
            its feature maps have the sides `PROBE_SIZE` / stride.
        strides: the strides of the levels, some of `STRIDES`.

    Raises:
        ValueError: the network has no such layer of one of the strides.
    """
    bottlenecks = _operations_on_every_path(network)
    maps = keras.Model(network.input, [operation.output for operation in bottlenecks])
    shapes = maps.compute_output_shape((1, PROBE_SIZE, PROBE_SIZE, 3))
    last = {PROBE_SIZE // shape[1]: operation for operation, shape in zip(bottlenecks, shapes, strict=True)}
    if missing := [stride for stride in strides if stride not in last]:
        raise ValueError(f"{network.name} has no level of stride {missing[0]}")
    return [last[stride] for stride in strides]


def with_stride_64(
    sources: Sequence[keras.KerasTensor], model_config: ModelConfig
) -> list[keras.KerasTensor]:
    """Adds a level of stride 64 to those up to stride 32, and an L2 normalisation to each level.

    The normalisation is that of VGG-16's first levels. Without it, heads on hundreds of channels of
    unbounded size would diverge at the usual learning rates.
    """
    sources = [*sources, _stride_64(sources[-1], model_config)]
    # The last level is level 6, of stride 64.
    return [
        L2Normalize(SOURCE_SCALE, name=f"source{level}_norm")(source)
        for level, source in enumerate(sources, 7 - len(sources))
    ]


def _operations_on_every_path(network: keras.Model) -> list[keras.Operation]:
    """Returns the operations through which every path from the input to the output leads, in order."""
    operations = network.operations
    position = {id(operation.output): index for index, operation in enumerate(operations)}
    farthest = [0] * len(operations)
    for index, operation in enumerate(operations[1:], 1):
        for tensor in keras.tree.flatten(operation.input):
            farthest[position[id(tensor)]] = index
    found, reached = [], 0
    for index, operation in enumerate(operations):
        # Operations are sorted, so a path that bypasses this one connects an earlier to a later operation.
        if reached <= index:
            found.append(operation)
        reached = max(reached, farthest[index])
    return found


def _stride_64(features: keras.KerasTensor, model_config: ModelConfig) -> keras.KerasTensor:
    """Adds 1x1 and stride-2 3x3 convolutions with the channels of VGG-16's conv6, each with BatchNorm."""
    momentum, frozen = model_config.batch_norm_momentum, model_config.batch_norm_statistics == "frozen"
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
