"""The network for inference: BatchNorm folded into convolutions, one convolution for the heads of a level."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from refinedet_tf.config import Config
from refinedet_tf.refinedet.layers import TransferConnectionBlock
from refinedet_tf.refinedet.network import RefineDet

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Conv2DTranspose, layers.SeparableConv2D)
"""The layers into which a BatchNorm is folded."""

HEADS = ("loc", "conf")
"""The heads of a level of a module, in the order of the values of an anchor in the joined convolution."""


def inference_model(model: keras.Model) -> keras.Model:
    """Makes the network that is exported: `fold_batch_norm` and `join_heads` of a network.

    Args:
        model: the network, as `build_model` makes it. It is not changed. The heads of a network of another
            origin are not joined.

    Returns:
        A functional model, for inference only, with the inputs and outputs of `model`; it gives the same
        heads up to rounding.
    """
    folded = fold_batch_norm(model)
    return join_heads(folded, model.config) if isinstance(model, RefineDet) else folded


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Copies a network with its BatchNorm layers folded into the convolutions before them.

    A convolution that only a BatchNorm follows becomes a convolution with a bias and other kernels, also
    within nested functional models and transfer connection blocks. Other BatchNorm layers stay: those
    that follow no convolution, an activation, or a convolution that is also used elsewhere.
    The kernels are computed in float64, and have the type in which their layers compute: without training,
    a network in bfloat16 needs no float32 kernels, which each call would have to round.

    Args:
        model: a functional model. It is not changed.

    Returns:
        The copy, for inference only.
    """
    folded = dict(_foldable(model))
    convolutions = set(folded.values())
    copies: list[tuple[layers.Layer, layers.Layer]] = []

    def clone(layer: layers.Layer) -> layers.Layer:
        if layer in folded:
            # `call` passes its input on to the next layer.
            return layers.Identity(name=layer.name)
        changes: dict[str, Any] = {}
        if layer in convolutions:
            changes["use_bias"] = True
        elif isinstance(layer, TransferConnectionBlock):
            changes["batch_norm"] = False
        if isinstance(layer, (*CONVOLUTIONS, layers.Dense, TransferConnectionBlock)):
            changes["dtype"] = layer.compute_dtype
        copy = type(layer).from_config({**layer.get_config(), **changes})
        if isinstance(layer, layers.Layer):  # A sum of tensors, as ConvNeXt has it, is none.
            copies.append((layer, copy))
        return copy

    def call(layer: layers.Layer, *inputs: Any, **arguments: Any) -> Any:
        return inputs[0] if isinstance(layer, layers.Identity) else layer(*inputs, **arguments)

    copied = keras.models.clone_model(model, clone_function=clone, call_function=call, recursive=True)
    norms = {convolution: norm for norm, convolution in folded.items()}
    for layer, copy in copies:
        if layer in norms:
            copy.set_weights(_folded_weights(layer, norms[layer]))
        elif isinstance(layer, TransferConnectionBlock):
            _fill_block(layer, copy)
        else:
            copy.set_weights(layer.get_weights())
    return copied


def join_heads(model: keras.Model, config: Config) -> keras.Model:
    """Replaces the two convolutions of a module's heads on each level by one.

    The values of an anchor are adjacent in the joined convolution, its 4 offsets before its C + 1 logits. So
    the levels are joined once per module, and then split into the two heads.

    Args:
        model: the network, as `build_model` or `fold_batch_norm` makes it. It is changed no more than
            that its layers are also those of the result.
        config: `model` and the number of classes are used.
    """
    outputs = {}
    for module in ("arm", "odm"):
        if f"{module}_loc" not in model.output:
            continue
        joined = []
        sizes = [4, 1 + (1 if module == "arm" else config.num_classes)]
        for level in config.model.anchor_levels:
            heads = [model.get_layer(f"{module}_{head}{level.number}") for head in HEADS]
            settings = {**heads[0].get_config(), "name": f"{module}_heads{level.number}"}
            head = layers.Conv2D.from_config({**settings, "filters": level.per_cell * sum(sizes)})
            anchors = layers.Reshape((-1, sum(sizes)), name=f"{module}_heads{level.number}_anchors")
            joined.append(anchors(head(heads[0].input)))
            head.set_weights(_joined_weights([head.get_weights() for head in heads], level.per_cell))
        values = layers.Concatenate(axis=1, name=f"{module}_levels")(joined)
        values = layers.Activation("linear", dtype="float32", name=f"{module}_values")(values)
        outputs[f"{module}_loc"] = values[..., : sizes[0]]
        outputs[f"{module}_conf"] = values[..., sizes[0] :]
    return keras.Model(model.input, outputs, name=model.name)


def _foldable(model: keras.Model) -> list[tuple[layers.BatchNormalization, layers.Layer]]:
    """Returns the BatchNorm layers that can be folded, each with the convolution before it."""
    # Keras has no public list of the calls of a layer.
    calls = {operation: operation._inbound_nodes for operation in model.operations}
    uses = Counter(id(tensor) for tensor in keras.tree.flatten(model.output))
    uses.update(id(tensor) for nodes in calls.values() for node in nodes for tensor in node.input_tensors)
    sources = {id(operation.output): operation for operation, nodes in calls.items() if len(nodes) == 1}
    pairs = []
    for operation, nodes in calls.items():
        if isinstance(operation, keras.Model) and hasattr(operation, "operations"):
            pairs += _foldable(operation)
        elif isinstance(operation, layers.BatchNormalization) and len(nodes) == 1:
            source, channels_axis = sources.get(id(operation.input)), len(operation.input.shape) - 1
            if (
                isinstance(source, CONVOLUTIONS)
                and source.activation is keras.activations.linear
                and uses[id(operation.input)] == 1
                and operation.axis in (-1, channels_axis)
            ):
                pairs.append((operation, source))
    return pairs


def _folded_weights(convolution: layers.Layer, norm: layers.BatchNormalization) -> list[np.ndarray]:
    """Returns the weights of a convolution with bias that does what the two layers do in inference."""
    *kernels, bias = [np.asarray(weight, np.float64) for weight in convolution.get_weights()] + (
        [] if convolution.use_bias else [np.zeros(())]
    )
    mean, variance = (np.asarray(value, np.float64) for value in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = (bias - mean) * scale
    if norm.beta is not None:
        shift = shift + np.asarray(norm.beta, np.float64)
    # The last kernel makes the output: a separable convolution has two, of which the second is pointwise.
    kernel = kernels[-1]
    if isinstance(convolution, layers.DepthwiseConv2D):
        # The kernel is [height, width, channels, multiplier], and the output has channels x multiplier.
        kernels[-1] = kernel * scale.reshape(kernel.shape[2:])
    elif isinstance(convolution, layers.Conv2DTranspose):
        # The kernel is [height, width, output channels, input channels].
        kernels[-1] = kernel * scale[:, None]
    else:
        kernels[-1] = kernel * scale
    return [weight.astype(np.float32) for weight in (*kernels, shift)]


def _fill_block(block: TransferConnectionBlock, copy: TransferConnectionBlock) -> None:
    """Gives a transfer connection block without BatchNorm the weights of one with BatchNorm, folded."""
    for name, norm_name in (
        ("first", "first_norm"),
        ("second", "second_norm"),
        ("upsampling", "upsampling_norm"),
        ("output_convolution", "output_norm"),
    ):
        convolution, norm = getattr(block, name), getattr(block, norm_name)
        if convolution.built:  # The deepest block has nothing to upsample.
            weights = convolution.get_weights() if norm is None else _folded_weights(convolution, norm)
            getattr(copy, name).set_weights(weights)


def _joined_weights(heads: Sequence[list[np.ndarray]], per_cell: int) -> list[np.ndarray]:
    """Returns kernel and bias of one convolution for those of several, with the values of an anchor adjacent.

    Args:
        heads: kernels [3, 3, channels, anchors of a cell x values] and biases.
        per_cell: the number of anchors of a cell.
    """
    joined = []
    for weights in zip(*heads, strict=True):
        by_anchor = [weight.reshape(*weight.shape[:-1], per_cell, -1) for weight in weights]
        values = np.concatenate(by_anchor, axis=-1)
        joined.append(values.reshape(*values.shape[:-2], -1))
    return joined
