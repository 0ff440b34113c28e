"""The values of a network: random ones, their comparison, and what a refused file leaves of them."""

import numpy as np
from refusals import message_of

from refinedet_tf.weights import load_weights


def filled(model, seed=1, scale=1.0):
    """The network with random values of at most `scale` in every variable, none of which is 0."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(scale * generator.uniform(0.1, 1, variable.shape))
    return model


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
