"""ImageNet classification weights as the initial weights of a training (paper, section 3.1).

Those of VGG-16 and ResNet-101, of all file formats, are first converted to blobs of the authors' program
(see `blobs`). They fill conv1_1 to fc7, or conv1 to res5c. The layers that RefineDet adds are unchanged.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError, first_line, shortened_text
from refinedet_tf.files import is_file
from refinedet_tf.refinedet.backbones.adaptation import adapted, copy_weights
from refinedet_tf.refinedet.backbones.applications import APPLICATIONS, make_application
from refinedet_tf.refinedet.backbones.resnet101 import block_names
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.weights.blobs import Blob, assign_blobs, blob_shape, variables_by_blob
from refinedet_tf.weights.values import assign_checked

MOBILENET_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""The width multipliers of MobileNetV2 for which Keras has ImageNet weights."""

KEPT_TAPS = slice(0, 7, 3)
"""The rows and columns 0, 3 and 6 of the 7x7 taps of VGG-16's fc6, which become a 3x3 dilated convolution."""

KEPT_CHANNELS = slice(0, None, 4)
"""Every fourth of the 4096 channels of fc6 and fc7."""

CLASSIFIERS = ("fc8", "fc1000")
"""The layers that only classification networks have."""

RESNET_BRANCHES = {"branch1": 0, "branch2a": 1, "branch2b": 2, "branch2c": 3}
"""Keras' numbers of the convolutions of a block."""


def is_keras_file(source: str) -> bool:
    """Says whether `model.weights` names weights of keras.applications.

    These are "imagenet" and `.h5` files other than `.weights.h5`, which hold a whole RefineDet.
    """
    return source == "imagenet" or (source.endswith(".h5") and not source.endswith(".weights.h5"))


def is_classifier(blobs: Mapping[Blob, np.ndarray]) -> bool:
    """Says whether the blobs belong to a classification network and not to a detector."""
    return not any("_mbox_" in layer for layer, _ in blobs)


def assign_imagenet(
    model: RefineDet,
    blobs: Mapping[Blob, np.ndarray],
    path: str | Path,
    names: Mapping[Blob, str] | None = None,
) -> list[str]:
    """Fills a backbone from the blobs of a classification network.

    If fc6 and fc7 are those of the original VGG-16, (4096, 25088) and (4096, 4096), they become
    convolutions by subsampling, as in the authors' initial weights. The last layer of the classifier
    is ignored. Arguments, result and errors are those of `assign_blobs`.
    """
    variables = variables_by_blob(model, path)
    shapes = {blob: blob_shape(variable) for blob, variable in variables.items()}
    wanted = {blob for blob, variable in variables.items() if model.part_of(variable.path) == "backbone"}
    kept = {
        blob: _as_convolution(blob, array, shapes[blob]) if blob in wanted else array
        for blob, array in blobs.items()
        if blob[0] not in CLASSIFIERS
    }
    return assign_blobs(model, kept, path, wanted, names)


def load_keras_imagenet(model: RefineDet, source: str) -> list[str]:
    """Fills the backbone of a VGG-16 or ResNet-101 RefineDet from Keras' ImageNet weights.

    Args:
        model: the network.
        source: "imagenet", which Keras downloads, or the path of Keras' file. For VGG-16 this is the
            file with the fully connected layers, vgg16_weights_tf_dim_ordering_tf_kernels.h5. For
            ResNet-101 it may have a classifier or not, as
            resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5.

    Returns:
        The names of the layers that were filled.

    Raises:
        InputError: the download fails, or the file is missing or of another network.
    """
    if model.config.model.backbone == "vgg16":
        with _explained(source, "vgg16_weights_tf_dim_ordering_tf_kernels.h5"):
            blobs = _vgg16_blobs(keras.applications.VGG16(weights=source))
    else:
        has_classifier = source != "imagenet" and "notop" not in Path(source).name
        with _explained(source, "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5"):
            network = keras.applications.ResNet101(weights=source, include_top=has_classifier)
            blobs = _resnet101_blobs(network)
    return assign_imagenet(model, blobs, source)


def load_application_weights(model: keras.Model, model_config: ModelConfig, source: str) -> list[str]:
    """Fills the backbone of a RefineDet, a network of `APPLICATIONS`, and returns its name as the only layer.

    The source is "imagenet", which Keras downloads, or the path of Keras' file.

    Raises:
        InputError: the weights cannot be downloaded, or their file is missing, damaged or of another
            network. The model is unchanged.
    """
    file, width = APPLICATIONS[model_config.backbone].file, model_config.width_multiplier
    is_mobilenet = model_config.backbone == "mobilenet_v2"
    if is_mobilenet and source == "imagenet" and width not in MOBILENET_WIDTHS:
        raise InputError(
            f"model.width_multiplier {width:g}: there are ImageNet weights for "
            f"{', '.join(f'{width:g}' for width in MOBILENET_WIDTHS)} only"
        )
    if source != "imagenet" and not is_file(source):
        raise InputError(
            f"model.weights not found: {shortened_text(source)}; take {file}, or null for random weights"
        )
    with _explained(source, file):
        application = make_application(model_config, source)
    network, pairs = adapted(application, model_config)
    copy_weights(pairs)
    values = {variable.path: np.asarray(variable) for variable in network.weights}
    trunk = model.get_layer(model_config.backbone)
    assign_checked(source, [(variable.path, variable, values[variable.path]) for variable in trunk.weights])
    return [trunk.name]


@contextlib.contextmanager
def _explained(source: str, file: str) -> Iterator[None]:
    """Turns the errors of Keras' download and file code, of any type, into one that names a file to give."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"model.weights {shortened_text(source)}: {reason}; "
            f"give the path of {file}, or null for random weights"
        ) from None


def _as_convolution(blob: Blob, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Converts a blob of the original fc6 or fc7 to a convolution of the shape; returns others unchanged."""
    layer, number = blob
    if layer not in ("fc6", "fc7") or array.size == math.prod(shape):
        return array
    outputs = 4 * shape[0]
    if number == 1:
        return array.reshape(-1)[KEPT_CHANNELS] if array.size == outputs else array
    if layer == "fc6" and array.size == outputs * shape[1] * 7 * 7:
        return array.reshape(outputs, shape[1], 7, 7)[KEPT_CHANNELS, :, KEPT_TAPS, KEPT_TAPS]
    if layer == "fc7" and array.size == outputs * 4 * shape[1]:
        return array.reshape(outputs, 4 * shape[1], 1, 1)[KEPT_CHANNELS, KEPT_CHANNELS]
    return array


def _vgg16_blobs(classifier: keras.Model) -> dict[Blob, np.ndarray]:
    """Returns the blobs of Keras' VGG-16."""
    blobs: dict[Blob, np.ndarray] = {}
    for layer in classifier.layers:
        if not layer.weights:
            continue
        kernel, bias = layer.get_weights()
        if match := re.fullmatch(r"block(\d)_conv(\d)", layer.name):
            name = f"conv{match[1]}_{match[2]}"
            kernel = _caffe_layout(kernel)
        else:
            name = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}[layer.name]
            if name == "fc6":
                # Keras flattens (row, column, channel), but Caffe (channel, row, column).
                kernel = kernel.reshape(7, 7, -1, kernel.shape[-1]).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, kernel.shape[-1]).T
        blobs |= {(name, 0): kernel, (name, 1): bias}
    return blobs


def _resnet101_blobs(classifier: keras.Model) -> dict[Blob, np.ndarray]:
    """Returns the blobs of Keras' ResNet-101."""
    pairs = {"conv1": "conv1"}
    for stage in (2, 3, 4, 5):
        for number, block in enumerate(block_names(stage), 1):
            for branch, index in RESNET_BRANCHES.items():
                if branch != "branch1" or number == 1:
                    pairs[f"{block}_{branch}"] = f"conv{stage}_block{number}_{index}"
    blobs: dict[Blob, np.ndarray] = {}
    for name, keras_name in pairs.items():
        kernel, bias = classifier.get_layer(f"{keras_name}_conv").get_weights()
        gamma, beta, mean, variance = classifier.get_layer(f"{keras_name}_bn").get_weights()
        suffix = name.removeprefix("res") if name != "conv1" else "_conv1"
        # Keras' convolutions have a bias, which is subtracted from the mean instead.
        statistics = {0: mean - bias, 1: variance, 2: np.ones(1, np.float32)}
        blobs[name, 0] = _caffe_layout(kernel)
        blobs |= {(f"bn{suffix}", number): array for number, array in statistics.items()}
        blobs |= {(f"scale{suffix}", 0): gamma, (f"scale{suffix}", 1): beta}
    return blobs


def _caffe_layout(kernel: np.ndarray) -> np.ndarray:
    """Transposes (height, width, in, out) to (out, in, height, width)."""
    return kernel.transpose(3, 2, 0, 1)
