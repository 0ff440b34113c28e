"""The network for inference compared with the network, with random statistics of BatchNorm."""

import keras
import numpy as np
import pytest
from config_of import config_of
from keras import layers

from refinedet_tf.exports import graphs
from refinedet_tf.exports.folding import fold_batch_norm, inference_model
from refinedet_tf.exports.graphs import DetectionGraphs, in_bfloat16
from refinedet_tf.refinedet.backbones.resnext101 import GroupedConvolution
from refinedet_tf.refinedet.batch_norm import batch_normalization
from refinedet_tf.refinedet.layers import TransferConnectionBlock
from refinedet_tf.refinedet.network import build_model

CONVOLUTIONS = {
    "plain": lambda: layers.Conv2D(6, 3, padding="same", use_bias=False),
    "bias, stride": lambda: layers.Conv2D(6, 3, strides=2, bias_initializer="normal"),
    "dilation": lambda: layers.Conv2D(6, 3, padding="same", dilation_rate=2, use_bias=False),
    "groups": lambda: GroupedConvolution(6, 3, groups=2, use_bias=False),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", use_bias=False),
    "depthwise, multiplier": lambda: layers.DepthwiseConv2D(3, depth_multiplier=3, bias_initializer="normal"),
    "transposed": lambda: layers.Conv2DTranspose(6, 2, strides=2, use_bias=False),
    "separable": lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2, use_bias=False),
}
"""Makers of convolutions of 4 channels."""

TOLERANCE = 1e-5
"""The largest difference in units of the largest value."""


def randomize(model):
    """Gives all BatchNorm layers statistics that matter: also variances near the epsilon."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        name = variable.path.rsplit("/", 1)[1]
        if name == "moving_variance":
            variable.assign(10 ** rng.uniform(-2.5, 0.5, variable.shape))
        elif name in ("moving_mean", "beta"):
            variable.assign(rng.normal(0, 1, variable.shape))
        elif name == "gamma":
            variable.assign(rng.uniform(0.5, 2, variable.shape) * rng.choice([-1, 1], variable.shape))
    return model


def features_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def error(model, other, *inputs):
    """The largest difference of the outputs, in units of the largest value of each output."""
    inputs = inputs[0] if len(inputs) == 1 else list(inputs)
    expected, actual = (keras.tree.flatten(network(inputs, training=False)) for network in (model, other))
    assert len(expected) == len(actual)
    errors = []
    for value, other_value in zip(expected, actual, strict=True):
        assert value.shape == other_value.shape and value.dtype == other_value.dtype
        value, other_value = (np.asarray(array, np.float64) for array in (value, other_value))
        errors.append(np.abs(value - other_value).max() / np.abs(value).max())
    return max(errors)


def layers_of(model, kind):
    nested = (layers_of(layer, kind) if isinstance(layer, keras.Model) else [layer] for layer in model.layers)
    return [layer for inner in nested for layer in inner if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in CONVOLUTIONS),
        *(("plain", options) for options in ({"scale": False}, {"center": False})),
        ("plain", {"scale": False, "center": False}),
    ],
)
def test_each_kind_of_convolution_and_norm(name, options):
    images = keras.Input((9, 7, 4))
    norm = batch_normalization("norm", 0.9, epsilon=0.01, **options)
    model = randomize(keras.Model(images, norm(CONVOLUTIONS[name]()(images))))
    folded = fold_batch_norm(model)
    assert not layers_of(folded, layers.BatchNormalization) and len(folded.layers) == 2
    assert error(model, folded, features_of(2, 9, 7, 4)) < TOLERANCE


def test_what_cannot_be_folded_stays():
    images = keras.Input((9, 7, 4))
    first = batch_normalization("first", 0.9)(images)
    active = layers.Conv2D(4, 3, padding="same", activation="relu", name="active")(first)
    active = batch_normalization("after_activation", 0.9)(active)
    twice = layers.Conv2D(4, 3, padding="same", name="twice")(active)
    added = layers.Add()([batch_normalization("of_two_uses", 0.9)(twice), twice])
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    once = batch_normalization("of_a_shared_layer", 0.9)(shared(shared(added)))
    output = layers.Conv2D(4, 3, padding="same", name="output")(once)
    model = keras.Model(images, [output, batch_normalization("of_an_output", 0.9)(output)])
    randomize(model)
    copy = fold_batch_norm(model)
    assert len(layers_of(copy, layers.BatchNormalization)) == 5
    assert not set(map(id, model.variables)) & set(map(id, copy.variables))
    assert error(model, copy, features_of(2, 9, 7, 4)) == 0


def test_an_operation_that_is_no_layer():
    """The sum of two tensors, which ConvNeXt has."""
    images = keras.Input((9, 7, 4))
    folded = batch_normalization("folded", 0.9)(layers.Conv2D(4, 3, padding="same", use_bias=False)(images))
    model = randomize(keras.Model(images, folded + images))
    copy = fold_batch_norm(model)
    assert not layers_of(copy, layers.BatchNormalization)
    assert error(model, copy, features_of(2, 9, 7, 4)) < TOLERANCE


def test_nested_models():
    inner = keras.Input((None, None, 4))
    features = batch_normalization("inner", 0.9)(layers.Conv2D(5, 3, use_bias=False)(inner))
    trunk = keras.Model(inner, [features, layers.ReLU()(features)], name="trunk")
    images = keras.Input((None, None, 4))
    first, second = trunk(images)
    second = batch_normalization("outer", 0.9)(layers.Conv2D(5, 1)(second))
    model = randomize(keras.Model(images, layers.Add()([first, second])))
    folded = fold_batch_norm(model)
    assert [layer.name for layer in folded.layers if isinstance(layer, keras.Model)] == ["trunk"]
    assert not layers_of(folded, layers.BatchNormalization)
    assert error(model, folded, features_of(1, 9, 7, 4)) < TOLERANCE


def test_transfer_connection_blocks():
    upper, lower = keras.Input((5, 7, 4)), keras.Input((3, 4, 6))
    deepest = TransferConnectionBlock(4, 8, batch_norm=True, name="tcb4")(lower)
    # The upsampled map has 6 x 8 cells, which are cut to 5 x 7.
    output = TransferConnectionBlock(3, 8, batch_norm=True, name="tcb3")(upper, deepest)
    model = keras.Model([upper, lower], output)
    randomize(model)
    folded = fold_batch_norm(model)
    assert not any(block.batch_norm for block in layers_of(folded, TransferConnectionBlock))
    shapes = (2, 5, 7, 4), (2, 3, 4, 6)
    assert error(model, folded, *(features_of(*shape) for shape in shapes)) < TOLERANCE


def network_of(**model):
    config = config_of(
        ("a", "b", "c"),
        model={"backbone": "mobilenet_v2", "image_size": (64, 64), "tcb_channels": 16} | model,
    )
    keras.utils.set_random_seed(0)
    return randomize(build_model(config)), config


@pytest.mark.parametrize("design", ["refinedet", "single_stage"])
def test_the_whole_network(small_network, design):
    model, _ = network_of(design=design, tcb_batch_norm=True)
    inference = inference_model(model)
    assert not layers_of(inference, layers.BatchNormalization)
    modules = ("arm", "odm") if design == "refinedet" else ("odm",)
    names = {layer.name for layer in layers_of(inference, layers.Conv2D)}
    assert names == {f"level{level}" for level in (3, 4, 5, 6)} | {
        f"{module}_heads{level}" for module in modules for level in (3, 4, 5, 6)
    }
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    assert list(model(images)) == list(inference(images))
    assert error(model, inference, images) < TOLERANCE


def test_the_precision_stays_and_kernels_have_it(bfloat16, small_network):
    model, config = network_of()
    narrow = in_bfloat16(model, config)
    folded = inference_model(narrow)
    assert {folded.get_layer(name).compute_dtype for name in ("level4", "tcb3", "odm_heads3")} == {"bfloat16"}
    # Each call would have to round kernels of another type.
    types = {variable.path: variable.dtype for variable in folded.variables}
    assert {path for path, dtype in types.items() if dtype == "float32"} == {"level3_l2/scale"}
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    frozen = DetectionGraphs(narrow, config, kernel_dtype="bfloat16")
    assert not frozen.variables
    for value, other in zip(frozen.heads(images).values(), folded(images).values(), strict=True):
        # A graph fuses operations, which rounds less often.
        np.testing.assert_allclose(value, other, atol=0.03 * np.abs(other).max())


def test_large_networks_keep_variables(small_network, monkeypatch):
    model, config = network_of()
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    small = DetectionGraphs(model, config)
    monkeypatch.setattr(graphs, "LARGEST_CONSTANTS", 1000)
    large = DetectionGraphs(model, config)
    assert not small.variables and len(large.variables) > 40
    for value, other in zip(small.heads(images).values(), large.heads(images).values(), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)
