"""A copy of a keras.applications network that fits RefineDet and the weights of the original."""

import math
import re
from collections import defaultdict

import keras
import numpy as np
from keras import layers

from refinedet_tf.batch_norm import BatchNormalization, batch_normalization
from refinedet_tf.config import ModelConfig


def adapted(network: keras.Model, config: ModelConfig):
    """A copy of a network, with these changes:

    - BatchNorm layers are ours, with the config's momentum and frozen as configured;
    - every padding gives ceil(size / stride) cells, for any size: "valid" becomes "same", and padding
      layers that fit one parity of the size only are replaced by "same", which pads as much.
      Symmetric padding layers, which fit every size, stay;
    - a convolution with a group for each channel becomes a depthwise one. Keras computes the former
      through XLA on CPUs, its gradient many times slower;
    - no dropout, which here only EfficientNetV2 has, on whole residual branches. The paper trains
      without; a step stays a function of batch and weights, whatever the number of replicas, and
      resumes exactly;
    - convolutions start from He's values where the network does not say otherwise (Keras' default is
      made for layers without ReLU);
    - layers without a name are numbered from the network's first one, not from the process's, and
      ConvNeXt's scales of residual branches have a name: `variable.path` is the same in each process.

    Args:
        network: of keras.applications, made for images of any size (None, None, 3), without a top.
        config: `batch_norm_momentum` and `batch_norm_statistics` are used.

    Returns:
        The copy, and the pairs (layer, its copy) for `copy_weights`.
    """
    names, padded, pairs = _stable_names(network), _padded(network), []
    frozen = config.batch_norm_statistics != "moving"

    def clone(layer):
        if isinstance(layer, keras.Sequential):
            return keras.Sequential([clone(inner) for inner in layer.layers], name=layer.name)
        name = names.get(id(layer), layer.name)
        if isinstance(layer, layers.BatchNormalization):
            own = batch_normalization(
                name,
                config.batch_norm_momentum,
                frozen,
                epsilon=layer.epsilon,
                center=layer.center,
                scale=layer.scale,
                dtype=layer.dtype_policy,
            )
        elif isinstance(layer, layers.Dropout) or (
            isinstance(layer, layers.ZeroPadding2D) and not _is_symmetric(layer)
        ):
            # Not called: what comes in goes on to the next layer.
            own = layers.Identity(name=name)
        else:
            own = _with_changes(layer, name, keeps_padding=id(layer) in padded)
        pairs.append((layer, own))
        return own

    def call(layer, *inputs, **arguments):
        return inputs[0] if isinstance(layer, layers.Identity) else layer(*inputs, **arguments)

    return keras.models.clone_model(network, clone_function=clone, call_function=call), pairs


def copy_weights(pairs) -> None:
    """Fills the copies that `adapted` made with the weights of the originals."""
    for layer, own in pairs:
        if not getattr(layer, "weights", None):
            continue
        weights = layer.get_weights()
        if isinstance(own, BatchNormalization):
            weights.append(own.converged_weight)
        if isinstance(own, layers.DepthwiseConv2D) and not isinstance(layer, layers.DepthwiseConv2D):
            weights[0] = np.swapaxes(weights[0], 2, 3)
        own.set_weights(weights)


def _with_changes(layer, name, keeps_padding):
    kind, settings = type(layer), {**layer.get_config(), "name": name}
    if kind.__name__ == "LayerScale":
        return LayerScale(layer.init_values, name=name, dtype=layer.dtype_policy)
    if settings.get("padding") == "valid" and not keeps_padding:
        settings["padding"] = "same"
    if isinstance(layer, layers.DepthwiseConv2D):
        if isinstance(layer.depthwise_initializer, keras.initializers.GlorotUniform):
            settings["depthwise_initializer"] = _he_depthwise(layer.kernel_size)
    elif isinstance(layer, layers.Conv2D):
        initializer = settings["kernel_initializer"]
        if isinstance(layer.kernel_initializer, keras.initializers.GlorotUniform):
            initializer = settings["kernel_initializer"] = "he_normal"
        if layer.groups > 1 and layer.groups == layer.filters == layer.input.shape[-1]:
            kind = layers.DepthwiseConv2D
            settings = {key: settings[key] for key in DEPTHWISE_SETTINGS}
            if initializer == "he_normal":
                initializer = _he_depthwise(layer.kernel_size)
            settings["depthwise_initializer"] = initializer
    return kind.from_config(settings)


@keras.saving.register_keras_serializable("refinedet_tf")
class LayerScale(layers.Layer):
    """x * gamma, a learned gamma for each channel: Keras' layer inside ConvNeXt, which is not public.

    Args:
        initial_scale: of every channel.
    """

    def __init__(self, initial_scale, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape):
        initializer = keras.initializers.Constant(self.initial_scale)
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer)

    def call(self, features):
        return features * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial_scale": self.initial_scale}


DEPTHWISE_SETTINGS = (
    ("name", "dtype", "trainable", "kernel_size", "strides", "padding", "dilation_rate", "activation")
    + ("data_format", "use_bias", "bias_initializer")
)  # fmt: skip
"""What a depthwise convolution takes over from one with groups."""


def _he_depthwise(kernel_size):
    """He initialisation of a depthwise kernel, whose fan-in is its taps, 9 of 3x3.

    Keras counts all channels and starts many times smaller; behind BatchNorm that means huge first
    updates, after which the weights are so large that they hardly learn.
    """
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / math.prod(kernel_size)))


def _is_symmetric(padding):
    """Keras pads for the parity of a known size, and by (0, 1) if it knows none."""
    return all(before == after for before, after in padding.padding)


def _padded(network):
    """The ids of the layers whose input a symmetric padding layer has padded."""
    outputs = {
        id(layer.output)
        for layer in network.layers
        if isinstance(layer, layers.ZeroPadding2D) and _is_symmetric(layer)
    }
    return {id(layer) for layer in network.layers if id(layer.input) in outputs}


def _stable_names(network):
    """id -> name of the layers that Keras has named, as in a process that made no other network.

    Keras numbers them through all networks of a process, so that the same one would have other
    names each time.
    """
    numbered = defaultdict(list)
    for operation in network.operations:
        base, number = re.fullmatch(r"(.*?)(?:_(\d+))?", operation.name).groups()
        if base.replace("_", "") == type(operation).__name__.lower():
            numbered[base].append((int(number or 0), id(operation)))
    return {
        identity: f"{base}_{rank}" if rank else base
        for base, found in numbered.items()
        for rank, (_, identity) in enumerate(sorted(found))
    }
