"""The values of a network: random ones, their comparison, and what a refused file leaves of them."""

import numpy as np
from refusals import message_of

from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.weights import load_weights


def filled(model, seed=1, scale=1.0):
    """The network with random values of at most `scale` in every variable, none of which is 0."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(scale * generator.uniform(0.1, 1, variable.shape))
    return model


def assert_heads(heads, image_size, num_classes, batch=1):
    """Asserts that heads are finite float32 values, one row per anchor of an image of that size."""
    widths = {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": num_classes + 1}
    assert heads.keys() == widths.keys()
    for name, width in widths.items():
        head = np.asarray(heads[name])
        assert head.shape == (batch, len(tile_anchors(image_size)), width) and head.dtype == np.float32
        assert np.isfinite(head).all(), name


def values(model):
    return {variable.path: np.array(variable) for variable in model.weights}


def assert_values(model, expected):
    """Asserts that a network has the values of another one, or of what `values` returned."""
    expected = expected if isinstance(expected, dict) else values(expected)
    found = values(model)
    assert found.keys() == expected.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def refusal(model, file, load=load_weights):
    """The line with which a file is refused, which names it; the network must not have changed."""
    before = values(model)
    message = message_of(load, model, file)
    assert_values(model, before)
    assert str(file) in message
    return message
