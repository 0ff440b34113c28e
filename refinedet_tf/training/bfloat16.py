"""bfloat16 on processors: which layers of a training are computed in it, and where it does not pay."""

from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""The names that Linux gives to instructions for bfloat16, the last of them on ARM."""

DENSE = (layers.Conv2D, layers.Conv2DTranspose, layers.Dense)
"""The convolutions and products over all channels; a depthwise convolution is none of these classes."""

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux lists what a processor can do."""


def keep_light_layers_wide(network: keras.Model) -> None:
    """Lets a network of depthwise convolutions compute in bfloat16 only where a processor gains by it.

    That are the dense convolutions. In bfloat16 the gradients of depthwise convolutions take several times as
    long as in float32, and the layers between the convolutions gain nothing. They become float32, which also
    saves the casts between them. A GPU gains by everything that is narrow, and networks without depthwise
    convolutions stay as they are.

    Args:
        network: the result of `build_model`, before its training step is traced; of layers in another
            precision than bfloat16, nothing changes.
    """
    all_layers = list(network._flatten_layers(include_self=False))
    has_depthwise = any(isinstance(layer, layers.DepthwiseConv2D) for layer in all_layers)
    if not has_depthwise or tf.config.list_logical_devices("GPU"):
        return
    for layer in all_layers:
        stays = isinstance(layer, DENSE) or any(layer._flatten_layers(include_self=False))
        if layer.compute_dtype == "bfloat16" and not stays:
            layer.dtype_policy = "float32"


def lacks_instructions() -> bool:
    """Says whether the network computes on a processor that is known to have none for bfloat16."""
    if tf.config.list_logical_devices("GPU"):
        return False
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return not INSTRUCTIONS & set(text.split())
