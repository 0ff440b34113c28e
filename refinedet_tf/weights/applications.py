"""ImageNet weights of keras.applications as the initial weights of a training."""

import keras
import numpy as np

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError, first_line, shortened_text
from refinedet_tf.files import is_file
from refinedet_tf.refinedet.backbones.adaptation import adapted, copy_weights
from refinedet_tf.refinedet.backbones.applications import APPLICATIONS, make_application
from refinedet_tf.weights.values import check_values

MOBILENET_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""The width multipliers of MobileNetV2 for which Keras has ImageNet weights."""


def is_keras_file(weights: str | None) -> bool:
    """Says whether keras.applications can read the weights that `model.weights` names.

    These are "imagenet" and `.h5` files other than `.weights.h5`, which hold a whole RefineDet.
    """
    if weights is None:
        return False
    return weights == "imagenet" or (weights.endswith(".h5") and not weights.endswith(".weights.h5"))


def load_application_weights(model: keras.Model, model_config: ModelConfig) -> list[str]:
    """Fills the backbone of a RefineDet whose backbone is a network of keras.applications.

    Args:
        model: the result of `build_model` with the same `model_config`.
        model_config: its `weights` are "imagenet", which Keras downloads, or the path of Keras' file.

    Returns:
        The names of the layers that were filled. There is one, because the backbone is one layer.

    Raises:
        InputError: the weights cannot be downloaded, or their file is missing, damaged or of another
            network. The model is unchanged.
    """
    if model_config.weights is None:
        raise InputError("model.weights is null, which names no weights to load")
    network, pairs = adapted(_with_weights(model_config, model_config.weights), model_config)
    copy_weights(pairs)
    values = {variable.path: np.asarray(variable) for variable in network.weights}
    trunk = model.get_layer(model_config.backbone)
    for variable in trunk.weights:
        check_values(model_config.weights, variable.path, variable, values[variable.path])
    for variable in trunk.weights:
        variable.assign(values[variable.path])
    return [trunk.name]


def _with_weights(model_config: ModelConfig, weights: str) -> keras.Model:
    """Makes the network of keras.applications with its ImageNet weights."""
    file = APPLICATIONS[model_config.backbone].file
    is_mobilenet = model_config.backbone == "mobilenet_v2"
    if is_mobilenet and weights == "imagenet" and model_config.width_multiplier not in MOBILENET_WIDTHS:
        raise InputError(
            f"model.width_multiplier {model_config.width_multiplier:g}: there are ImageNet weights for "
            f"{', '.join(f'{width:g}' for width in MOBILENET_WIDTHS)} only"
        )
    if weights != "imagenet" and not is_file(weights):
        raise InputError(
            f"model.weights not found: {shortened_text(weights)}; take {file}, or null for random weights"
        )
    try:
        return make_application(model_config, weights)
    except Exception as error:
        # Keras passes on any error of its download and file code, and each means that weights are missing.
        reason = first_line(error)
        raise InputError(
            f"model.weights {shortened_text(weights)}: {reason}; "
            f"give the path of {file}, or null for random weights"
        ) from None
