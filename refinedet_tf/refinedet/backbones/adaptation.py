"""Copies networks of keras.applications so that they fit RefineDet and the original weights."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.batch_norm import BatchNormalization, batch_normalization
from refinedet_tf.tensors import Shape, Tensor


def adapted(
    network: keras.Model, model_config: ModelConfig
) -> tuple[keras.Model, list[tuple[keras.layers.Layer, keras.layers.Layer]]]:
    """Copies a network with these changes:

    - BatchNorm layers are those of this project, with the config's momentum, and frozen as configured;
    - every padding gives ceil(size / stride) cells for any size: "valid" becomes "same", and padding
      layers that fit only one parity of the size are replaced by "same", which pads equally much.
      Symmetric padding layers fit every size, and stay;
    - a convolution with one group per channel becomes a depthwise convolution. On CPUs Keras computes
      the former through XLA, whose gradient is many times slower;
    - there is no dropout. Here only EfficientNetV2 has it, on whole residual branches. The paper trains
      without dropout. A training step is then still a function of batch and weights that does not depend
      on the number of replicas, and a resumed run continues exactly;
    - convolutions use He's initialisation if they had Keras' default, which is meant for layers without
      ReLU;
    - layers without a name are numbered within the network and not within the process, and ConvNeXt's
      scales of residual branches have names, so that `variable.path` is the same in every process.

    Args:
        network: a network of keras.applications for images of any size (None, None, 3), without its
            classifier.
        model_config: `batch_norm_momentum` and `batch_norm_statistics` are used.

    Returns:
        The copy, and pairs of a layer and its copy for `copy_weights`.
    """
    names, padded = _stable_names(network), _padded(network)
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
    frozen = model_config.batch_norm_statistics != "moving"

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Sequential):
            return keras.Sequential([clone(inner) for inner in layer.layers], name=layer.name)
        name = names.get(id(layer), layer.name)
        if isinstance(layer, layers.BatchNormalization):
            copy = batch_normalization(
                name,
                model_config.batch_norm_momentum,
                frozen,
                epsilon=layer.epsilon,
                center=layer.center,
                scale=layer.scale,
                dtype=layer.dtype_policy,
            )
        elif isinstance(layer, layers.Dropout) or (
            isinstance(layer, layers.ZeroPadding2D) and not _is_symmetric(layer)
        ):
            # `call` passes its input on to the next layer.
            copy = layers.Identity(name=name)
        else:
            copy = _with_changes(layer, name, keeps_padding=id(layer) in padded)
        pairs.append((layer, copy))
        return copy

    def call(layer: keras.layers.Layer, *inputs: Any, **arguments: Any) -> Any:
        return inputs[0] if isinstance(layer, layers.Identity) else layer(*inputs, **arguments)

    return keras.models.clone_model(network, clone_function=clone, call_function=call), pairs


def copy_weights(pairs: Sequence[tuple[keras.layers.Layer, keras.layers.Layer]]) -> None:
    """Fills the copies that `adapted` made with the weights of the originals.

    Args:
        pairs: pairs of a layer and its copy, which `adapted` returned.
    """
    for layer, copy in pairs:
        if not getattr(layer, "weights", None):
            continue
        weights = layer.get_weights()
        if isinstance(copy, BatchNormalization):
            weights.append(copy.converged_weight)
        if isinstance(copy, layers.DepthwiseConv2D) and not isinstance(layer, layers.DepthwiseConv2D):
            weights[0] = np.swapaxes(weights[0], 2, 3)
        copy.set_weights(weights)


def _with_changes(layer: keras.layers.Layer, name: str, keeps_padding: bool) -> keras.layers.Layer:
    """Copies a layer other than BatchNorm with the changes that `adapted` describes."""
    kind, settings = type(layer), {**layer.get_config(), "name": name}
    if kind.__name__ == "LayerScale":
        return LayerScale(layer.init_values, name=name, dtype=layer.dtype_policy)
    if settings.get("padding") == "valid" and not keeps_padding:
        settings["padding"] = "same"
    if isinstance(layer, layers.DepthwiseConv2D):
        if isinstance(layer.depthwise_initializer, keras.initializers.GlorotUniform):
            settings["depthwise_initializer"] = he_depthwise(layer.kernel_size)
    elif isinstance(layer, layers.Conv2D):
        initializer = settings["kernel_initializer"]
        if isinstance(layer.kernel_initializer, keras.initializers.GlorotUniform):
            initializer = settings["kernel_initializer"] = "he_normal"
        if layer.groups > 1 and layer.groups == layer.filters == layer.input.shape[-1]:
            kind = layers.DepthwiseConv2D
            settings = {key: settings[key] for key in DEPTHWISE_SETTINGS}
            if initializer == "he_normal":
                initializer = he_depthwise(layer.kernel_size)
            settings["depthwise_initializer"] = initializer
    return kind.from_config(settings)


@keras.saving.register_keras_serializable("refinedet_tf")
class LayerScale(layers.Layer):
    """Multiplies each channel by a learned gamma, like Keras' layer inside ConvNeXt, which is not public.

    Args:
        initial_scale: the initial gamma of every channel.
        kwargs: arguments of Keras' layer.
    """

    def __init__(self, initial_scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape: Shape) -> None:
        initializer = keras.initializers.Constant(self.initial_scale)
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer)

    def call(self, features: Tensor) -> Tensor:
        return features * self.gamma

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_scale": self.initial_scale}


DEPTHWISE_SETTINGS = (
    ("name", "dtype", "trainable", "kernel_size", "strides", "padding", "dilation_rate", "activation")
    + ("data_format", "use_bias", "bias_initializer")
)  # fmt: skip
"""The settings that a depthwise convolution shares with a convolution with groups."""


def he_depthwise(kernel_size: tuple[int, int]) -> keras.initializers.Initializer:
    """Makes He's initializer for a depthwise kernel, whose fan-in is its number of taps, 9 for 3x3.

    Keras counts all channels and starts with values many times smaller. Before a BatchNorm such values
    get huge first updates, after which the weights are so large that they hardly learn.
    """
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / math.prod(kernel_size)))


def _is_symmetric(padding: layers.ZeroPadding2D) -> bool:
    """Says whether both ends of each axis get the same padding.

    The padding that Keras' networks choose for the parity of a size does not, nor does their default
    for unknown sizes, (0, 1).
    """
    return all(before == after for before, after in padding.padding)


def _padded(network: keras.Model) -> set[int]:
    """Returns the ids of the layers whose input comes from a symmetric padding layer."""
    outputs = {
        id(layer.output)
        for layer in network.layers
        if isinstance(layer, layers.ZeroPadding2D) and _is_symmetric(layer)
    }
    return {id(layer) for layer in network.layers if id(layer.input) in outputs}


def _stable_names(network: keras.Model) -> dict[int, str]:
    """Returns new names, by id, for the layers that Keras has named, as if this were its first network.

    Keras numbers layers through all networks of a process, so that the same network would otherwise
    have different names each time it is made.
    """
    numbered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for operation in network.operations:
        base, _, number = operation.name.rpartition("_")
        if not number.isdecimal():
            base, number = operation.name, "0"
        if base.replace("_", "") == type(operation).__name__.lower():
            numbered[base].append((int(number), id(operation)))
    return {
        identity: f"{base}_{rank}" if rank else base
        for base, members in numbered.items()
        for rank, (_, identity) in enumerate(sorted(members))
    }
