"""ImageNet weights of keras.applications as the start of training."""

from pathlib import Path

import keras

from refinedet_tf.backbones.adaptation import adapted, copy_weights
from refinedet_tf.backbones.applications import APPLICATIONS, make_application
from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError

MOBILENET_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""Of MobileNetV2, those that Keras has ImageNet weights for."""


def is_keras_file(weights: str | None) -> bool:
    """Whether `model.weights` names what keras.applications itself can read.

    That is "imagenet", or an `.h5` file that is no `.weights.h5` (those are whole RefineDets).
    """
    if weights is None:
        return False
    return weights == "imagenet" or (weights.endswith(".h5") and not weights.endswith(".weights.h5"))


def load_application_weights(model: keras.Model, model_config: ModelConfig) -> list[str]:
    """Fills the backbone of a RefineDet whose backbone is a network of keras.applications.

    Args:
        model: of `build_model` with the same `model_config`.
        model_config: `weights` is "imagenet", which Keras downloads, or the path of Keras' own file.

    Returns:
        The names of the layers that were filled: the backbone, which is one layer.

    Raises:
        InputError: the weights cannot be downloaded, or their file is missing or another network's.
    """
    network, pairs = adapted(_with_weights(model_config), model_config)
    copy_weights(pairs)
    values = {variable.path: variable for variable in network.weights}
    trunk = model.get_layer(model_config.backbone)
    for variable in trunk.weights:
        variable.assign(values[variable.path])
    return [trunk.name]


def _with_weights(model_config: ModelConfig) -> keras.Model:
    weights, file = model_config.weights, APPLICATIONS[model_config.backbone].file
    is_mobilenet = model_config.backbone == "mobilenet_v2"
    if is_mobilenet and weights == "imagenet" and model_config.width_multiplier not in MOBILENET_WIDTHS:
        raise InputError(
            f"model.width_multiplier {model_config.width_multiplier:g}: there are ImageNet weights for "
            f"{', '.join(f'{width:g}' for width in MOBILENET_WIDTHS)} only"
        )
    if weights != "imagenet" and not Path(weights).is_file():
        raise InputError(f"model.weights not found: {weights}; take {file}, or null for random weights")
    try:
        return make_application(model_config, weights)
    except Exception as error:
        # Keras raises whatever its download or file code meets: any of it means no weights.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"model.weights {weights}: {reason}; give the path of {file}, or null for random weights"
        ) from None
